//! The main job: what the cgroup's programs send to each other bypasses loopback, and nothing else changes.

mod common;

use common::{Arena, Tool, ToolReport, wait_until_gone};
use std::time::Duration;

const PAYLOAD: u64 = 2 * 2000 * 4096;

/// 2,000 echoes of 4 KiB under the tool: the bytes that loopback carried, and the tool's report.
fn echo(tool_arguments: &[&str], traffic_arguments: &[&str]) -> (u64, ToolReport) {
    let arena = Arena::new();
    let tool = Tool::start(&arena, tool_arguments);
    let before = arena.loopback_bytes();
    let mut arguments = vec!["echo", "--count", "2000", "--size", "4096"];
    arguments.extend(traffic_arguments);
    let report = arena.traffic(&arguments).finish();
    assert_eq!(report.value("payload_bytes"), PAYLOAD);
    let carried = arena.loopback_bytes() - before;
    let report = tool.end();
    (carried, report)
}

fn assert_bypassed((carried, report): (u64, ToolReport)) {
    assert!(
        carried < PAYLOAD / 50,
        "loopback carried {carried} bytes: {}",
        report.transcript
    );
    assert_eq!(
        report.counter("admitted_request_response"),
        1,
        "{}",
        report.transcript
    );
    assert!(
        report.counter("bytes_redirected") > PAYLOAD / 100 * 98,
        "{}",
        report.transcript
    );
}

fn assert_untouched((carried, report): (u64, ToolReport), reason: &str) {
    assert!(
        carried > PAYLOAD,
        "loopback carried only {carried} bytes: {}",
        report.transcript
    );
    assert_eq!(report.counter("bytes_redirected"), 0, "{}", report.transcript);
    assert_eq!(report.counter(reason), 1, "{}", report.transcript);
}

#[test]
fn non_blocking_programs_bypass_loopback_over_ipv4_ipv6_and_mapped_addresses() {
    for family in ["v4", "v6", "mapped"] {
        assert_bypassed(echo(&[], &["--family", family, "--mode", "nonblocking"]));
    }
}

/// Blocking calls on a mapped socket can return EAGAIN, so blocking programs stay on TCP unless the user opts in.
#[test]
fn blocking_programs_stay_on_tcp_and_the_reason_is_counted() {
    for family in ["v4", "v6", "mapped"] {
        assert_untouched(
            echo(&[], &["--family", family, "--mode", "blocking"]),
            "refused_blocking",
        );
    }
}

#[test]
fn blocking_programs_are_admitted_on_demand_and_what_that_means_is_said() {
    let (carried, report) = echo(&["--admit", "any"], &["--mode", "blocking"]);
    assert!(report.stdout[0].contains("EAGAIN"), "{}", report.transcript);
    assert_bypassed((carried, report));
}

#[test]
fn ports_choose_which_connections_are_accelerated() {
    assert_untouched(echo(&["--ports", "1-100"], &[]), "refused_port");
    assert_untouched(echo(&["--exclude-ports", "1024-65535"], &[]), "refused_port");
    assert_bypassed(echo(&["--ports", "1024-65535", "--exclude-ports", "1-1023"], &[]));
}

/// A server outside the tool's coverage: the client's end finds no peer and must not stay in the map, where it would be
/// slower than plain TCP.
#[test]
fn a_connection_with_one_end_outside_the_cgroup_leaves_the_map() {
    let arena = Arena::new();
    let inner = arena.subcgroup("inner");
    let tool = Tool::start_for(&arena, &inner, &[]);
    let listener = arena.in_namespace(|| std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap());
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut server, _) = listener.accept().unwrap();
        std::io::copy(&mut server.try_clone().unwrap(), &mut server).unwrap()
    });
    let client = common::Traffic::start(
        arena.command_in(&inner, common::Traffic::program()),
        &["dial", &address, "--count", "500", "--size", "1000"],
    );
    client.finish();
    assert_eq!(server.join().unwrap(), 500_000);
    let report = tool.stop();
    assert_eq!(report.counter("ends_inserted"), 1, "{}", report.transcript);
    assert_eq!(report.counter("tcp_only_no_mate"), 1, "{}", report.transcript);
    assert_eq!(report.counter("ends_left"), 1, "{}", report.transcript);
    assert!(
        report.counter("messages_observed") + report.counter("messages_tcp_only") < 20,
        "{}",
        report.transcript
    );
    assert_eq!(report.counter("bytes_redirected"), 0, "{}", report.transcript);
}

/// Below its flow limit the tool works as usual; above it, connections stay on TCP.
#[test]
fn flows_above_the_limit_stay_on_tcp() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &["--max-flows", "4"]);
    arena
        .traffic(&["echo", "--count", "200", "--size", "64", "--connections", "16"])
        .finish();
    let report = tool.stop();
    assert_eq!(report.counter("ends_inserted"), 8, "{}", report.transcript);
    assert_eq!(report.counter("refused_full"), 12, "{}", report.transcript);
}

#[test]
fn ready_says_what_is_covered_and_totals_end_the_output() {
    let arena = Arena::new();
    let report = Tool::start(&arena, &["--ports", "80,81,443", "--exclude-ports", "22"]).stop();
    assert!(report.status.success());
    let ready = &report.stdout[0];
    for part in [
        &arena.cgroup().display().to_string(),
        "80-81,443",
        "22",
        "loopback",
        "non-blocking",
        "--admit any",
    ] {
        assert!(ready.contains(part), "{part} is not in: {ready}");
    }
    assert_eq!(report.stdout[1..], ["totals"]);
    wait_until_gone(Duration::from_secs(10));
}

#[test]
fn counters_are_printed_at_the_interval() {
    let arena = Arena::new();
    let mut tool = Tool::start(&arena, &["--interval", "1"]);
    arena
        .traffic(&["echo", "--count", "100", "--size", "64"])
        .finish();
    tool.wait_for_line("last 1 s", 1);
    tool.wait_for_line("messages_redirected", 1);
    assert!(tool.stop().status.success());
}
