//! Adoption: connections older than the tool, or turned non-blocking later, are accelerated without losing data.

mod common;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use common::{Arena, Scans, Tool, Traffic, ask, is_fit_for_scans, json, wait_until_gone};

/// Messages each way per line of standard input, in `older`.
const ROUNDS: u64 = 64;
const SIZE: u64 = 512;
const NOBODY: u32 = 65534;
const SCANS: Duration = Duration::from_millis(5);
/// Longer than an end is watched before it is adopted.
const READING: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);

fn adopt(arena: &Arena) -> u64 {
    json(arena, &["adopt"])["adopted"].as_u64().expect("a number")
}

/// State and reason of the only flow.
fn only_flow(arena: &Arena) -> (String, String) {
    let answer = json(arena, &["flows"]);
    let flows = answer["flows"].as_array().expect("flows");
    assert_eq!(flows.len(), 1, "{answer}");
    let text = |member: &str| flows[0][member].as_str().expect("text").to_owned();
    (text("state"), text("reason"))
}

fn older(arena: &Arena, arguments: &[&str]) -> Traffic {
    let mut older = arena.traffic(&[&["older"], arguments].concat());
    older.wait_for_line("waiting", 1);
    older
}

/// Lets the connections continue, for the `count`th time.
fn go_on(older: &mut Traffic, count: usize) {
    older.send_line("");
    older.wait_for_line("waiting", count + 1);
}

/// Lets this many connections continue for the second time and checks that they bypass loopback.
fn assert_bypasses_loopback(arena: &Arena, older: &mut Traffic, connections: u64) {
    let before = arena.loopback_bytes();
    go_on(older, 2);
    let carried = arena.loopback_bytes() - before;
    assert!(
        carried < connections * ROUNDS * SIZE / 50,
        "loopback carried {carried} bytes"
    );
}

/// Scans until one reports this reason: a look at a thread that is about to wait may yield another.
fn scan_until(arena: &Arena, reason: &str) {
    let deadline = Instant::now() + PATIENCE;
    while only_flow(arena).1 != reason {
        assert!(Instant::now() < deadline, "{:?}", only_flow(arena));
        assert_eq!(adopt(arena), 0);
    }
}

/// Waits until a counter of the tool reaches a value.
fn wait_until(arena: &Arena, counter: &str, least: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let value = json(arena, &["status"])["counters"][counter].as_u64();
        if value >= Some(least) {
            return;
        }
        assert!(Instant::now() < deadline, "{counter} is {value:?} of {least}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn connections_that_are_older_than_the_tool_bypass_loopback() {
    for family in ["v4", "v6", "mapped"] {
        let arena = Arena::new();
        let mut older = older(&arena, &["--connections", "200", "--family", family]);
        let tool = Tool::start(&arena, &[]);
        wait_until(&arena, "adopted", 200);
        go_on(&mut older, 1);
        assert_bypasses_loopback(&arena, &mut older, 200);
        older.finish();
        let report = tool.end();
        assert_eq!(report.counter("adopted"), 200, "{}", report.transcript);
        assert_eq!(
            report.counter("admitted_request_response"),
            200,
            "{}",
            report.transcript
        );
        report.assert_above("messages_redirected", 200 * ROUNDS);
    }
}

/// Connected and accepted by blocking sockets, so the gate leaves it out.
#[test]
fn a_connection_that_becomes_non_blocking_is_adopted() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let mut older = older(&arena, &["--state", "turned"]);
    wait_until(&arena, "adopted", 1);
    go_on(&mut older, 1);
    older.finish();
    let report = tool.end();
    assert_eq!(report.counter("refused_blocking"), 1, "{}", report.transcript);
    report.assert_above("messages_redirected", ROUNDS);
}

/// A thread about to read data already announced to it has made the choice between TCP's own recv and the socket map's.
#[test]
fn a_reader_finds_what_it_was_told_of_whenever_it_is_adopted() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &["--adopt", "off"]);
    let scans = Scans::begin(&arena, SCANS);
    for _ in 0..8 {
        let mut older = older(&arena, &["--state", "reading"]);
        thread::sleep(READING);
        go_on(&mut older, 1);
        older.finish();
    }
    drop(scans);
    println!("{}", tool.end().transcript);
}

/// Waits until a thread has waited for a lock for so long that it can only be that of a socket in use.
fn wait_until_locked(pid: u32) {
    const LOOKS: u32 = 20;
    let is_locked = || {
        let stats = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
        stats.flatten().any(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('D'))
        })
    };
    let deadline = Instant::now() + PATIENCE;
    let mut looks = 0;
    while looks < LOOKS {
        assert!(Instant::now() < deadline, "no scan waits for a socket");
        looks = if is_locked() { looks + 1 } else { 0 };
        thread::sleep(SCANS);
    }
}

/// Keeps the thread off the second processor, which `awaited` occupies.
fn stay_on_first_processor(thread: u32) {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the processors are known");
    let first = (0..CpuSet::count()).find(|number| allowed.is_set(*number).unwrap_or(false));
    let mut only = CpuSet::new();
    only.set(first.expect("there is one")).expect("it is a processor");
    sched_setaffinity(Pid::from_raw(thread as i32), &only).expect("the thread runs");
}

/// It has chosen TCP's own recv, which would not see what is in the map's queue.
#[test]
fn a_reader_that_waits_for_its_socket_while_it_is_adopted_sees_the_data_before_the_end() {
    let arena = Arena::new();
    let mut awaited = arena.traffic(&["awaited"]);
    awaited.wait_for_line("waiting", 1);
    let tool = Tool::start(&arena, &[]);
    stay_on_first_processor(tool.pid());
    wait_until_locked(tool.pid());
    awaited.send_line("");
    awaited.wait_for_line("waiting", 2);
    // The next scan adopts what the previous one found, and further scans follow.
    wait_until_locked(tool.pid());
    awaited.send_line("");
    awaited.finish();
    tool.end().assert_above("adopt_waited", 0);
}

/// A connection in this state is left alone, for this reason, and works as before; once it has continued it may be adopted.
fn assert_left_alone(state: &str, reason: &str, later: u64) {
    let arena = Arena::new();
    let mut older = older(&arena, &["--state", state]);
    let tool = Tool::start(&arena, &["--adopt", "off"]);
    assert_eq!(adopt(&arena), 0, "{state}");
    assert_eq!(
        only_flow(&arena),
        ("tcp-only".to_owned(), reason.to_owned()),
        "{state}"
    );
    go_on(&mut older, 1);
    assert_eq!(adopt(&arena), later, "{state}");
    go_on(&mut older, 2);
    older.finish();
    let report = tool.end();
    assert_eq!(report.counter("adopted"), later, "{}", report.transcript);
    if later > 0 {
        report.assert_above("messages_redirected", ROUNDS);
    } else {
        assert_eq!(report.counter("ends_inserted"), 0, "{}", report.transcript);
    }
}

#[test]
fn connections_that_redirected_data_would_break_are_left_alone() {
    for (state, reason, later) in [
        ("sleeping", "adopt_waited", 1),
        ("blocking", "refused_blocking", 0),
        ("urgent", "refused_special", 1),
        ("unread", "adopt_unread", 1),
        ("partly", "adopt_unread", 1),
        ("half-closed", "adopt_closing", 0),
        ("deaf", "adopt_closing", 0),
        ("zero-copy", "refused_special", 0),
        ("low-water", "refused_special", 0),
        ("peek-offset", "refused_special", 0),
        ("small-buffer", "refused_special", 0),
    ] {
        assert_left_alone(state, reason, later);
    }
}

/// The threads of some of them would not be looked at.
#[test]
fn a_connection_that_many_processes_hold_is_left_alone() {
    let arena = Arena::new();
    let mut older = older(&arena, &["--state", "shared"]);
    let tool = Tool::start(&arena, &["--adopt", "off"]);
    for _ in 0..3 {
        assert_eq!(adopt(&arena), 0);
    }
    go_on(&mut older, 1);
    older.finish();
    tool.end().assert_above("adopt_waited", 0);
}

#[test]
fn programs_that_are_kept_off_are_not_adopted() {
    for (tool_arguments, traffic_arguments, reason) in [
        (&["--exclude-programs", "traffic"][..], &[][..], "refused_program"),
        (&[], &["--io-uring"], "refused_io_uring"),
        (&["--ports", "1"], &[], "refused_port"),
    ] {
        let arena = Arena::new();
        let older = older(&arena, traffic_arguments);
        let tool = Tool::start(&arena, tool_arguments);
        assert_eq!(adopt(&arena), 0, "{reason}");
        assert_eq!(only_flow(&arena), ("tcp-only".to_owned(), reason.to_owned()));
        older.finish();
        assert_eq!(tool.end().counter("ends_inserted"), 0);
    }
}

#[test]
fn programs_that_nothing_is_known_of_are_not_adopted() {
    let arena = Arena::new();
    let older = older(&arena, &[]);
    let tool = Tool::start(&arena, &["--adopt", "off", "--trust-programs", "none"]);
    for _ in 0..3 {
        assert_eq!(adopt(&arena), 0);
    }
    let unknown = ("tcp-only".to_owned(), "refused_unknown_program".to_owned());
    assert_eq!(only_flow(&arena), unknown);
    older.finish();
    assert_eq!(tool.end().counter("ends_inserted"), 0);
}

/// They are adopted in their own namespaces, and leave the map when the tool stops.
#[test]
fn idle_connections_of_another_network_namespace_are_adopted_and_released() {
    let (arena, elsewhere) = (Arena::new(), Arena::new());
    let command = elsewhere.command_in(arena.cgroup(), Traffic::program());
    let mut older = Traffic::start(command, &["older", "--connections", "50"]);
    older.wait_for_line("waiting", 1);
    let tool = Tool::start(&arena, &[]);
    wait_until(&arena, "adopted", 50);
    go_on(&mut older, 1);
    assert_bypasses_loopback(&elsewhere, &mut older, 50);
    let report = tool.end();
    assert_eq!(report.counter("ends_left"), 100, "{}", report.transcript);
    wait_until_gone(PATIENCE);
    go_on(&mut older, 3);
    older.finish();
}

/// New connections there are followed as usual.
#[test]
fn a_network_namespace_that_cannot_be_entered_is_left_out_and_told_of() {
    let (arena, elsewhere) = (Arena::new(), Arena::new());
    let command = || elsewhere.command_in(arena.cgroup(), Traffic::program());
    let mut older = Traffic::start(command(), &["older"]);
    older.wait_for_line("waiting", 1);
    let mut unable = arena.host_command("setpriv");
    unable.args(["--bounding-set=-sys_admin", env!("CARGO_BIN_EXE_sockredir")]);
    unable.args(["--adopt", "auto", "--cgroup"]).arg(arena.cgroup());
    let tool = Tool::start_by(unable);
    assert_eq!(adopt(&arena), 0);
    assert_eq!(only_flow(&arena).1, "adopt_namespace");
    assert_eq!(json(&arena, &["status"])["adoption"]["shut_namespaces"], 1);
    older.finish();
    Traffic::start(command(), &["echo", "--count", "100"]).finish();
    let report = tool.stop();
    assert!(report.status.success(), "{}", report.transcript);
    assert_eq!(report.counter("adopted"), 0, "{}", report.transcript);
    assert_eq!(
        report.counter("admitted_request_response"),
        1,
        "{}",
        report.transcript
    );
    let [note] = report.stderr.as_slice() else {
        panic!("{}", report.transcript);
    };
    assert!(
        note.contains("1 other network namespace") && note.contains("CAP_SYS_ADMIN"),
        "{note}"
    );
}

/// An end whose peer is not covered is reconsidered over and over, but never enters the map.
#[test]
fn a_connection_with_one_end_outside_the_cgroup_is_not_adopted() {
    let arena = Arena::new();
    let mut server = Traffic::start(arena.host_command(Traffic::program()), &["serve"]);
    let address = server.wait_for_line("address=", 1).replace("address=", "");
    let tool = Tool::start(&arena, &["--adopt", "off"]);
    let mut client = arena.traffic(&["dial", &address, "--late", "--count", "1000000000"]);
    wait_until(&arena, "refused_blocking", 1);
    scan_until(&arena, "adopt_unpaired");
    assert_eq!(adopt(&arena), 0);
    client.signal(libc::SIGKILL);
    client.wait();
    server.finish();
    assert_eq!(tool.end().counter("ends_inserted"), 0);
}

/// It goes back to TCP each time it is one, but is adopted again ever more rarely.
#[test]
fn a_stream_of_small_messages_waits_before_it_comes_back() {
    let arena = Arena::new();
    let mut older = older(&arena, &["--state", "one-way"]);
    let tool = Tool::start(&arena, &[]);
    wait_until(&arena, "adopted", 1);
    go_on(&mut older, 1);
    // From here on the traffic has another pattern.
    go_on(&mut older, 2);
    wait_until(&arena, "adopted", 2);
    go_on(&mut older, 3);
    older.finish();
    let report = tool.end();
    assert_eq!(report.counter("tcp_only_pattern"), 1, "{}", report.transcript);
    assert_eq!(report.counter("adopted"), 2, "{}", report.transcript);
    report.assert_above("adopt_again", 0);
    report.assert_above("messages_redirected", ROUNDS);
}

/// The new process adopts what the old one has drained, under load.
#[test]
fn an_upgrade_hands_flows_from_one_process_to_the_next() {
    let arena = Arena::new();
    let mut arguments = vec!["readers", "--connections", "50", "--churn", "0"];
    arguments.extend(["--seconds", "600"]);
    let mut traffic = arena.traffic(&arguments);
    for _ in 0..3 {
        let tool = Tool::start(&arena, &[]);
        let begin = Instant::now();
        wait_until(&arena, "adopted", 45);
        wait_until(&arena, "messages_redirected", 1000);
        println!("accelerated after {:?}", begin.elapsed());
        tool.end();
        assert!(traffic.is_running(), "the workload ended early");
    }
    traffic.signal(libc::SIGTERM);
    assert_eq!(traffic.finish().value("stalls"), 0);
}

/// Without an option for or against scans, the kernel decides.
#[test]
fn a_kernel_that_scans_would_break_is_not_scanned() {
    let arena = Arena::new();
    let is_fit = is_fit_for_scans(&arena);
    let mut command = arena.host_command(env!("CARGO_BIN_EXE_sockredir"));
    command.arg("--cgroup").arg(arena.cgroup());
    let tool = Tool::start_by(command);
    let mode = json(&arena, &["status"])["adoption"]["mode"].clone();
    if is_fit {
        assert_eq!(mode, "auto");
        assert_eq!(adopt(&arena), 0);
    } else {
        assert_eq!(mode, "off");
        let asked = ask(&arena, &["adopt"]);
        let errors = String::from_utf8_lossy(&asked.stderr).into_owned();
        assert!(
            !asked.status.success() && errors.contains("CVE-2026-74714") && errors.lines().count() == 1,
            "{errors}"
        );
    }
    assert!(tool.stop().status.success());
}

#[test]
fn only_root_and_the_user_of_the_instance_may_ask_for_scans() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sockredir"));
    command.args(["adopt", "--cgroup"]).arg(arena.cgroup());
    let output = command.uid(NOBODY).output().expect("failed to run sockredir");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && errors.contains("only root"),
        "{errors}"
    );
    assert_eq!(errors.lines().count(), 1, "{errors}");
    tool.end();
}
