//! One instance takes over from another while connections are active: nobody notices, nothing is lost, and a new instance that
//! fails changes nothing.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{Arena, Tool, ToolReport, Traffic, ask, control_socket, json, patience, work};
use serde_json::Value;

fn status(arena: &Arena) -> Value {
    json(arena, &["status"])
}

fn admitted(status: &Value) -> u64 {
    status["flows"]["admitted"].as_u64().expect("a number of flows")
}

/// Accelerated connections that stay open.
fn hold(arena: &Arena, connections: &str) -> Traffic {
    let mut hold = arena.traffic(&["hold", "--connections", connections]);
    hold.wait_for_line("holding", 1);
    hold
}

/// Waits for an instance whose connections have ended to exit.
fn over(tool: Tool) -> ToolReport {
    let report = tool.wait();
    report.assert_success();
    report
}

#[test]
fn connections_stay_with_the_old_instance_and_new_ones_are_taken_by_the_new_one() {
    let arena = Arena::new();
    let mut old = Tool::start(&arena, &[]);
    let mut earlier = hold(&arena, "40");
    let new = Tool::start(&arena, &["--replace"]);
    let line = old.wait_for_line("handed over", 1);
    assert!(
        line.contains(&new.pid().to_string()) && line.contains("40 connections"),
        "{line}"
    );
    assert_eq!(status(&arena)["instance"]["pid"], new.pid());
    let mut later = hold(&arena, "30");
    assert_eq!(admitted(&status(&arena)), 30);

    // Each connection is accelerated by its own instance.
    let before = arena.loopback_bytes();
    earlier.send_line("");
    earlier.wait_for_line("echoed", 1);
    later.send_line("");
    later.wait_for_line("echoed", 1);
    let carried = arena.loopback_bytes() - before;
    let payload = 2 * 70 * 16 * 512;
    assert!(
        carried < payload / 4,
        "loopback carried {carried} bytes of {payload}"
    );

    assert!(old.is_running());
    earlier.finish();
    over(old).assert_above("messages_redirected", 40 * 2 * 16);
    later.finish();
    let report = new.stop();
    assert!(report.status.success(), "{}", report.transcript);
    assert_eq!(report.counter("refused_taken"), 0, "{}", report.transcript);
}

/// Runs a workload that compares every byte while one instance after another takes over.
fn follow_each_other(arguments: &[&str]) {
    let arena = Arena::new();
    let mut newest = Tool::start(&arena, &[]);
    let mut ended = Vec::new();
    let mut traffic = arena.traffic(arguments);
    while traffic.is_running() {
        let next = Tool::start(&arena, &["--replace"]);
        newest.wait_for_line("handed over", 1);
        ended.push(std::mem::replace(&mut newest, next));
        // Amid the connections begun under the previous one.
        thread::sleep(Duration::from_millis(700));
    }
    traffic.finish();
    assert!(!ended.is_empty(), "no instance was replaced");
    let redirected: u64 = ended
        .into_iter()
        .map(|tool| over(tool).counter("messages_redirected"))
        .sum();
    assert!(redirected > 1000, "{redirected}");
    newest.stop();
}

#[test]
fn no_byte_is_lost_while_instances_follow_each_other() {
    let bytes = work(8 << 30).to_string();
    follow_each_other(&["order", "--bytes", &bytes, "--connections", "128"]);
}

#[test]
fn threads_on_one_socket_notice_no_instance_that_follows_another() {
    follow_each_other(&[
        "soak",
        "--part",
        "crowd",
        "--connections",
        "2000",
        "--seconds",
        "10",
    ]);
}

#[test]
fn an_old_instance_that_is_stopped_drains_what_it_has() {
    let arena = Arena::new();
    let mut old = Tool::start(&arena, &[]);
    let mut hold = hold(&arena, "20");
    let new = Tool::start(&arena, &["--replace"]);
    old.wait_for_line("handed over", 1);
    let report = old.stop();
    assert!(report.status.success(), "{}", report.transcript);
    hold.send_line("");
    hold.wait_for_line("echoed", 1);
    hold.finish();
    new.stop();
}

#[test]
fn a_new_instance_that_fails_leaves_the_old_one_in_charge() {
    let arena = Arena::new();
    let taken = arena.in_namespace(|| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let address = taken.local_addr().expect("an address").to_string();
    let mut old = Tool::start(&arena, &["--metrics", "0"]);
    let scraped = old.wait_for_line("metrics: http://", 1);
    let scraped = scraped
        .trim_start_matches("metrics: http://")
        .trim_end_matches("/metrics");
    let pid = old.pid();
    let earlier = hold(&arena, "10");

    let failed = ask(&arena, &["run", "--replace", "--metrics", &address]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let error = String::from_utf8_lossy(&failed.stderr);
    assert!(error.contains(&address) && error.lines().count() == 1, "{error}");
    old.wait_for_line("process", 1);

    let later = hold(&arena, "10");
    let status = status(&arena);
    assert_eq!((&status["instance"]["pid"], admitted(&status)), (&pid.into(), 20));
    let mut answer = String::new();
    arena.in_namespace(|| {
        let mut client = std::net::TcpStream::connect(scraped).expect("no metrics any more");
        client
            .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
            .expect("no request");
        client.read_to_string(&mut answer).expect("no answer");
    });
    assert!(answer.contains("sockredir_"), "{answer}");
    earlier.finish();
    later.finish();
    let report = old.stop();
    assert!(report.status.success(), "{}", report.transcript);
}

/// `reload` returns once the new instance is ready, with the options that it was given.
#[test]
fn options_are_reloaded_without_touching_a_connection() {
    let arena = Arena::new();
    let mut old = Tool::start(&arena, &["--metrics", "0"]);
    let earlier = hold(&arena, "10");
    // The new instance inherits the streams of `reload` and outlives it.
    let mut command = arena.host_command(env!("CARGO_BIN_EXE_sockredir"));
    command.args(["reload", "--exclude-ports", "1-65535", "--cgroup"]);
    command
        .arg(arena.cgroup())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    assert!(command.status().expect("failed to run sockredir").success());
    let line = old.wait_for_line("handed over to process", 1);
    let later = hold(&arena, "10");
    let status = status(&arena);
    assert_eq!(status["instance"]["exclude_ports"], "1-65535");
    assert!(line.contains(&status["instance"]["pid"].to_string()), "{line}");
    assert_eq!(admitted(&status), 0);
    earlier.finish();
    later.finish();
    over(old);
}

#[test]
fn bad_options_are_told_by_reload_and_change_nothing() {
    let arena = Arena::new();
    let lonely = ask(&arena, &["reload"]);
    let error = String::from_utf8_lossy(&lonely.stderr).into_owned();
    assert_eq!(lonely.status.code(), Some(1), "{error}");
    assert!(error.contains("no sockredir runs on cgroup"), "{error}");

    let old = Tool::start(&arena, &[]);
    let wrong = ask(&arena, &["reload", "--ports", "0"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert_eq!(
        String::from_utf8_lossy(&wrong.stderr).lines().count(),
        1,
        "{wrong:?}"
    );
    assert_eq!(status(&arena)["instance"]["pid"], old.pid());
    old.stop();
}

#[test]
fn other_users_may_not_take_over() {
    let arena = Arena::new();
    let old = Tool::start(&arena, &[]);
    let socket = control_socket(&arena);
    let script = "
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b'replace\\n')
print(s.recv(4096).decode())";
    let mut asker = Command::new("python3");
    let output = asker
        .args(["-c", script])
        .arg(&socket)
        .uid(65534)
        .gid(65534)
        .output();
    let output = output.expect("failed to run python3");
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(answer.contains("only root"), "{output:?}");
    assert_eq!(status(&arena)["instance"]["pid"], old.pid());
    old.stop();
}

/// A takeover that stalls after its request fails once the old instance's patience is exhausted.
#[test]
fn one_that_asks_and_goes_away_changes_nothing() {
    let arena = Arena::new();
    let mut old = Tool::start(&arena, &[]);
    let socket = control_socket(&arena);
    let mut asker = UnixStream::connect(&socket).expect("no socket");
    asker
        .set_read_timeout(Some(patience(Duration::from_secs(10))))
        .expect("a time");
    asker.write_all(b"replace\n").expect("no question");
    let mut offer = [0; 4096];
    let length = asker.read(&mut offer).expect("no offer");
    assert!(
        String::from_utf8_lossy(&offer[..length]).contains("pid"),
        "{length}"
    );
    drop(asker);
    old.wait_for_line("process", 1);
    let hold = hold(&arena, "10");
    assert_eq!(admitted(&status(&arena)), 10);
    hold.finish();
    old.stop();
}
