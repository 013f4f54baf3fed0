//! Tests of the harness itself, on plain TCP: what fails here is not the datapath.

mod common;
#[path = "traffic/pattern.rs"]
#[expect(dead_code, reason = "only its own tests run here")]
mod pattern;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{Arena, KernelLog, Process, TrafficReport};

fn run(arguments: &[&str]) -> TrafficReport {
    Arena::new().traffic(arguments).finish()
}

const FAMILIES: [&str; 3] = ["v4", "v6", "mapped"];
const MODES: [&str; 2] = ["nonblocking", "blocking"];

/// An echo that loses or miscounts bytes would make every later comparison worthless.
#[test]
fn echo_moves_every_byte_in_each_family_and_mode() {
    for family in FAMILIES {
        for mode in MODES {
            let report = run(&[
                "echo", "--family", family, "--mode", mode, "--count", "200", "--size", "4096", "--connections", "4",
            ]);
            assert_eq!(report.value("payload_bytes"), 2 * 4 * 200 * 4096);
            assert_eq!(report.value("messages"), 2 * 4 * 200);
        }
    }
}

#[test]
fn order_passes_on_plain_tcp() {
    for mode in MODES {
        let report = run(&["order", "--bytes", "64M", "--connections", "16", "--mode", mode]);
        assert!(report.value("payload_bytes") >= 64 << 20);
    }
}

#[test]
fn hold_echoes_when_told_and_ends_with_its_input() {
    let arena = Arena::new();
    for mode in MODES {
        let mut hold = arena.traffic(&["hold", "--connections", "32", "--mode", mode]);
        hold.wait_for_line("holding", 1);
        for round in 1..=3 {
            hold.send_line("");
            hold.wait_for_line("echoed", round);
        }
        assert!(hold.is_running());
        hold.close_stdin();
        let report = hold.finish();
        assert_eq!(report.value("messages"), 2 * 32 * (64 + 3 * 16));
    }
}

/// Without this, a workload that compares nothing would pass everywhere.
#[test]
fn a_flipped_byte_fails_the_run() {
    for workload in ["echo", "order", "hold"] {
        for mode in MODES {
            let arena = Arena::new();
            let mut arguments = vec![workload, "--connections", "4", "--mode", mode, "--flip", "1000"];
            if workload == "order" {
                arguments.extend(["--bytes", "16M"]);
            }
            let report = arena.traffic(&arguments).wait();
            assert_eq!(report.status.code(), Some(1), "{}", report.transcript);
            assert!(report.stderr.iter().any(|line| line.contains("offset: 1000")), "{}", report.transcript);
        }
    }
}

#[test]
fn a_wrong_option_is_a_usage_error() {
    let report = Arena::new().traffic(&["echo", "--no-such-option"]).wait();
    assert_eq!(report.status.code(), Some(2), "{}", report.transcript);
}

/// The tests of the datapath tell redirected bytes by what the loopback interface did not see.
#[test]
fn the_loopback_counter_sees_the_payload_of_its_namespace_only() {
    let (busy, idle) = (Arena::new(), Arena::new());
    let before = (busy.loopback_bytes(), idle.loopback_bytes());
    let report = busy.traffic(&["echo", "--count", "500"]).finish();
    assert!(busy.loopback_bytes() - before.0 >= report.value("payload_bytes"));
    assert_eq!(idle.loopback_bytes(), before.1);
}

#[test]
fn programs_run_in_their_cgroup_and_namespace() {
    let arena = Arena::new();
    let own = fs::read_link("/proc/self/ns/net").expect("this process has a namespace");
    let places = |mut command: std::process::Command| {
        let output = command.args(["-c", "cat /proc/self/cgroup; readlink /proc/self/ns/net"]).output();
        String::from_utf8(output.expect("a shell runs").stdout).expect("its output is text")
    };
    let subcgroup = arena.subcgroup("below");
    for (command, cgroup) in [
        (arena.command("sh"), "/inside\n"),
        (arena.host_command("sh"), "/outside\n"),
        (arena.command_in(&subcgroup, "sh"), "/inside/below\n"),
    ] {
        let places = places(command);
        assert!(places.contains(cgroup), "{places}");
        assert!(!places.contains(&*own.to_string_lossy()), "{places}");
    }
}

#[test]
fn an_arena_leaves_nothing_behind() {
    let arena = Arena::new();
    let cgroup = arena.cgroup().to_path_buf();
    arena.subcgroup("below");
    let mut sleep = arena.command("sleep");
    let mut sleep = sleep.arg("1000").spawn().expect("sleep starts");
    let pid = sleep.id();
    drop(arena);
    assert!(!cgroup.exists() && !cgroup.parent().is_some_and(Path::exists));
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    // The arena has reaped it, so this only gives back the handle.
    let _ = sleep.wait();
}

#[test]
fn an_arena_leaves_nothing_behind_when_its_test_panics() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let test = std::thread::spawn(move || {
        let arena = Arena::new();
        let _hold = {
            let mut hold = arena.traffic(&["hold", "--connections", "2"]);
            hold.wait_for_line("holding", 1);
            hold
        };
        sender.send(arena.cgroup().to_path_buf()).expect("the other thread listens");
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    let cgroup = receiver.recv().expect("the test got so far");
    assert!(test.join().is_err());
    assert!(!cgroup.exists());
}

#[test]
fn a_process_that_says_nothing_is_told_apart_from_one_that_ended() {
    let result = std::panic::catch_unwind(|| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "echo why >&2; exit 3"]);
        Process::start(command).wait_for_line("ready", 1, Duration::from_secs(30));
    });
    let panic = result.expect_err("there is no such line");
    let text = panic.downcast_ref::<String>().expect("panics carry text");
    assert!(text.contains("why") && text.contains("before the end of its output"), "{text}");
}

#[test]
fn the_kernel_log_gives_nothing_that_was_there_before() {
    assert_eq!(KernelLog::mark().warnings(), Vec::<String>::new());
}
