//! Queries to an instance: what it is and has done, why it does what it does, how it ends, and if it is running.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ask::{flows, hold};
use crate::common::{Arena, Process, Tool, ask, control_socket, json, text};

#[test]
fn the_status_says_what_runs_and_has_rates_from_the_second_call_on() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &["--ports", "1024-65535", "--exclude-ports", "5432"]);
    let status = json(&arena, &["status"]);
    let instance = &status["instance"];
    assert_eq!(instance["pid"], tool.pid());
    assert_eq!(instance["cgroups"][0], arena.cgroup().display().to_string());
    assert_eq!(instance["ports"], "1024-65535");
    assert_eq!(instance["exclude_ports"], "5432");
    assert_eq!(instance["admit"], "nonblocking");
    assert_eq!(instance["stopping"], false);
    assert!(status["since_last"].is_null());
    let hold = hold(&arena, &["--connections", "4"]);
    let since = json(&arena, &["status"])["since_last"].clone();
    assert!(since["seconds"].as_f64().expect("a number") > 0.0);
    assert!(
        since["counters"]["messages_redirected"]
            .as_u64()
            .expect("a number")
            > 400,
        "{since}"
    );
    let shown = text(&arena, &["status"]);
    for part in [
        "4 admitted",
        "ports 1024-65535 but 5432",
        "rates",
        "admitted_request_response  4",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    hold.finish();
    tool.stop();
}

#[test]
fn connections_of_a_port_or_a_process_are_explained() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let blocking = hold(&arena, &["--connections", "2", "--mode", "blocking"]);
    let told = text(&arena, &["explain", &format!("pid:{}", blocking.pid())]);
    for part in [
        "2 connections on TCP, refused_blocking: ",
        "traffic[",
        "--admit any",
        " listens on port ",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
    blocking.finish();
    let hold = hold(&arena, &["--connections", "3"]);
    let port = flows(&arena, &[])[0]["server"]["port"].to_string();
    let told = json(&arena, &["explain", &port]);
    assert_eq!(told["subject"], format!("port {port}"));
    assert_eq!(told["groups"][0]["reason"], "admitted_request_response");
    assert_eq!(told["groups"][0]["connections"], 3);
    hold.finish();
    let nothing = ask(&arena, &["explain", "port:1"]);
    let error = String::from_utf8_lossy(&nothing.stderr);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(error.lines().count() == 1 && error.contains("port 1"), "{error}");
    tool.stop();
}

#[test]
fn top_goes_on_until_it_is_stopped_or_the_instance_ends() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let hold = hold(&arena, &["--connections", "2"]);
    let top = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sockredir"));
        command
            .arg("top")
            .args(arguments)
            .arg("--cgroup")
            .arg(arena.cgroup());
        Process::start(command)
    };
    let mut told = top(&[]);
    told.wait_for_line("admitted", 2, Duration::from_secs(20));
    told.signal(libc::SIGINT);
    assert!(
        told.wait(Duration::from_secs(10)).success(),
        "{}",
        told.transcript()
    );

    let mut told = top(&["--json"]);
    let line = told.wait_for_line("{", 2, Duration::from_secs(20));
    let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(line["status"]["flows"]["admitted"], 2);
    assert_eq!(line["flows"].as_array().expect("flows").len(), 2);
    tool.stop();
    let status = told.wait(Duration::from_secs(20));
    assert_eq!(status.code(), Some(1), "{}", told.transcript());
    assert_eq!(told.stderr().len(), 1, "{}", told.transcript());
    hold.finish();
}

#[test]
fn without_an_instance_it_is_said_what_to_do() {
    let arena = Arena::new();
    let refused = |arena: &Arena| {
        for arguments in [&["status"][..], &["flows"], &["explain", "80"]] {
            let output = ask(arena, arguments);
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{error}");
            assert!(
                error.lines().count() == 1 && error.contains("sockredir run"),
                "{error}"
            );
        }
    };
    refused(&arena);
    // The remains of a killed instance do not count as one, and do not stop the next from starting.
    Tool::start(&arena, &[]).kill();
    refused(&arena);
    let tool = Tool::start(&arena, &[]);
    text(&arena, &["status"]);
    tool.stop();
    refused(&arena);
}

#[test]
fn askers_that_say_nothing_or_nonsense_keep_nobody_waiting() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let socket = control_socket(&arena);
    let silent: Vec<_> = (0..8)
        .map(|_| UnixStream::connect(&socket).expect("it answers"))
        .collect();
    let mut rude = UnixStream::connect(&socket).expect("it answers");
    rude.write_all(&[b'x'; 1000]).ok();
    let begin = Instant::now();
    text(&arena, &["status"]);
    assert!(begin.elapsed() < Duration::from_secs(5));
    drop((silent, rude));
    tool.end();
    assert!(
        fs::metadata(&socket).is_err(),
        "{} was left behind",
        socket.display()
    );
}
