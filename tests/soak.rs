//! The soak: programs of every kind at once under the tool, with every byte, error and wait checked against plain TCP.
//!
//! `make soak` runs it for longer. In the environment, SOCKREDIR_SOAK_MINUTES sets the duration, and SOCKREDIR_SOAK_SEED
//! repeats an earlier run's random choices.

mod common;

use std::env;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Arena, Interrupts, KernelLog, Scans, Tool, ToolReport, is_fit_for_scans, is_slow, map_entries,
    wait_until_gone, work,
};

const TICK: Duration = Duration::from_millis(100);
/// A quarter of the time, the namespace's sockets have little memory.
const ROUND: Duration = Duration::from_secs(8);
const SQUEEZE: Duration = Duration::from_secs(2);
/// A killed program's unsent data outlives it until the receiver has read it or has ended too.
const ORPHAN: Duration = Duration::from_secs(30);
/// Seconds of silence that count as a stall: as one test among many, perhaps on a busy machine, it looks for hangs only.
const HANG: &str = "45";
/// The same for `make soak` with scans, which can keep a reader busy for three seconds. If it has shrunk its buffer meanwhile,
/// the window that it then opens may be less than a segment, and TCP only sends in it at its next probe, six seconds later.
/// Slower machines have busier readers and rarer probes, up to TCP_RTO_MAX, two minutes apart.
const SLOW: &str = "20";

/// Concurrent connections.
const CONNECTIONS: u64 = 300;

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok().filter(|text| !text.is_empty())?;
    let value = text.parse().ok();
    Some(value.unwrap_or_else(|| panic!("{name}={text} is not a number")))
}

/// The connections that the kernel has given up, by reason, to help explain a reset.
fn given_up(arena: &Arena) -> String {
    let text = arena.in_namespace(|| fs::read_to_string("/proc/thread-self/net/netstat").unwrap());
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let pairs = names.split(' ').zip(values.split(' '));
    let aborts = pairs.filter(|(name, value)| name.starts_with("TCPAbort") && *value != "0");
    aborts.map(|(name, value)| format!("{name} {value}\n")).collect()
}

/// Runs the workload under the tool until it ends or Ctrl-C, after which nothing may be left.
fn soak(seconds_of_minute: u64, tool_arguments: &[&str], traffic_arguments: &[&str]) -> ToolReport {
    soak_with(false, seconds_of_minute, tool_arguments, traffic_arguments)
}

/// Scans are rare on a kernel that they would break, with so many connections starting.
fn pause_of_scans(arena: &Arena) -> Duration {
    Duration::from_millis(if is_fit_for_scans(arena) { 5 } else { 250 })
}

/// As `soak`; with `scans` the tool scans for connections to adopt every few milliseconds.
fn soak_with(
    scans: bool,
    seconds_of_minute: u64,
    tool_arguments: &[&str],
    traffic_arguments: &[&str],
) -> ToolReport {
    let minutes: Option<f64> = variable("SOCKREDIR_SOAK_MINUTES");
    let seconds = (minutes.unwrap_or(1.0) * seconds_of_minute as f64)
        .ceil()
        .to_string();
    let mut arguments = vec!["soak", "--seconds", &seconds];
    // `make soak` also looks for delays, with the default stall time of five seconds.
    if minutes.is_none() || (scans && is_slow()) {
        arguments.extend(["--stall", HANG]);
    } else if scans {
        arguments.extend(["--stall", SLOW]);
    }
    arguments.extend(traffic_arguments);
    // The slower the readers, the longer windows stay shut, and TCP gives up on senders that have closed in the meantime.
    let connections = work(CONNECTIONS).to_string();
    arguments.extend(["--connections", &connections]);
    let seed = variable::<u64>("SOCKREDIR_SOAK_SEED").map(|seed| seed.to_string());
    if let Some(seed) = &seed {
        arguments.extend(["--seed", seed]);
    }

    let interrupts = Interrupts::catch();
    let mut log = KernelLog::mark();
    let arena = Arena::new();
    let pause = scans.then(|| pause_of_scans(&arena));
    let tool = Tool::start(&arena, tool_arguments);
    let scans = pause.map(|pause| Scans::begin(&arena, pause));
    let mut traffic = arena.traffic(&arguments);
    let seed = traffic.wait_for_line("seed=", 1);
    println!("sockredir {tool_arguments:?}: {seed}, {seconds} s");
    let start = Instant::now();
    let mut squeezed = false;
    while traffic.is_running() {
        thread::sleep(TICK);
        let squeeze = start.elapsed().as_millis() % ROUND.as_millis() < SQUEEZE.as_millis();
        if squeeze != squeezed {
            arena.squeeze(squeeze);
            squeezed = squeeze;
        }
        assert_eq!(log.warnings(), Vec::<String>::new(), "{seed}");
        if interrupts.happened() {
            traffic.signal(libc::SIGTERM);
        }
    }
    let report = traffic.wait();
    println!("{}\n{}", report.transcript, given_up(&arena));
    // Ctrl-C ends the tool as well, and with it the maps.
    let left = || match interrupts.happened() {
        true => Vec::new(),
        false => ["sockredir_map", "sockredir_flow"].map(map_entries).to_vec(),
    };
    let deadline = Instant::now() + ORPHAN;
    let left = loop {
        let left = left();
        if left.iter().all(|entries| *entries == 0) || Instant::now() > deadline {
            break left;
        }
        thread::sleep(TICK);
    };
    drop(scans);
    let totals = tool.stop();
    println!("{}", totals.transcript);
    assert!(
        report.is_ok() && totals.status.success() && totals.stderr.is_empty(),
        "{seed}"
    );
    assert!(
        left.iter().all(|entries| *entries == 0),
        "left in the maps: {left:?}, {seed}"
    );
    assert!(interrupts.happened() || report.value("killed") > 0, "{seed}");
    wait_until_gone(Duration::from_secs(30));
    assert_eq!(log.warnings(), Vec::<String>::new(), "{seed}");
    totals
}

/// A wrong byte, a stall, an error that plain TCP does not return, a kernel warning: each fails the run.
#[test]
fn programs_of_every_kind_pass_a_soak() {
    let totals = soak(60, &[], &[]);
    let usual = [
        "admitted_request_response",
        "admitted_bulk",
        "refused_blocking",
        "drain_one_way",
        "drain_done",
        "messages_order",
        "messages_limit_bytes",
        "messages_mate_closing",
    ];
    let rare = [
        "refused_blocking_server",
        "refused_turns_blocking",
        "tcp_only_blocking",
        "drain_no_gain",
        "drain_special",
    ];
    // On a slow machine some of them may not happen in time.
    let rare = rare.iter().filter(|_| !is_slow());
    for reason in usual.iter().chain(rare) {
        assert!(totals.counter(reason) > 0, "no {reason}: {}", totals.transcript);
    }
    totals.assert_above("messages_redirected", work(work(20_000)));
    assert_eq!(totals.counter("messages_dropped"), 0, "{}", totals.transcript);
}

/// With blocking programs admitted, EAGAIN from a blocking recv is a known difference too.
#[test]
fn programs_of_every_kind_pass_a_soak_with_blocking_ones_admitted() {
    let totals = soak(15, &["--admit", "any"], &["--known", "eagain"]);
    assert_eq!(totals.counter("refused_blocking"), 0, "{}", totals.transcript);
    totals.assert_above("messages_redirected", work(work(10_000)));
    assert_eq!(totals.counter("messages_dropped"), 0, "{}", totals.transcript);
}

/// Programs that only turn their sockets non-blocking once connected are adopted in the middle of whatever they do.
#[test]
fn programs_of_every_kind_pass_a_soak_with_scans_all_the_time() {
    let totals = soak_with(true, 30, &[], &["--late"]);
    totals.assert_above("adopted", work(100));
    totals.assert_above("messages_redirected", work(work(10_000)));
    assert_eq!(totals.counter("messages_dropped"), 0, "{}", totals.transcript);
    assert_eq!(totals.counter("repeated_uncut"), 0, "{}", totals.transcript);
}
