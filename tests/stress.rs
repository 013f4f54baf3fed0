//! The laws under load: order, bounds, wake-ups, and stops and kills in mid-traffic.

mod common;

use std::thread;
use std::time::Duration;

use common::{Arena, KernelLog, Tool, Traffic, TrafficReport, map_entries, wait_until_gone, work};

/// What a stopped reader leaves queued, on plain TCP or under the tool.
fn stopped(tool_arguments: Option<&[&str]>, traffic_arguments: &[&str]) -> TrafficReport {
    let arena = Arena::new();
    let tool = tool_arguments.map(|arguments| Tool::start(&arena, arguments));
    let connections = work(16).to_string();
    let mut arguments = vec!["stopped", "--connections", &connections];
    arguments.extend(traffic_arguments);
    let report = arena.traffic(&arguments).finish();
    if let Some(tool) = tool {
        let totals = tool.stop();
        totals.assert_above("messages_redirected", 0);
    }
    report
}

fn assert_bounded(tool_arguments: &[&str], traffic_arguments: &[&str]) {
    const RUNS: usize = 3;
    let plain = stopped(None, traffic_arguments);
    let most = 2 * plain.value("accepted_max");
    // What a program sends before anything is read must fit, as on TCP.
    let least = (plain.value("accepted_max") / 2).min(2 << 20);
    let most_slab = plain.value("slab_bytes_per_connection") + (2 << 20);
    // The kernel only has slab totals for the whole machine, so one run within bounds outweighs others beyond them.
    let within = (0..RUNS).any(|_| {
        let accelerated = stopped(Some(tool_arguments), traffic_arguments);
        for name in ["accepted_max", "messages_max", "slab_bytes_per_connection"] {
            let (plain, accelerated) = (plain.value(name), accelerated.value(name));
            println!("{traffic_arguments:?} {name}: plain {plain} accelerated {accelerated}");
        }
        let accepted = accelerated.value("accepted_max");
        assert!(
            (least..=most).contains(&accepted),
            "{accepted} is not within {least} and {most}"
        );
        accelerated.value("slab_bytes_per_connection") < most_slab
    });
    assert!(within, "more than {most_slab} bytes of slab for each connection");
}

/// Bytes sent before accept, right after connect, and between idle and busy phases: without law 5 some are overtaken.
#[test]
fn every_byte_arrives_in_order_while_flows_change_their_nature() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let bytes = work(5 << 30);
    let report = arena
        .traffic(&["order", "--bytes", &bytes.to_string(), "--connections", "128"])
        .finish();
    assert!(report.value("payload_bytes") >= bytes);
    let totals = tool.stop();
    println!("{}", totals.transcript);
    totals.assert_above("bytes_redirected", bytes / 50);
    totals.assert_above("messages_order", 0);
}

/// A message taken back goes to TCP after another thread's message was redirected: what follows must wait for it.
#[test]
fn threads_that_send_on_one_socket_keep_their_order() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let mut arguments = vec!["soak", "--part", "crowd", "--connections", "2000"];
    arguments.extend(["--seconds", "20"]);
    arena.traffic(&arguments).finish();
    let totals = tool.stop();
    println!("{}", totals.transcript);
    totals.assert_above("messages_redirected", 1000);
}

/// As above, with the critical moment forced. Packet rules slow each packet down so much that another thread wakes up
/// before the one that released the socket's lock continues.
#[test]
fn a_message_that_is_sent_late_is_not_overtaken() {
    let arena = Arena::new();
    let counters = "counter\n".repeat(500);
    let jumps = "jump slow\n".repeat(40);
    arena.network().filter(&format!(
        "table inet slow {{\nchain slow {{\n{counters}}}\nchain input {{\ntype filter hook input priority filter;\n{jumps}}}\n}}"
    ));
    arena.network().set("ipv4/tcp_rmem", "4096 131072 65536");
    let tool = Tool::start(&arena, &[]);
    let report = arena.traffic(&["overtake"]).finish();
    let totals = tool.stop();
    assert!(
        report.value("ahead") > 0,
        "{}{}",
        report.transcript,
        totals.transcript
    );
}

/// Without law 6 the sender is never stopped, and each small message holds a kilobyte of kernel memory.
#[test]
fn a_reader_that_stops_bounds_what_its_sender_may_send() {
    for (size, warmup) in [("64", "rr"), ("64", "bulk"), ("65536", "rr"), ("65536", "bulk")] {
        assert_bounded(&[], &["--size", size, "--warmup", warmup]);
    }
}

#[test]
fn a_reader_that_stops_bounds_what_is_sent_byte_by_byte() {
    assert_bounded(&[], &["--size", "1", "--warmup", "rr"]);
}

/// A socket whose queue exceeds its buffers drops what arrives while a thread uses it, window updates included.
#[test]
fn the_queue_of_a_reader_that_stops_stays_within_its_buffers() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let connections = work(16);
    let number = connections.to_string();
    let arguments = [
        "stopped",
        "--size",
        "65536",
        "--send-buffer",
        "4096",
        "--connections",
    ];
    arena.traffic(&[&arguments[..], &[&number]].concat()).finish();
    let totals = tool.stop();
    println!("{}", totals.transcript);
    // 128 KiB of receive buffer, 4 of send buffer, and the exchanges before and after
    totals.assert_above("messages_limit_bytes", 0);
    assert!(
        totals.counter("bytes_redirected") < connections * (256 << 10),
        "{}",
        totals.transcript
    );
}

/// One-byte messages with answers are never a one-way run: only their number stops them. TCP then carries so many tiny
/// segments that the kernel drops some and retransmits them merged with others: no byte may arrive twice.
#[test]
fn tiny_messages_that_nobody_reads_are_bounded_in_number_and_arrive_once() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let connections = work(16);
    let number = connections.to_string();
    let mut arguments = vec![
        "stopped",
        "--connections",
        &number,
        "--size",
        "1",
        "--warmup",
        "rr",
    ];
    arguments.extend(["--mutual", "--limit", "256K"]);
    arena.traffic(&arguments).finish();
    let totals = tool.stop();
    println!("{}", totals.transcript);
    totals.assert_above("messages_limit_count", 0);
    let most = connections * 2 * (512 + 200);
    assert!(
        totals.counter("messages_redirected") < most,
        "{}",
        totals.transcript
    );
}

/// The socket map gets whole segments, even if they begin with bytes already received: those are cut off.
#[test]
fn bytes_that_tcp_sends_again_arrive_once() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    arena.traffic(&["repeat", "--connections", "4"]).finish();
    let totals = tool.stop();
    assert_eq!(totals.counter("ends_inserted"), 8, "{}", totals.transcript);
    assert_eq!(totals.counter("bytes_repeated"), 4 * 10, "{}", totals.transcript);
}

#[test]
fn a_reader_that_stops_blocks_a_blocking_sender() {
    for size in ["64", "65536"] {
        assert_bounded(
            &["--admit", "any"],
            &["--size", size, "--warmup", "rr", "--mode", "blocking"],
        );
    }
}

/// Without law 3 bytes wait in two queues, and a reader that stops at a short read is never woken for the second.
#[test]
fn readers_that_wait_for_edges_or_ask_before_they_read_never_stall() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let seconds = work(60).to_string();
    let report = arena
        .traffic(&["readers", "--connections", "200", "--seconds", &seconds])
        .finish();
    assert_eq!(report.value("stalls"), 0);
    let totals = tool.stop();
    println!("{} {}", report.transcript, totals.transcript);
    totals.assert_above("messages_redirected", work(work(100_000)));
}

/// A tool that is redirecting messages at this very moment.
fn busy_tool(arena: &Arena) -> Tool {
    let mut tool = Tool::start(arena, &["--interval", "1"]);
    tool.wait_for_line("messages_redirected", 1);
    tool
}

/// Starts, stops and kills under traffic: the traffic must not notice, and nothing may be left once it has ended.
#[test]
fn starts_stops_and_kills_lose_nothing() {
    let mut log = KernelLog::mark();
    let arena = Arena::new();
    let mut traffic = arena.traffic(&[
        "readers",
        "--connections",
        "200",
        "--seconds",
        "600",
        "--churn",
        "200",
    ]);
    for _ in 0..work(20) {
        busy_tool(&arena).end();
        assert!(traffic.is_running(), "the workload ended early");
    }
    for _ in 0..5 {
        busy_tool(&arena).kill();
    }
    let last = busy_tool(&arena);
    traffic.signal(libc::SIGTERM);
    let report = traffic.finish();
    assert_eq!(report.value("stalls"), 0);
    assert!(last.stop().status.success());
    wait_until_gone(Duration::from_secs(30));
    assert_eq!(log.warnings(), Vec::<String>::new());
}

#[test]
fn thousands_of_connections_leave_nothing_behind() {
    let mut log = KernelLog::mark();
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    arena
        .traffic(&[
            "churn",
            "--count",
            &work(20_000).to_string(),
            "--connections",
            "64",
        ])
        .finish();
    for map in ["sockredir_map", "sockredir_flow"] {
        assert_eq!(map_entries(map), 0, "{map}");
    }
    let report = tool.stop();
    println!("{}", report.transcript);
    report.assert_above("ends_inserted", work(1000));
    wait_until_gone(Duration::from_secs(30));
    assert_eq!(log.warnings(), Vec::<String>::new());
}

/// Accelerated connections whose readers have stopped, with unread data, until a line releases them.
fn stopped_until_told(arena: &Arena) -> Traffic {
    let arguments = [
        "stopped",
        "--size",
        "65536",
        "--warmup",
        "rr",
        "--connections",
        "4",
        "--pause",
        "1",
    ];
    let mut traffic = arena.traffic(&arguments);
    traffic.wait_for_line("stopped", 1);
    traffic
}

/// Such a reader's queue never falls to where redirection resumes, and no interrupt shows that its end has drained: half the
/// speed of plain TCP, if its sender stays in the map until then.
#[test]
fn streams_whose_reader_is_always_behind_drain_at_once() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    arena.traffic(&["behind"]).finish();
    let report = tool.end();
    let drained = report.counter("drain_done");
    assert_eq!(drained, report.counter("drain_no_gain"), "{}", report.transcript);
    assert!(drained > 0, "{}", report.transcript);
}

/// A stop neither waits for ever for a program that does not read, nor discards its data.
#[test]
fn a_stop_leaves_unread_data_to_its_reader() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &["--drain-timeout", "1"]);
    let mut traffic = stopped_until_told(&arena);
    let report = tool.stop();
    assert!(report.status.success(), "{}", report.transcript);
    assert!(
        report.stdout.iter().any(|line| line.contains("unread data")),
        "{}",
        report.transcript
    );
    traffic.send_line("");
    traffic.finish();
    wait_until_gone(Duration::from_secs(30));
}

#[test]
fn a_second_signal_skips_the_wait() {
    let arena = Arena::new();
    let mut tool = Tool::start(&arena, &["--drain-timeout", "3600"]);
    let mut traffic = stopped_until_told(&arena);
    tool.signal(libc::SIGINT);
    thread::sleep(Duration::from_secs(1));
    assert!(tool.is_running());
    let report = tool.stop();
    assert!(report.status.success(), "{}", report.transcript);
    traffic.send_line("");
    traffic.finish();
}

/// Flows that stay open across a stop are plain TCP afterwards: out of the map, with none of our programs left.
#[test]
fn idle_connections_are_released_by_a_stop() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let mut traffic = arena.traffic(&["hold", "--connections", "200"]);
    traffic.wait_for_line("holding", 1);
    let report = tool.stop();
    assert_eq!(report.counter("ends_inserted"), 400, "{}", report.transcript);
    assert_eq!(report.counter("ends_left"), 400, "{}", report.transcript);
    wait_until_gone(Duration::from_secs(10));
    traffic.send_line("");
    traffic.wait_for_line("echoed", 1);
    traffic.finish();
}
