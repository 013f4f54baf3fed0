//! The checks before the start: `doctor` reports their results, `run` refuses because of them, and `--force` overrides.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Arena, Process, Tool, wait_until_gone};

const ENVIRONMENT: [&str; 4] = ["privileges", "cgroup2", "kernel-types", "load"];
const SELF_TEST: [&str; 8] = [
    "self-test",
    "redirects",
    "order",
    "fionread",
    "edge-triggered",
    "queue-bound",
    "after-close",
    "leaving",
];

/// The tool, outside the arena's cgroup but in its network namespace.
fn sockredir(arena: &Arena, arguments: &[&str]) -> Command {
    let mut command = arena.host_command(env!("CARGO_BIN_EXE_sockredir"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn doctor(arena: &Arena) -> Command {
    let mut command = sockredir(arena, &["doctor", "--cgroup"]);
    command.arg(arena.cgroup());
    command
}

struct Diagnosis {
    status: Option<i32>,
    text: String,
}

impl Diagnosis {
    fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        assert!(
            output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self {
            status: output.status.code(),
            text: String::from_utf8(output.stdout).unwrap(),
        }
    }

    /// The result and the explanation of a check.
    fn row(&self, name: &str) -> (&str, &str) {
        let cells = |line: &'_ str| Some(line.strip_prefix(name)?.starts_with("  "));
        let mut rows = self.text.lines().filter(|line| cells(line) == Some(true));
        let row = rows
            .next()
            .unwrap_or_else(|| panic!("no row {name}: {}", self.text));
        assert_eq!(rows.next(), None, "{}", self.text);
        let row = row[name.len()..].trim();
        let (result, meaning) = row.split_once("  ").expect(row);
        (result, meaning.trim())
    }

    fn assert_all(&self, names: &[&str], result: &str) {
        for name in names {
            assert_eq!(self.row(name).0, result, "{name}: {}", self.text);
        }
    }

    /// Asserts that the check has failed, with these words in the explanation or the remedy; `run` would refuse.
    fn assert_failed(&self, name: &str, words: &[&str]) {
        assert_eq!(self.status, Some(1), "{}", self.text);
        assert!(self.text.contains("would refuse to start"), "{}", self.text);
        let (result, meaning) = self.row(name);
        assert_eq!(result, "failed", "{name}: {}", self.text);
        let mut lines = self.text.lines();
        lines.find(|line| line.starts_with(name) && line.contains("  failed"));
        let remedy = lines.next().unwrap_or_default().trim();
        assert!(remedy.starts_with("remedy: "), "{}", self.text);
        for word in words {
            assert!(
                meaning.contains(word) || remedy.contains(word),
                "{word} is not in: {meaning} {remedy}"
            );
        }
    }
}

/// The single line that `run` prints when it refuses.
fn refusal(mut command: Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(output.stdout.is_empty());
    assert_eq!(error.lines().count(), 1, "not one line: {error}");
    error
}

/// What `run` prints on standard error when it starts, on a kernel that can be scanned or not.
fn start(mut command: Command) -> Vec<String> {
    command.args(["--adopt", "auto"]);
    let mut tool = Process::start(command);
    tool.wait_for_line("ready", 1, Duration::from_secs(30));
    tool.signal(libc::SIGINT);
    let status = tool.wait(Duration::from_secs(60));
    assert!(status.success(), "{}", tool.transcript());
    tool.stderr()
}

/// Subdirectories are cgroups; everything else in a cgroup directory is a file.
fn has_subfolders(cgroup: &Path) -> bool {
    let mut entries = fs::read_dir(cgroup).unwrap();
    entries.any(|entry| entry.unwrap().file_type().unwrap().is_dir())
}

#[test]
fn a_fit_host_passes_every_check_and_nothing_stays() {
    let arena = Arena::new();
    let diagnosis = Diagnosis::of(doctor(&arena));
    println!("{}", diagnosis.text);
    assert_eq!(diagnosis.status, Some(0), "{}", diagnosis.text);
    for names in [&ENVIRONMENT[..], &SELF_TEST, &["single-instance"]] {
        diagnosis.assert_all(names, "ok");
    }
    assert!(diagnosis.text.contains("`sockredir run` would start."));
    wait_until_gone(Duration::from_secs(10));
    assert!(!has_subfolders(arena.cgroup()));
}

#[test]
fn json_has_every_check() {
    let arena = Arena::new();
    let mut command = doctor(&arena);
    command.arg("--json");
    let diagnosis = Diagnosis::of(command);
    assert_eq!(diagnosis.status, Some(0), "{}", diagnosis.text);
    for name in ENVIRONMENT.iter().chain(&SELF_TEST) {
        let part = format!(r#"{{"name":"{name}","result":"ok","meaning":""#);
        assert!(diagnosis.text.contains(&part), "{part}: {}", diagnosis.text);
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    for part in [
        format!(r#""version":"{}""#, env!("CARGO_PKG_VERSION")),
        format!(r#""kernel":"{}""#, kernel.trim_end()),
        r#""would_run":true"#.to_owned(),
    ] {
        assert!(diagnosis.text.contains(&part), "{part}: {}", diagnosis.text);
    }
}

#[test]
fn without_capabilities_nothing_is_loaded() {
    let arena = Arena::new();
    let mut command = doctor(&arena);
    common::drop_capabilities(&mut command, &[39, 21]);
    let diagnosis = Diagnosis::of(command);
    diagnosis.assert_failed("privileges", &["CAP_BPF", "run as root"]);
    diagnosis.assert_all(&["cgroup2", "kernel-types", "single-instance"], "ok");
    diagnosis.assert_all(&["load"], "not run");
    diagnosis.assert_all(&SELF_TEST, "not run");
    assert_eq!(diagnosis.row("leaving").1, "privileges failed");
}

#[test]
fn without_cgroup2_the_programs_are_still_loaded() {
    let arena = Arena::new();
    let mut command = sockredir(&arena, &["doctor"]);
    common::hide_cgroup2(&mut command);
    let diagnosis = Diagnosis::of(command);
    diagnosis.assert_failed("cgroup2", &["not mounted", "mount -t cgroup2"]);
    diagnosis.assert_all(&["privileges", "kernel-types", "load"], "ok");
    diagnosis.assert_all(&SELF_TEST, "not run");
    diagnosis.assert_all(&["single-instance"], "not run");
    assert_eq!(diagnosis.row("order").1, "cgroup2 failed");
}

/// A file without a single type replaces the kernel's BTF.
#[test]
fn without_the_types_of_the_kernel_nothing_is_loaded() {
    let arena = Arena::new();
    let mut command = doctor(&arena);
    common::replace_btf(&mut command, b"none");
    let diagnosis = Diagnosis::of(command);
    diagnosis.assert_failed("kernel-types", &["type information", "CONFIG_DEBUG_INFO_BTF"]);
    diagnosis.assert_all(&["load"], "not run");
    diagnosis.assert_all(&SELF_TEST, "not run");
}

#[test]
fn another_instance_is_the_only_obstacle_where_one_runs() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let diagnosis = Diagnosis::of(doctor(&arena));
    diagnosis.assert_failed("single-instance", &["another sockredir", "stop it first"]);
    diagnosis.assert_all(&ENVIRONMENT, "ok");
    diagnosis.assert_all(&SELF_TEST, "ok");
    assert!(tool.stop().status.success());
}

/// A sound kernel, except that its answer to FIONREAD is suppressed.
#[test]
fn a_behaviour_that_is_missing_is_named_and_can_be_forced() {
    let arena = Arena::new();
    let broken = |mut command: Command| {
        common::break_fionread(&mut command);
        command
    };
    let diagnosis = Diagnosis::of(broken(doctor(&arena)));
    diagnosis.assert_failed("fionread", &["would hang", "it says 0 of 10", "use Linux"]);
    for name in SELF_TEST.iter().filter(|name| **name != "fionread") {
        assert_eq!(diagnosis.row(name).0, "ok", "{name}: {}", diagnosis.text);
    }

    let run = |arguments: &[&str]| {
        let mut command = broken(sockredir(&arena, arguments));
        command
            .args(["--known-programs", "none", "--cgroup"])
            .arg(arena.cgroup());
        command
    };
    for arguments in [&[][..], &["--force", "order,self-test"]] {
        let line = refusal(run(arguments));
        for part in [
            "sockredir: fionread: ",
            "would hang",
            "use Linux",
            "--force fionread",
        ] {
            assert!(line.contains(part), "{part} is not in: {line}");
        }
    }
    let said = start(run(&["--force", "fionread"]));
    assert!(
        said.len() == 1 && said[0].contains("--force fionread"),
        "{said:?}"
    );
    wait_until_gone(Duration::from_secs(10));
}

/// What cannot be tested counts as broken.
#[test]
fn a_self_test_that_cannot_be_made_is_a_reason_to_refuse() {
    let arena = Arena::new();
    // Another process keeps the tool from using its own cgroup.
    let mut other = arena.host_command("sleep");
    other.arg("600").stdin(Stdio::null());
    let _other = Process::start(other);
    let loopback_down: fn(&mut Command) = common::without_loopback;
    let read_only: fn(&mut Command) = common::lock_cgroup2;
    for (restrict, words) in [
        (loopback_down, ["loopback", "ip link set lo up"]),
        (read_only, ["Read-only file system", "without other processes"]),
    ] {
        let mut command = doctor(&arena);
        restrict(&mut command);
        let diagnosis = Diagnosis::of(command);
        diagnosis.assert_failed("self-test", &words);
        diagnosis.assert_all(&ENVIRONMENT, "ok");
        diagnosis.assert_all(&SELF_TEST[1..], "not run");

        let run = |arguments: &[&str]| {
            let mut command = sockredir(&arena, arguments);
            command
                .args(["--known-programs", "none", "--cgroup"])
                .arg(arena.cgroup());
            restrict(&mut command);
            command
        };
        assert!(refusal(run(&[])).contains("--force self-test"));
        assert_eq!(start(run(&["--force", "self-test"])).len(), 1);
    }
    assert!(!has_subfolders(arena.cgroup()));
}

/// As in a service that cannot write to cgroups, and in a container.
#[test]
fn where_no_cgroup_can_be_made_the_self_test_has_its_own_if_it_is_alone() {
    let arena = Arena::new();
    let mut command = doctor(&arena);
    common::lock_cgroup2(&mut command);
    let diagnosis = Diagnosis::of(command);
    assert_eq!(diagnosis.status, Some(0), "{}", diagnosis.text);
    diagnosis.assert_all(&SELF_TEST, "ok");

    let mut command = sockredir(&arena, &["--cgroup"]);
    command.arg(arena.cgroup());
    common::lock_cgroup2(&mut command);
    assert_eq!(start(command), [""; 0]);
    wait_until_gone(Duration::from_secs(10));
}

/// As in a container, where every start has the same pid.
#[test]
fn the_cgroup_of_a_start_that_was_killed_is_used_and_removed() {
    let arena = Arena::new();
    let script = r#"mkdir "$1/sockredir-self-test-$$" && exec "$0" doctor --cgroup "$1""#;
    let mut command = arena.host_command("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_sockredir")]);
    command.arg(arena.cgroup()).stdin(Stdio::null());
    let diagnosis = Diagnosis::of(command);
    assert_eq!(diagnosis.status, Some(0), "{}", diagnosis.text);
    assert!(!has_subfolders(arena.cgroup()));
}

/// The self-test makes connections that no option covers, and leaves no trace in the totals.
#[test]
fn the_options_of_run_do_not_matter_to_the_self_test() {
    let arena = Arena::new();
    for arguments in [
        &["--max-flows", "1"][..],
        &["--ports", "1", "--exclude-ports", "2-65535"],
        &["--admit", "any"],
    ] {
        let report = Tool::start(&arena, arguments).end();
        // None of its connections was counted.
        assert_eq!(
            report.stdout.last().map(String::as_str),
            Some("totals"),
            "{}",
            report.transcript
        );
    }
}
