//! What an instance tells from another shell: `status`, `flows`, `explain`, and the log of its decisions.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::{Arena, Process, Tool, Traffic};
use serde_json::Value;

/// What `hold` sends before it says `holding`, in each direction of a connection.
const HELD_MESSAGES: u64 = 64;
const HELD_BYTES: u64 = HELD_MESSAGES * 512;

fn ask(arena: &Arena, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sockredir"));
    command.args(arguments).arg("--cgroup").arg(arena.cgroup());
    command.output().expect("failed to run sockredir")
}

fn text(arena: &Arena, arguments: &[&str]) -> String {
    let output = ask(arena, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{arguments:?}: {errors}"
    );
    String::from_utf8(output.stdout).expect("text")
}

fn json(arena: &Arena, arguments: &[&str]) -> Value {
    let text = text(arena, &[arguments, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn flows(arena: &Arena, filters: &[&str]) -> Vec<Value> {
    let mut arguments = vec!["flows"];
    for filter in filters {
        arguments.extend(["--filter", filter]);
    }
    let value = json(arena, &arguments);
    assert_eq!(value["format"], 1);
    value["flows"].as_array().expect("flows").clone()
}

/// Connections that have sent [`HELD_BYTES`] each way and stay open.
fn hold(arena: &Arena, arguments: &[&str]) -> Traffic {
    let mut hold = arena.traffic(&[&["hold"], arguments].concat());
    hold.wait_for_line("holding", 1);
    hold
}

fn sum(flows: &[Value], member: &[&str]) -> u64 {
    let value = |direction: &Value| {
        member
            .iter()
            .fold(direction, |value, name| &value[*name])
            .as_u64()
    };
    let directions = flows
        .iter()
        .flat_map(|flow| [&flow["to_server"], &flow["to_client"]]);
    directions
        .map(|direction| value(direction).expect("a number"))
        .sum()
}

/// The distinct values of a member.
fn all(flows: &[Value], pointer: &str) -> BTreeSet<String> {
    let value = |flow: &Value| flow.pointer(pointer).map_or("none".to_owned(), Value::to_string);
    flows
        .iter()
        .map(|flow| value(flow).trim_matches('"').to_owned())
        .collect()
}

fn only(value: &str) -> BTreeSet<String> {
    BTreeSet::from([value.to_owned()])
}

#[test]
fn flows_add_up_to_the_totals_and_to_what_was_sent() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let mut hold = hold(&arena, &["--connections", "50"]);
    hold.send_line("");
    hold.wait_for_line("echoed", 1);
    let flows = flows(&arena, &[]);
    let status = json(&arena, &["status"]);
    assert_eq!(flows.len(), 50);
    assert_eq!(all(&flows, "/state"), only("admitted"));
    assert_eq!(all(&flows, "/reason"), only("admitted_request_response"));
    let counter = |name: &str| status["counters"][name].as_u64().expect("a counter");
    assert_eq!(sum(&flows, &["redirected", "bytes"]), counter("bytes_redirected"));
    assert_eq!(
        sum(&flows, &["redirected", "messages"]),
        counter("messages_redirected")
    );
    assert_eq!(sum(&flows, &["tcp", "bytes"]), counter("bytes_tcp"));
    assert_eq!(sum(&flows, &["tcp_bytes_ever"]), counter("bytes_tcp"));
    let sent = 2 * 50 * (HELD_BYTES + 16 * 512);
    assert_eq!(counter("bytes_redirected") + counter("bytes_tcp"), sent);
    let messages = 2 * 50 * (HELD_MESSAGES + 16);
    assert_eq!(
        sum(&flows, &["redirected", "messages"]) + sum(&flows, &["tcp", "messages"]),
        messages
    );
    assert_eq!(sum(&flows, &["queue_bytes"]), 0);
    assert!(sum(&flows, &["queue_peak_bytes"]) >= 100 * 512);
    assert_eq!(status["flows"]["admitted"], 50);
    assert_eq!(status["maps"]["ends"]["used"], 100);
    hold.finish();
    tool.stop();
}

#[test]
fn both_ends_have_their_processes_and_the_one_that_listens_is_the_server() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let hold = hold(&arena, &["--connections", "2", "--family", "v6"]);
    for flow in flows(&arena, &[&format!("process={}", hold.pid())]) {
        for end in ["client", "server"] {
            assert_eq!(flow[end]["processes"][0]["name"], "traffic", "{flow}");
            assert_eq!(flow[end]["processes"][0]["pid"], hold.pid(), "{flow}");
            assert_eq!(flow[end]["address"], "::1");
            assert_eq!(flow[end]["blocking"], false);
        }
        let port = flow["server"]["port"].to_string();
        assert_eq!(flows(&arena, &[&format!("port={port}")]).len(), 2);
    }
    let table = text(&arena, &["flows"]);
    assert_eq!(table.matches("admitted_request_response").count(), 2, "{table}");
    assert!(!table.contains("NETNS"), "{table}");
    hold.finish();
    tool.stop();
}

/// Each reason is found although nothing was written down when the connection was refused.
#[test]
fn connections_that_are_not_followed_say_why() {
    let reasons = |arena: &Arena| all(&flows(arena, &["state=tcp-only"]), "/reason");
    for (options, traffic, reason) in [
        (&[][..], &["--mode", "blocking"][..], "refused_blocking"),
        (&["--exclude-ports", "1024-65535"], &[], "refused_port"),
        (&["--exclude-programs", "traffic"], &[], "refused_program"),
    ] {
        let arena = Arena::new();
        let tool = Tool::start(&arena, options);
        let hold = hold(&arena, &[&["--connections", "3"], traffic].concat());
        assert_eq!(reasons(&arena), only(reason));
        let flows = flows(&arena, &[]);
        assert_eq!(flows.len(), 3);
        assert_eq!(sum(&flows, &["tcp_bytes_ever"]), 2 * 3 * HELD_BYTES);
        hold.finish();
        tool.stop();
    }
    let arena = Arena::new();
    let hold = hold(&arena, &["--connections", "3"]);
    let tool = Tool::start(&arena, &[]);
    assert_eq!(
        reasons(&arena),
        only("not_followed"),
        "connections that are older than the tool"
    );
    hold.finish();
    tool.stop();
}

#[test]
fn flows_that_left_keep_their_reason() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &["--drain-timeout", "60"]);
    let server = arena.command_in(&arena.cgroup().join("../outside"), Traffic::program());
    let mut server = Traffic::start(server, &["serve"]);
    let address = server.wait_for_line("address=", 1);
    let address = address.trim_start_matches("address=").to_owned();
    let mut client = arena.traffic(&["dial", &address, "--count", "1000000", "--size", "100"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while all(&flows(&arena, &[]), "/reason") != only("tcp_only_no_mate") {
        assert!(
            Instant::now() < deadline && client.is_running(),
            "{:?}",
            flows(&arena, &[])
        );
    }
    let flow = flows(&arena, &[]).remove(0);
    assert_eq!(flow["state"], "tcp-only");
    assert!(
        flow["server"]["netns"].is_null() && flow["age_seconds"].is_number(),
        "{flow}"
    );
    client.signal(libc::SIGKILL);
    client.wait();
    server.signal(libc::SIGKILL);
    server.wait();
    tool.stop();
}

#[test]
fn flows_of_several_network_namespaces_are_told_apart() {
    let arena = Arena::new();
    let elsewhere = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let here = hold(&arena, &["--connections", "1"]);
    let program = elsewhere.command_in(arena.cgroup(), Traffic::program());
    let mut there = Traffic::start(program, &["hold", "--connections", "1"]);
    there.wait_for_line("holding", 1);
    let flows = flows(&arena, &[]);
    assert_eq!(all(&flows, "/client/netns").len(), 2, "{flows:?}");
    assert_eq!(all(&flows, "/client/netns"), all(&flows, "/server/netns"));
    assert_eq!(all(&flows, "/state"), only("admitted"));
    assert!(text(&arena, &["flows"]).contains("NETNS"));
    here.finish();
    there.finish();
    tool.stop();
}

#[test]
fn the_status_says_what_runs_and_has_rates_from_the_second_call_on() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &["--ports", "1024-65535", "--exclude-ports", "5432"]);
    let status = json(&arena, &["status"]);
    let instance = &status["instance"];
    assert_eq!(instance["pid"], tool.pid());
    assert_eq!(instance["cgroup"], arena.cgroup().display().to_string());
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
fn five_thousand_flows_are_told() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let hold = hold(
        &arena,
        &["--connections", "5000", "--deadline", "900", "--stall", "60"],
    );
    for arguments in [&["status"][..], &["flows"], &["flows", "--json"]] {
        let begin = Instant::now();
        let length = text(&arena, arguments).len();
        println!("{} in {:?}, {length} bytes", arguments.join(" "), begin.elapsed());
    }
    let flows = flows(&arena, &[]);
    assert_eq!(flows.len(), 5000);
    assert_eq!(
        sum(&flows, &["redirected", "bytes"]) + sum(&flows, &["tcp_bytes_ever"]),
        2 * 5000 * HELD_BYTES
    );
    hold.finish();
    tool.stop();
}

#[test]
fn others_than_root_see_flows_without_foreign_processes() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let hold = hold(&arena, &["--connections", "2"]);
    // Where anyone may go.
    let program = PathBuf::from(format!("/tmp/sockredir-observe-{}", std::process::id()));
    fs::copy(env!("CARGO_BIN_EXE_sockredir"), &program).expect("failed to copy the program");
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        "nobody",
        "--regid",
        "nogroup",
        "--clear-groups",
        "--bounding-set",
        "-all",
    ]);
    command
        .arg(&program)
        .args(["flows", "--json", "--cgroup"])
        .arg(arena.cgroup());
    let output = command.output();
    fs::remove_file(&program).expect("failed to remove the copy");
    let output = output.expect("setpriv is missing");
    let told: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let told = told["flows"].as_array().expect("flows").clone();
    assert_eq!(all(&told, "/state"), only("admitted"));
    assert_eq!(all(&told, "/client/processes"), only("[]"));
    assert_eq!(all(&flows(&arena, &[]), "/client/processes/0/uid"), only("0"));
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
    // What a killed one leaves behind is no instance, and does not keep the next one from starting.
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
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(arena.cgroup()).expect("the cgroup"));
    let socket = format!("/run/sockredir/{inode}.sock");
    let silent: Vec<_> = (0..8)
        .map(|_| UnixStream::connect(&socket).expect("it answers"))
        .collect();
    let mut rude = UnixStream::connect(&socket).expect("it answers");
    rude.write_all(&[b'x'; 1000]).ok();
    let begin = Instant::now();
    text(&arena, &["status"]);
    assert!(begin.elapsed() < Duration::from_secs(5));
    drop((silent, rude));
    let report = tool.stop();
    assert!(
        report.status.success() && report.stderr.is_empty(),
        "{}",
        report.transcript
    );
    assert!(fs::metadata(&socket).is_err(), "{socket} was left behind");
}

/// What `--metrics` answers.
fn scrape(address: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).expect("the metrics answer");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        .expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body.to_owned()
}

#[test]
fn metrics_are_what_the_status_tells() {
    let arena = Arena::new();
    let mut tool = Tool::start(&arena, &["--metrics", "0"]);
    let line = tool.wait_for_line("metrics: http://", 1);
    let address = line
        .trim_start_matches("metrics: http://")
        .trim_end_matches("/metrics")
        .to_owned();
    let hold = hold(&arena, &["--connections", "20"]);
    let status = json(&arena, &["status"]);
    let metrics = arena.in_namespace(|| scrape(&address));
    let metric = |name: &str| {
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{metrics}"))
            .parse::<f64>()
            .expect("a number")
    };
    let counter = |name: &str| status["counters"][name].as_f64().expect("a counter");
    assert_eq!(
        metric("sockredir_bytes_total{path=\"redirected\"}"),
        counter("bytes_redirected")
    );
    assert_eq!(
        metric("sockredir_bytes_total{path=\"tcp\"}"),
        counter("bytes_tcp")
    );
    assert_eq!(metric("sockredir_flows{state=\"admitted\"}"), 20.0);
    let admitted = "sockredir_flows_admitted_total{reason=\"admitted_request_response\"}";
    assert_eq!(metric(admitted), counter("admitted_request_response"));
    hold.finish();
    // A second instance cannot have the same address, and nothing of it stays.
    let other = arena.subcgroup("other");
    let mut second = arena.host_command(env!("CARGO_BIN_EXE_sockredir"));
    let second = second
        .args(["--metrics", &address, "--cgroup"])
        .arg(&other)
        .output()
        .expect("sockredir runs");
    let error = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(error.lines().count() == 1 && error.contains(&address), "{error}");
    tool.stop();
}

/// Each decision has a line, and its reason is the counter's name.
#[test]
fn decisions_are_logged() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &["--log-decisions"]);
    hold(&arena, &["--connections", "5"]).finish();
    hold(&arena, &["--connections", "2", "--mode", "blocking"]).finish();
    let open = hold(&arena, &["--connections", "3"]);
    let report = tool.stop();
    open.finish();
    let lines: Vec<Value> = report
        .stdout
        .iter()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for (decision, reason, count) in [
        ("admitted", "admitted_request_response", 8),
        ("refused", "refused_blocking", 2),
        ("draining", "drain_stopping", 3),
        ("drained", "drain_done", 3),
    ] {
        let told = lines
            .iter()
            .filter(|line| line["decision"] == decision && line["reason"] == reason);
        assert_eq!(told.count(), count, "{decision} {reason}: {}", report.transcript);
        assert_eq!(report.counter(reason), count as u64, "{}", report.transcript);
    }
    let left = lines.iter().filter(|line| line["decision"] == "left").count();
    assert_eq!(left as u64, report.counter("ends_left"), "{}", report.transcript);
    for line in &lines {
        let local = line["local"].as_str().expect("an address");
        assert!(
            local.starts_with("127.0.0.1:") && line["netns"].is_number(),
            "{line}"
        );
    }
}

#[test]
fn decisions_for_which_there_is_no_room_are_counted() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &["--log-decisions"]);
    hold(
        &arena,
        &["--connections", "2000", "--mode", "blocking", "--stall", "60"],
    )
    .finish();
    let report = tool.stop();
    let lines = report
        .stdout
        .iter()
        .filter(|line| line.starts_with('{') && line.contains("refused_"))
        .count() as u64;
    let told: u64 = report
        .stdout
        .iter()
        .filter_map(|line| {
            line.strip_prefix("{\"decisions_dropped\":")?
                .trim_end_matches('}')
                .parse::<u64>()
                .ok()
        })
        .sum();
    let decided = report.counter("refused_blocking") + report.counter("refused_unpaired");
    assert_eq!(told, report.counter("decisions_dropped"), "{}", report.transcript);
    assert_eq!(lines + told, decided, "{}", report.transcript);
}
