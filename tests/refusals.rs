//! Bad input: each refusal is one line that states the problem and the remedy, and nothing is left behind.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Arena, Tool, kernel_objects, patience, wait_until_gone};

fn sockredir(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sockredir"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn on(arena: &Arena) -> Command {
    let mut command = sockredir(&["--cgroup"]);
    command.arg(arena.cgroup());
    command
}

/// Runs a command that must be refused: with this exit status, one line of error containing these parts, no other
/// output, and nothing left in the kernel.
fn refused(mut command: Command, status: i32, parts: &[&str]) {
    let before = kernel_objects();
    let Output {
        status: got,
        stdout,
        stderr,
    } = command.output().unwrap();
    let error = String::from_utf8(stderr).unwrap();
    println!("{error}");
    assert_eq!(got.code(), Some(status), "{error}");
    assert_eq!(error.lines().count(), 1, "not one line: {error}");
    assert!(error.starts_with("sockredir: "), "{error}");
    for part in parts {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    assert!(stdout.is_empty(), "printed {}", String::from_utf8_lossy(&stdout));
    // The kernel frees maps some time after their last user is gone.
    let deadline = Instant::now() + patience(Duration::from_secs(10));
    loop {
        let mut left = kernel_objects();
        left.retain(|object| !before.contains(object));
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {left:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn bad_port_lists() {
    for option in ["--ports", "--exclude-ports"] {
        for list in ["0", "65536", "80,", "90-80", "http", ""] {
            refused(
                sockredir(&[option, list]),
                2,
                &["a port from 1 to 65535", "--help"],
            );
        }
    }
}

#[test]
fn bad_options() {
    for arguments in [
        &["--max-flows", "0"][..],
        &["--interval", "0"],
        &["--drain-timeout", "soon"],
        &["--admit", "all"],
        &["--force", "everything"],
        &["--force", "privileges"],
    ] {
        refused(sockredir(arguments), 2, &[arguments[0], "--help"]);
    }
    refused(sockredir(&["--nonsense"]), 2, &["--nonsense", "--help"]);
    refused(sockredir(&["nonsense"]), 2, &["nonsense", "--help"]);
}

#[test]
fn missing_privileges_are_named() {
    const SYS_ADMIN: u64 = 21;
    for (name, number) in [("CAP_BPF", 39), ("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38)] {
        let arena = Arena::new();
        let mut command = on(&arena);
        common::drop_capabilities(&mut command, &[number, SYS_ADMIN]);
        refused(command, 1, &[name, "run as root"]);
    }
}

#[test]
fn a_host_without_cgroup2() {
    let mut command = sockredir(&[]);
    common::hide_cgroup2(&mut command);
    refused(command, 1, &["cgroup2 is not mounted", "mount -t cgroup2"]);
}

#[test]
fn a_cgroup_that_is_none() {
    let folder = std::env::temp_dir();
    for path in ["/proc", "/dev/null", folder.to_str().unwrap()] {
        refused(
            sockredir(&["--cgroup", path]),
            1,
            &[path, "not a cgroup of version 2", "cgroup2's mount"],
        );
    }
    refused(
        sockredir(&["--cgroup", "/nowhere"]),
        1,
        &["/nowhere", "No such file", "cgroup2's mount"],
    );
    let first = Path::new("/sys/fs/cgroup/memory");
    if first.join("cgroup.procs").exists() {
        refused(
            sockredir(&["--cgroup", first.to_str().unwrap()]),
            1,
            &["not a cgroup of version 2"],
        );
    }
}

/// The kernel's BTF is replaced by one without any types.
#[test]
fn a_kernel_that_lacks_what_the_datapath_needs() {
    let arena = Arena::new();
    let mut command = on(&arena);
    common::replace_btf(&mut command, &EMPTY_BTF);
    refused(command, 1, &["this kernel lacks struct sk_psock", "CONFIG_"]);
}

/// For unfit kernels, on which no other test passes; the kernel matrix runs it there.
#[test]
#[ignore = "fails where the tool works"]
fn a_kernel_without_its_functions_is_told_which_have_them() {
    let arena = Arena::new();
    refused(
        on(&arena),
        1,
        &["kernel-types: this kernel lacks ", "Linux 6.12.75, 6.18.14"],
    );
}

/// A 24-byte header, no types, and a string section with only the empty string (linux/btf.h).
const EMPTY_BTF: [u8; 25] = {
    let mut btf = [0; 25];
    btf[0] = 0x9f;
    btf[1] = 0xeb;
    btf[2] = 1;
    btf[4] = 24;
    btf[20] = 1;
    btf
};

#[test]
fn another_instance_on_the_same_cgroup() {
    let arena = Arena::new();
    let first = Tool::start(&arena, &[]);
    refused(
        on(&arena),
        1,
        &[
            "another sockredir",
            arena.cgroup().to_str().unwrap(),
            "stop it first",
        ],
    );
    assert!(first.stop().status.success());
    assert!(Tool::start(&arena, &[]).stop().status.success());
}

#[test]
fn a_cgroup_that_vanishes() {
    let arena = Arena::new();
    let inner = arena.subcgroup("inner");
    let mut tool = Tool::start_for(&arena, &inner, &[]);
    assert!(tool.is_running());
    fs::remove_dir(&inner).unwrap();
    let report = tool.wait();
    assert_eq!(report.status.code(), Some(1), "{}", report.transcript);
    assert!(
        report.stderr.len() == 1 && report.stderr[0].contains("was removed"),
        "{}",
        report.transcript
    );
    wait_until_gone(Duration::from_secs(10));
}

/// The self-test needs loopback; without it there would be nothing to accelerate anyway.
#[test]
fn a_network_namespace_whose_loopback_is_down() {
    let arena = Arena::new();
    let mut command = on(&arena);
    common::without_loopback(&mut command);
    refused(
        command,
        1,
        &["loopback", "ip link set lo up", "--force self-test"],
    );
}

#[test]
fn an_output_that_is_full() {
    let arena = Arena::new();
    let mut command = on(&arena);
    command.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let output = command
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.lines().count() == 1 && error.contains("standard output"),
        "{error}"
    );
    wait_until_gone(Duration::from_secs(10));
}

#[test]
fn help_and_version_are_no_errors() {
    let help = sockredir(&["--help"]).output().unwrap();
    assert!(help.status.success() && help.stderr.is_empty());
    let text = String::from_utf8(help.stdout).unwrap();
    for option in [
        "--cgroup",
        "--admit",
        "--ports",
        "--exclude-ports",
        "--max-flows",
        "--interval",
        "--drain-timeout",
        "--force",
        "doctor",
    ] {
        assert!(text.contains(option), "{option} is not in the help");
    }
    let version = String::from_utf8(sockredir(&["--version"]).output().unwrap().stdout).unwrap();
    assert!(
        version.starts_with(concat!("sockredir ", env!("CARGO_PKG_VERSION"))) && version.contains("libbpf"),
        "{version}"
    );
}
