//! The benchmark: its three columns, its formats, its refusals, and that it leaves nothing behind.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{Arena, Process, Tool, built, wait_until_gone};
use serde_json::Value;

const GONE: Duration = Duration::from_secs(10);
/// A single-core row, which runs on any machine.
const ROW: &str = "request-response/1KiB/same-core";

/// The benchmark for the arena's cgroup, run from outside of it.
fn bench(arena: &Arena, arguments: &[&str]) -> Command {
    let mut command = arena.host_command(built("sockredir-bench"));
    command.arg("--cgroup").arg(arena.cgroup());
    command.args(arguments).stdin(Stdio::null());
    command
}

fn finish(mut command: Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let error = String::from_utf8(stderr).unwrap();
    assert!(status.success() && error.is_empty(), "{status}: {error}");
    String::from_utf8(stdout).unwrap()
}

/// Exit status and the single line of output.
fn refusal(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty());
    assert_eq!(error.lines().count(), 1, "not one line: {error}");
    (output.status.code(), error)
}

fn assert_nothing_stays(arena: &Arena) {
    wait_until_gone(GONE);
    let folders = fs::read_dir(arena.cgroup()).unwrap().filter(|entry| {
        let entry = entry.as_ref().unwrap();
        entry.file_type().unwrap().is_dir()
    });
    assert_eq!(folders.count(), 0, "cgroups stay");
}

fn json(arena: &Arena, arguments: &[&str]) -> Value {
    let mut command = bench(arena, &["--quick", "--json"]);
    command.args(arguments);
    let report: Value = serde_json::from_str(&finish(command)).unwrap();
    assert_eq!(report["format"], 1);
    report
}

#[test]
fn json_has_the_three_columns_and_the_control_of_each_round() {
    let arena = Arena::new();
    let report = json(&arena, &["--filter", ROW]);
    assert_eq!(
        report["columns"],
        serde_json::json!(["plain", "unix", "sockredir"])
    );
    let [row] = report["rows"].as_array().unwrap().as_slice() else {
        panic!("not one row: {report}");
    };
    assert_eq!(row["name"], ROW);
    for column in [
        &row["columns"]["plain"],
        &row["columns"]["unix"],
        &row["columns"]["sockredir"],
        &row["control"],
    ] {
        let rounds = column["rounds"].as_array().unwrap();
        assert_eq!(rounds.len(), 3, "{row}");
        for figures in rounds {
            for name in [
                "operations_per_second",
                "p50_us",
                "p999_us",
                "cpu_us_per_operation",
            ] {
                assert!(figures[name].as_f64().unwrap() > 0.0, "{name}: {row}");
            }
        }
    }
    let accelerated = &row["columns"]["sockredir"];
    assert!(accelerated["ratio"]["median"].as_f64().unwrap() > 0.0);
    assert_nothing_stays(&arena);
}

/// Checked by its own counters and by the bytes on the loopback interface.
#[test]
fn the_accelerated_column_was_accelerated_and_plain_tcp_was_not() {
    let arena = Arena::new();
    let report = json(&arena, &["--filter", ROW]);
    let columns = &report["rows"][0]["columns"];
    let accelerated = &columns["sockredir"];
    let share = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{report}"));
    assert!(share(&accelerated["median"]["redirected"]) > 0.8, "{accelerated}");
    assert!(share(&accelerated["bypassed"]) > 0.8, "{accelerated}");
    assert_eq!(accelerated["not_accelerated"], false);
    assert!(accelerated["counters"]["messages_redirected"].as_u64().unwrap() > 0);
    let carried = |column: &str| share(&columns[column]["median"]["loopback_bytes_per_byte"]);
    assert!(carried("plain") > 1.0 && carried("unix") == 0.0, "{columns}");
}

/// A sender that fills its queue whenever there is room would stay on TCP, and so would one whose message was taken in part if
/// the rest counted as a small one. That depends on when the receiver accepts, hence several rounds.
#[test]
fn a_stream_of_large_messages_on_one_core_bypasses_tcp() {
    let arena = Arena::new();
    let report = json(&arena, &["--rounds", "15", "--filter", "stream/64KiB/same-core"]);
    let accelerated = &report["rows"][0]["columns"]["sockredir"];
    let rounds = accelerated["rounds"].as_array().unwrap();
    let bypassed = rounds
        .iter()
        .filter(|round| round["redirected"].as_f64().is_some_and(|share| share > 0.7));
    assert!(bypassed.count() >= 13, "{accelerated}");
}

#[test]
fn every_workload_runs_to_its_end() {
    let arena = Arena::new();
    for (filter, figure) in [
        ("stream/1KiB/same-core", "bytes_per_second"),
        ("request-response/64B/blocking", "p50_us"),
        ("short/1/excluded-port", "operations_per_second"),
        ("short/8", "operations_per_second"),
        ("request-response/64B/256-connections", "p99_us"),
        ("stream/64KiB/veth", "cpu_ns_per_byte"),
        ("stopped/64KiB", "accepted_bytes"),
    ] {
        let report = json(&arena, &["--rounds", "1", "--filter", filter]);
        let row = &report["rows"][0];
        assert_eq!(row["name"], filter, "{report}");
        for column in ["plain", "sockredir"] {
            let value = &row["columns"][column]["median"][figure];
            assert!(value.as_f64().unwrap() > 0.0, "{column} {figure}: {row}");
        }
    }
}

#[test]
fn csv_has_the_documented_columns() {
    let arena = Arena::new();
    let text = finish(bench(
        &arena,
        &["--quick", "--csv", "--rounds", "1", "--filter", ROW],
    ));
    let lines: Vec<Vec<_>> = text.lines().map(|line| line.split(',').collect()).collect();
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
    let documents = fs::read_to_string(documents).unwrap();
    for name in &lines[0] {
        assert!(
            documents.contains(&format!("`{name}`")),
            "{name} is not documented"
        );
    }
    assert_eq!(lines.len(), 4, "{text}");
    for (line, column) in lines[1..].iter().zip(["plain", "unix", "sockredir"]) {
        assert_eq!(line.len(), lines[0].len(), "{text}");
        assert_eq!(line[..2], [ROW, column], "{text}");
    }
}

#[test]
fn the_table_names_machine_rows_and_columns() {
    let arena = Arena::new();
    let chart = std::env::temp_dir().join(format!("sockredir-test-{}.svg", std::process::id()));
    let mut command = bench(
        &arena,
        &["--quick", "--rounds", "1", "--filter", "request-response/64"],
    );
    command.arg("--plot").arg(&chart);
    let text = finish(command);
    for part in [
        "Linux",
        "client on processor",
        "noise",
        "unix",
        "sockredir against plain TCP",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    let drawing = fs::read_to_string(&chart).unwrap();
    fs::remove_file(&chart).unwrap();
    assert!(drawing.starts_with("<svg") && drawing.trim_end().ends_with("</svg>"));
    assert!(drawing.contains("64KiB"));
}

/// Ctrl-C in the middle of a run.
#[test]
fn an_interrupted_benchmark_leaves_nothing_behind() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let arena = Arena::new();
        let command = bench(&arena, &["--rounds", "100", "--json", "--filter", ROW]);
        let mut process = Process::start(command);
        let busy = arena.cgroup().join(format!(
            "sockredir-bench-{}/accelerated/cgroup.procs",
            process.pid()
        ));
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !fs::read_to_string(&busy).is_ok_and(|pids| !pids.is_empty()) {
            assert!(std::time::Instant::now() < deadline, "{}", process.transcript());
            std::thread::sleep(Duration::from_millis(1));
        }
        process.signal(signal);
        let status = process.wait(Duration::from_secs(60));
        assert_eq!(status.code(), Some(1), "{}", process.transcript());
        assert_eq!(
            process.stderr(),
            ["sockredir-bench: interrupted: nothing is left behind"]
        );
        assert!(process.stdout().is_empty());
        assert_nothing_stays(&arena);
    }
}

/// The same datapath run by another user, and programs that accelerate nothing.
#[test]
fn another_accelerator_is_measured_under_its_name_and_by_what_loopback_carries() {
    let arena = Arena::new();
    let tool = format!(
        "{} run --adopt off --trust-programs all --known-programs none --cgroup",
        env!("CARGO_BIN_EXE_sockredir")
    );
    let report = json(&arena, &["--rounds", "1", "--filter", ROW, "--external", &tool]);
    let columns = &report["rows"][0]["columns"];
    assert_eq!(report["columns"][2], "sockredir");
    assert!(
        columns["sockredir"]["bypassed"].as_f64().unwrap() > 0.8,
        "{columns}"
    );
    assert!(columns["sockredir"]["median"].get("redirected").is_none());
    assert_nothing_stays(&arena);

    let idle = "sh -c 'echo ready; exec sleep 600'";
    let report = json(&arena, &["--rounds", "1", "--filter", ROW, "--external", idle]);
    assert_eq!(report["columns"][2], "sh");
    assert_eq!(
        report["rows"][0]["columns"]["sh"]["not_accelerated"], true,
        "{report}"
    );

    for (command, words) in [
        ("true", "ended before it printed"),
        ("sh -c 'echo ready'", "has ended by itself"),
    ] {
        let (status, line) = refusal(bench(
            &arena,
            &["--quick", "--filter", ROW, "--external", command],
        ));
        assert!(status == Some(1) && line.contains(words), "{status:?} {line}");
        assert_nothing_stays(&arena);
    }
}

/// Plain TCP would not be plain.
#[test]
fn a_cgroup_that_a_running_tool_covers_is_refused() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let (status, line) = refusal(bench(&arena, &["--quick", "--filter", ROW]));
    assert_eq!(status, Some(1));
    for part in ["a running sockredir covers cgroup", "stop it", "--cgroup"] {
        assert!(line.contains(part), "{part} is not in: {line}");
    }
    assert!(tool.stop().status.success());
    assert_nothing_stays(&arena);
}

#[test]
fn a_tunable_has_an_effect_and_is_in_the_report() {
    let arena = Arena::new();
    let set = ["--set", "queue_bytes=0", "--set", "gain_messages=1000000"];
    let mut arguments = vec!["--rounds", "1", "--filter", ROW];
    arguments.extend(set);
    let report = json(&arena, &arguments);
    assert_eq!(report["tunables"]["queue_bytes"], 0);
    let accelerated = &report["rows"][0]["columns"]["sockredir"];
    assert_eq!(accelerated["median"]["redirected"], 0.0, "{accelerated}");
    assert_eq!(accelerated["not_accelerated"], true);
}

#[test]
fn a_chart_that_cannot_be_written_is_refused_before_anything_is_measured() {
    let arena = Arena::new();
    let (status, line) = refusal(bench(&arena, &["--plot", "/nowhere/charts.svg"]));
    assert!(
        status == Some(1) && line.contains("/nowhere/charts.svg"),
        "{line}"
    );
    assert_nothing_stays(&arena);
}
