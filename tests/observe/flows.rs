//! A row for each connection: its content, the connections that have one, and who may see it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ask::{HELD_BYTES, HELD_MESSAGES, all, flows, hold, only, sum};
use crate::common::{Arena, Tool, Traffic, json, text};

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

/// Each reason is found although nothing was recorded when the connection was refused.
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
    // A path that any user can reach.
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
