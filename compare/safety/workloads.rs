//! The cases that are one workload of the tests each, or a group of scenarios.

use super::{Case, Trial, Verdict};
use crate::accelerator::Accelerator;
use crate::bench;
use crate::common::{Arena, TrafficReport};
use crate::report::bytes;
use crate::transcripts::{Difference, MODES};

pub const CASES: &[Case] = &[
    Case {
        name: "order",
        how: "2 GiB over 64 connections whose directions change their nature at random",
        judge: |trial| workload(trial, &["order", "--bytes", "2G", "--connections", "64"]),
    },
    Case {
        name: "order behind TCP_DEFER_ACCEPT",
        how: "two messages before `accept`, to a listener that waits for the first, as Apache's does",
        judge: |trial| scenarios(trial, &MODES, &["connect-deferred"]),
    },
    Case {
        name: "order behind TCP Fast Open",
        how: "a message in the SYN and one after it",
        judge: |trial| scenarios(trial, &MODES, &["connect-fastopen"]),
    },
    Case {
        name: "small writes",
        how: "a stream of messages of 64 B, and of 4 KiB, as `sockredir-bench` measures them",
        judge: small_writes,
    },
    Case {
        name: "slow reader, bytes",
        how: "messages of 64 KiB to 4 readers that have stopped, up to 64 MiB each",
        judge: |trial| stopped(trial, "65536", "64M"),
    },
    Case {
        name: "slow reader, messages",
        how: "messages of 64 B to 4 readers that have stopped, up to 16 MiB each",
        judge: |trial| stopped(trial, "64", "16M"),
    },
    Case {
        name: "slow reader, calls",
        how: "scenarios of full queues, blocking programs",
        judge: |trial| scenarios(trial, &["blocking"], &["slow"]),
    },
    Case {
        name: "half-close",
        how: "scenarios of `shutdown`, in both modes",
        judge: |trial| scenarios(trial, &MODES, &["halfclose", "shutdown"]),
    },
    Case {
        name: "ends of connections",
        how: "20,000 short connections that end in every way",
        judge: |trial| workload(trial, &["churn", "--count", "20000", "--connections", "64"]),
    },
    Case {
        name: "edge-triggered readers",
        how: "100 connections whose readers stop at a short read, 10 s",
        judge: |trial| readers(trial, "edge"),
    },
    Case {
        name: "FIONREAD readers",
        how: "100 connections whose readers ask FIONREAD how much to read, 10 s",
        judge: |trial| readers(trial, "fionread"),
    },
    Case {
        name: "FIONREAD, calls",
        how: "scenarios that ask FIONREAD",
        judge: |trial| scenarios(trial, &MODES, &["ready-fionread", "connect-asks"]),
    },
    Case {
        name: "blocking calls",
        how: "scenarios of blocking programs: `recv` under shutdown, reset and signals, MSG_WAITALL, several readers",
        judge: |trial| scenarios(trial, &["blocking"], &["recv", "reset", "signals", "threads"]),
    },
    Case {
        name: "blocking programs",
        how: "2,000 short connections that end in every way, threads with blocking calls",
        judge: |trial| {
            let arguments = [
                "churn",
                "--count",
                "2000",
                "--connections",
                "64",
                "--mode",
                "blocking",
            ];
            workload(trial, &arguments)
        },
    },
    Case {
        name: "splice",
        how: "scenarios of `splice`, in both modes",
        judge: |trial| scenarios(trial, &MODES, &["vectors-splice"]),
    },
    Case {
        name: "all calls, non-blocking programs",
        how: "all scenarios",
        judge: |trial| scenarios(trial, &["nonblocking"], &[""]),
    },
    Case {
        name: "all calls, blocking programs",
        how: "all scenarios",
        judge: |trial| scenarios(trial, &["blocking"], &[""]),
    },
];

/// Runs a workload in an arena of its own.
fn traffic(accelerator: &Accelerator, arguments: &[&str]) -> TrafficReport {
    let arena = Arena::new();
    let running = accelerator.start(&arena);
    let report = arena
        .traffic(&[arguments, &["--deadline", "120"]].concat())
        .wait();
    running.stop();
    report
}

fn workload(trial: &mut Trial, arguments: &[&str]) -> Verdict {
    judge(&traffic(trial.accelerator, arguments))
}

fn readers(trial: &mut Trial, only: &str) -> Verdict {
    let arguments = [
        "readers",
        "--connections",
        "100",
        "--seconds",
        "10",
        "--only",
        only,
    ];
    workload(trial, &arguments)
}

/// A workload that has ended says `ok`, or has said what was wrong.
pub fn judge(report: &TrafficReport) -> Verdict {
    if report.is_ok() {
        return Verdict::Fine(String::new());
    }
    let faults: Vec<_> = report
        .stderr
        .iter()
        .filter_map(|line| line.strip_prefix("fault: "))
        .collect();
    let kinds = [
        ("wrong bytes", "wrong bytes"),
        ("stalled", "stalls"),
        ("stuck", "answers that never arrive"),
        ("where FIONREAD said", "wrong answers of FIONREAD"),
        ("Cannot allocate memory", "sends that fail with ENOMEM"),
        (
            "Resource temporarily unavailable",
            "blocking calls that return EAGAIN",
        ),
    ];
    for (sign, what) in kinds {
        let count = faults.iter().filter(|fault| fault.contains(sign)).count();
        if count > 0 {
            return Verdict::Wrong(format!("{count} {what}"));
        }
    }
    // Without the state of both ends, which is in brackets behind it.
    let first = report.stderr.first().and_then(|line| line.split(" (").next());
    Verdict::Wrong(first.unwrap_or("it ended without a word").to_owned())
}

/// Bounded as on plain TCP: at most twice the bytes, and 2 MiB more of kernel memory for a connection. The kernel counts its
/// memory for the whole machine, so that of several runs the least counts.
fn stopped(trial: &mut Trial, size: &'static str, limit: &str) -> Verdict {
    const RUNS: usize = 2;
    const MORE: u64 = 2 << 20;
    let arguments = ["stopped", "--connections", "4", "--size", size, "--limit", limit];
    let (mut taken, mut slab) = (0, u64::MAX);
    for _ in 0..RUNS {
        let report = traffic(trial.accelerator, &arguments);
        if !report.is_ok() {
            return judge(&report);
        }
        taken = report.value("accepted_max");
        slab = slab.min(report.value("slab_bytes_per_connection"));
    }
    let figure = format!("{} in {} of slab", bytes(taken), bytes(slab));
    let [taken_name, slab_name] = match size {
        "64" => ["bytes in small messages", "slab of small messages"],
        _ => ["bytes in large messages", "slab of large messages"],
    };
    let most = 2 * trial.against_plain(taken_name, taken);
    let most_slab = trial.against_plain(slab_name, slab) + MORE;
    if taken <= most && slab <= most_slab {
        return Verdict::Fine(figure);
    }
    Verdict::Wrong(format!("takes {figure} for a connection"))
}

/// A stream that is slower than on plain TCP, beyond the noise.
fn small_writes(trial: &mut Trial) -> Verdict {
    const ROWS: [&str; 2] = ["stream/64B", "stream/4KiB"];
    if trial.accelerator.is_plain() {
        return Verdict::Fine(String::new());
    }
    let [mut is_slower, mut is_noisy] = [false; 2];
    let ratios = ROWS.map(|name| {
        let result = bench::measure(trial.accelerator, &["--quick", "--rounds", "5", "--filter", name]);
        let result = result.unwrap_or_else(|error| panic!("{error:#}"));
        let mut rows = result["rows"].as_array().into_iter().flatten();
        let row = rows.find(|row| row["name"] == name);
        let column = row
            .map(|row| bench::accelerated(&result, row))
            .unwrap_or_default();
        is_slower |= column["verdict"] == "worse";
        is_noisy |= column["verdict"] == "noisy";
        column["ratio"]["median"].as_f64().unwrap_or(f64::NAN)
    });
    let figure = format!("{:.2} and {:.2} of plain TCP's rate", ratios[0], ratios[1]);
    match (is_slower, is_noisy) {
        (true, _) => Verdict::Wrong(figure),
        (false, true) => Verdict::Unclear(figure),
        (false, false) => Verdict::Fine(figure),
    }
}

/// How many scenarios differ, and the first of them.
fn scenarios(trial: &mut Trial, modes: &[&str], prefixes: &[&str]) -> Verdict {
    let (mut count, mut found) = (0, Vec::new());
    for mode in modes {
        let (more, differing) = trial.differences.of(mode, prefixes);
        count += more;
        found.extend(differing);
    }
    // One with wrong bytes is worse than any other.
    let worst = found.iter().find(|found| found.accelerated.contains("wrong"));
    let Some(Difference {
        scenario,
        plain,
        accelerated,
        ..
    }) = worst.or(found.first())
    else {
        return Verdict::Fine(format!("{count} scenarios"));
    };
    let differ = found.len();
    Verdict::Wrong(format!(
        "{differ} of {count} scenarios differ, as {scenario}: `{plain}` is `{accelerated}`"
    ))
}
