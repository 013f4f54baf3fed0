//! Tests of the harness itself on plain TCP: what fails here is not the datapath's fault.

mod common;

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::{Arena, KernelLog, Process, TrafficReport};

fn run(arguments: &[&str]) -> TrafficReport {
    Arena::new().traffic(arguments).finish()
}

/// As `run`, whatever the exit status.
fn run_to_end(arguments: &[&str]) -> TrafficReport {
    Arena::new().traffic(arguments).wait()
}

const FAMILIES: [&str; 3] = ["v4", "v6", "mapped"];
const MODES: [&str; 2] = ["nonblocking", "blocking"];

/// An echo that loses or miscounts bytes would make every later comparison worthless.
#[test]
fn echo_moves_every_byte_in_each_family_and_mode() {
    for family in FAMILIES {
        for mode in MODES {
            let report = run(&[
                "echo",
                "--family",
                family,
                "--mode",
                mode,
                "--count",
                "200",
                "--size",
                "4096",
                "--connections",
                "4",
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
fn segments_that_are_sent_again_pass_on_plain_tcp() {
    run(&["repeat", "--connections", "2"]);
}

/// The threads send in turn on TCP, so what is sent late follows what was sent before it.
#[test]
fn threads_that_wait_for_a_socket_pass_on_plain_tcp() {
    assert_eq!(run(&["overtake", "--connections", "2"]).value("ahead"), 0);
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

#[test]
fn stopped_readers_get_all_that_was_taken() {
    for mode in MODES {
        for (size, warm_up) in [("1", "none"), ("64", "rr"), ("65536", "bulk")] {
            let report = run(&[
                "stopped",
                "--connections",
                "4",
                "--size",
                size,
                "--warmup",
                warm_up,
                "--limit",
                "512K",
                "--mode",
                mode,
            ]);
            assert!(report.value("accepted_max") >= report.value("accepted_mean"));
            assert!(report.value("accepted_mean") > 0);
            assert!(
                report.value("messages_max")
                    >= report.value("accepted_max") / size.parse::<u64>().expect("a size")
            );
            report.value("slab_bytes_per_connection");
            report.value("mem_pages");
            report.value("limited");
        }
    }
}

#[test]
fn readers_that_trust_an_edge_never_stall_on_plain_tcp() {
    for family in FAMILIES {
        let arguments = [
            "readers",
            "--connections",
            "40",
            "--seconds",
            "2",
            "--churn",
            "20",
            "--family",
            family,
        ];
        let report = Arena::new()
            .traffic(&[&arguments[..], &["--fionread-at-once"]].concat())
            .finish();
        assert_eq!(report.value("stalls"), 0);
        assert!(report.value("connections") > 40);
    }
}

#[test]
fn readers_end_cleanly_when_asked_to() {
    let arena = Arena::new();
    let mut readers = arena.traffic(&[
        "readers",
        "--connections",
        "8",
        "--seconds",
        "600",
        "--churn",
        "0",
    ]);
    readers.wait_for_line("running", 1);
    readers.signal(libc::SIGTERM);
    assert_eq!(readers.finish().value("connections"), 8);
}

#[test]
fn every_way_to_end_a_connection_passes_on_plain_tcp() {
    for mode in MODES {
        for family in FAMILIES {
            let report = run(&["churn", "--count", "1000", "--mode", mode, "--family", family]);
            assert_eq!(report.value("connections"), 1000);
        }
    }
}

/// The tests of the datapath use it with servers outside the tool's coverage.
#[test]
fn dial_compares_what_an_echo_server_sends_back() {
    let arena = Arena::new();
    let listener = arena.in_namespace(|| TcpListener::bind(("127.0.0.1", 0)).expect("a port is free"));
    let address = listener.local_addr().expect("it is bound").to_string();
    let server = thread::spawn(move || {
        let (mut server, _) = listener.accept().expect("a client comes");
        io::copy(&mut server.try_clone().expect("a descriptor"), &mut server).expect("all is echoed")
    });
    let report = arena
        .traffic(&["dial", &address, "--count", "500", "--size", "1000"])
        .finish();
    assert_eq!(report.value("payload_bytes"), 2 * 500_000);
    assert_eq!(server.join().expect("the server ends"), 500_000);
}

#[test]
fn stopped_readers_stay_stopped_until_told() {
    let arena = Arena::new();
    for mode in MODES {
        let arguments = [
            "stopped",
            "--connections",
            "2",
            "--limit",
            "1M",
            "--pause",
            "1",
            "--mode",
            mode,
        ];
        let mut stopped = arena.traffic(&arguments);
        stopped.wait_for_line("stopped", 1);
        assert!(stopped.is_running());
        stopped.send_line("");
        stopped.finish();
    }
}

/// Without this, a workload that compares nothing would pass everywhere.
#[test]
fn a_flipped_byte_fails_the_run() {
    let arena = Arena::new();
    for mode in MODES {
        for workload in [
            &["echo"][..],
            &["order", "--bytes", "16M"],
            &["hold"],
            &["stopped", "--limit", "1M"],
            &["readers", "--seconds", "2"],
            &["churn", "--count", "4"],
        ] {
            if workload[0] == "readers" && mode == "blocking" {
                continue;
            }
            // A seed with which the first client sends enough in every workload.
            let common = [
                "--connections",
                "4",
                "--mode",
                mode,
                "--seed",
                "3",
                "--flip",
                "1000",
            ];
            let report = arena.traffic(&[workload, &common[..]].concat()).wait();
            assert_eq!(report.status.code(), Some(1), "{}", report.transcript);
            assert!(
                report.stderr.iter().any(|line| line.contains("offset: 1000")),
                "{}",
                report.transcript
            );
        }
    }
}

const SOAK_PARTS: [&str; 5] = ["loops", "threads", "mixed", "victims", "crowd"];

/// The transcript of a short soak that must fail.
fn failing_soak(part: &str, arguments: &[&str]) -> String {
    let common = ["soak", "--seconds", "30", "--connections", "40", "--part", part];
    let report = run_to_end(&[&common, arguments].concat());
    assert_eq!(report.status.code(), Some(1), "{}", report.transcript);
    report.transcript
}

#[test]
fn a_soak_passes_on_plain_tcp() {
    let arena = Arena::new();
    let soak = arena.traffic(&["soak", "--seconds", "8", "--connections", "100"]);
    thread::sleep(Duration::from_secs(4));
    arena.squeeze(true);
    let report = soak.finish();
    assert!(report.value("killed") > 0);
    assert_eq!(report.value("blocking_eagain"), 0);
    for part in [
        "loops",
        "threads",
        "blocking-servers",
        "blocking-clients",
        "victims",
        "crowd",
    ] {
        assert!(report.value(&format!("{part}_bytes")) > 0);
    }
}

#[test]
fn a_soak_ends_cleanly_when_asked_to() {
    let arena = Arena::new();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut soak = arena.traffic(&["soak", "--seconds", "600", "--connections", "20"]);
        soak.wait_for_line("running", 1);
        soak.signal(signal);
        soak.finish();
    }
}

#[test]
fn a_flipped_byte_fails_each_part_of_a_soak() {
    for part in SOAK_PARTS {
        let transcript = failing_soak(part, &["--flip", "0"]);
        assert!(transcript.contains("wrong bytes"), "{transcript}");
    }
}

/// Data in flight does not arrive, and connections of a killed process do not end.
#[test]
fn a_stall_fails_each_part_of_a_soak() {
    for part in SOAK_PARTS {
        let transcript = failing_soak(part, &["--inject", "hang"]);
        assert!(transcript.contains("stalled for 5 s"), "{transcript}");
        assert_eq!(
            transcript.contains("was killed"),
            part == "victims",
            "{transcript}"
        );
    }
}

/// Plain TCP returns it only to programs that set a timeout.
#[test]
fn eagain_from_a_blocking_recv_fails_a_soak_unless_it_is_known() {
    let arguments = ["--inject", "timeout"];
    let transcript = failing_soak("threads", &arguments);
    assert!(
        transcript.contains("blocking recv failed: Resource temporarily unavailable"),
        "{transcript}"
    );
    let known = ["soak", "--seconds", "1", "--part", "threads", "--known", "eagain"];
    let report = run(&[&known[..], &arguments].concat());
    assert!(report.value("blocking_eagain") > 0);
}

#[test]
fn a_wrong_option_is_a_usage_error() {
    let report = Arena::new().traffic(&["echo", "--no-such-option"]).wait();
    assert_eq!(report.status.code(), Some(2), "{}", report.transcript);
}

/// The tests of the datapath count as redirected what the loopback interface did not carry.
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
    let places = |mut command: Command| {
        let output = command
            .args(["-c", "cat /proc/self/cgroup; readlink /proc/self/ns/net"])
            .output();
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
    // The arena has reaped it already, so this only releases the handle.
    let _ = sleep.wait();
}

#[test]
fn an_arena_leaves_nothing_behind_when_its_test_panics() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let test = thread::spawn(move || {
        let arena = Arena::new();
        let _hold = {
            let mut hold = arena.traffic(&["hold", "--connections", "2"]);
            hold.wait_for_line("holding", 1);
            hold
        };
        sender
            .send(arena.cgroup().to_path_buf())
            .expect("the other thread listens");
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    let cgroup = receiver.recv().expect("the test got so far");
    assert!(test.join().is_err());
    assert!(!cgroup.exists());
}

#[test]
fn a_process_that_says_nothing_is_told_apart_from_one_that_ended() {
    let result = std::panic::catch_unwind(|| {
        let mut command = Command::new("sh");
        command.args(["-c", "echo why >&2; exit 3"]);
        Process::start(command).wait_for_line("ready", 1, Duration::from_secs(30));
    });
    let panic = result.expect_err("there is no such line");
    let text = panic.downcast_ref::<String>().expect("panics carry text");
    assert!(
        text.contains("why") && text.contains("before the end of its output"),
        "{text}"
    );
}

#[test]
fn commands_can_be_made_to_lack_what_they_need() {
    let output = |mut command: Command| {
        let output = command.output().expect("a shell runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("its output is text")
    };
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    };
    let mut command = shell("grep CapEff /proc/self/status");
    common::drop_capabilities(&mut command, &[12, 39]);
    let capabilities = output(command);
    let bits = u64::from_str_radix(capabilities.trim().trim_start_matches("CapEff:").trim(), 16);
    assert_eq!(bits.expect("a number") & (1 << 12 | 1 << 39 | 1 << 38), 1 << 38);

    let mut command = shell("grep -c ' - cgroup2 ' /proc/self/mountinfo || true");
    common::hide_cgroup2(&mut command);
    assert_eq!(output(command), "0\n");

    let place = "$(awk '/ - cgroup2 / {print $5; exit}' /proc/self/mountinfo)";
    let mut command = shell(&format!("mkdir {place}/sockredir-test-locked 2>&1; true"));
    common::lock_cgroup2(&mut command);
    let refused = output(command);
    assert!(refused.contains("Read-only file system"), "{refused}");

    let mut command = shell("cat /sys/kernel/btf/vmlinux");
    common::replace_btf(&mut command, b"no types");
    assert_eq!(output(command), "no types");
    let real = fs::metadata("/sys/kernel/btf/vmlinux").expect("this kernel has types");
    assert!(real.len() > 1000);

    let mut command = shell("cat /proc/self/net/dev /proc/self/net/fib_trie; true");
    common::without_loopback(&mut command);
    let interfaces = output(command);
    assert!(
        interfaces.contains("lo:") && !interfaces.contains("127.0.0.1"),
        "{interfaces}"
    );
}

#[test]
fn the_kernel_log_gives_nothing_that_was_there_before() {
    assert_eq!(KernelLog::mark().warnings(), Vec::<String>::new());
}
