//! Refused uploads: a server reads a part, answers, shuts down its sending side, and ends later without reading the rest.
//! The sender must get its error as on plain TCP, and no earlier.

mod common;

use std::collections::BTreeMap;

use common::{Arena, Tool, ToolReport, TrafficReport, patience, work};

/// More than any sender on plain TCP varies between runs with the same seed.
const LATER: std::time::Duration = std::time::Duration::from_secs(1);

/// Keeps scans out of this test.
const STILL: [&str; 2] = ["--adopt", "off"];

/// By connection: the error that the sender got, and the milliseconds since the end of its reader.
fn told(report: &TrafficReport) -> BTreeMap<u64, (i32, u64)> {
    let lines = report.stdout.iter().filter_map(|line| line.strip_prefix("told="));
    let told = |line: &str| {
        let mut words = line.split(' ');
        let mut next = || words.next().unwrap();
        (
            next().parse().unwrap(),
            (next().parse().unwrap(), next().parse().unwrap()),
        )
    };
    lines.map(told).collect()
}

fn refuse(arena: &Arena, count: u64, arguments: &[&str]) -> TrafficReport {
    let count = count.to_string();
    let usual = ["refuse", "--count", &count, "--seed", "1"];
    arena.traffic(&[&usual[..], arguments].concat()).finish()
}

/// Runs on plain TCP and under the tool: each sender gets the same error, at most a second later.
fn assert_told_as_on_tcp(count: u64, tool_arguments: &[&str], arguments: &[&str]) -> ToolReport {
    let plain = told(&refuse(&Arena::new(), count, arguments));
    assert_eq!(plain.len() as u64, count);
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[&STILL, tool_arguments].concat());
    let accelerated = told(&refuse(&arena, count, arguments));
    let report = tool.end();
    let most = patience(LATER).as_millis() as u64;
    let mut latest = 0;
    for (connection, (error, milliseconds)) in &plain {
        let (found, took) = accelerated[connection];
        assert_eq!(found, *error, "connection {connection}");
        let later = took.saturating_sub(*milliseconds);
        assert!(later <= most, "connection {connection} was told {later} ms later");
        latest = latest.max(later);
    }
    println!(
        "{arguments:?}: told at most {latest} ms later\n{}",
        report.transcript
    );
    assert_eq!(report.counter("events_dropped"), 0);
    report
}

/// By close, by a kill, by the close of another process that holds the socket, and by close after reading some more, at once
/// and up to five seconds after the shutdown; messages from a byte to a megabyte, waiting for room or just for the error.
#[test]
fn who_sends_to_a_reader_that_half_closes_and_ends_is_told_as_on_tcp() {
    // Each takes a process or two of its own.
    let count = work(work(400));
    let report = assert_told_as_on_tcp(count, &[], &[]);
    report.assert_above("resets_unread", count / 2);
    report.assert_above("messages_redirected", count);
}

#[test]
fn it_is_told_over_ipv6_too() {
    for family in ["v6", "mapped"] {
        let report = assert_told_as_on_tcp(work(200), &[], &["--family", family]);
        report.assert_above("resets_unread", work(50));
    }
}

/// Its thread sleeps in send.
#[test]
fn it_is_told_while_it_blocks() {
    let report = assert_told_as_on_tcp(work(200), &["--admit", "any"], &["--mode", "blocking"]);
    report.assert_above("resets_unread", work(50));
}

/// The usual end of a request: none of it may be lost, and its sender gets no error, no matter which end closes first.
#[test]
fn a_reader_that_half_closes_and_reads_on_gets_all() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &STILL);
    for ending in ["reads-on", "reads-all"] {
        refuse(&arena, work(500), &["--ending", ending]);
    }
    let report = tool.end();
    println!("{}", report.transcript);
    report.assert_above("messages_redirected", work(500));
    assert_eq!(report.counter("resets_unread"), 0);
}
