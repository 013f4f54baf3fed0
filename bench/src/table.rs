//! The results as a table for people: a block of lines per row, under the heading of its group.

use std::fmt::Write as _;

use super::cases::Workload;
use super::figures::Figure;
use super::report::{Column, Report, Row};
use super::statistics::{Spread, Verdict};

const LEGEND: &str = "\
ratio: times as good as plain TCP in the same round, median (quartiles); CPU: user and system time of client and server;
noise: by how much plain TCP differs from itself. + better, - worse, = no difference beyond the noise, ? too noisy to tell.
";

pub fn text(report: &Report) -> String {
    let mut text = heading(report);
    let mut group = "";
    for row in &report.rows {
        if row.case.group != group {
            group = row.case.group;
            let _ = writeln!(text, "\n{group}\n{}", titles(report, row.case.workload));
        }
        text.push_str(&block(report, row));
    }
    text.push('\n');
    text.push_str(LEGEND);
    text.push_str(&summary(report));
    text
}

/// The environment of the measurements. Writing to a string does not fail, here and below.
fn heading(report: &Report) -> String {
    let Report { host, during, .. } = report;
    let mut text = String::new();
    let kind = if host.is_virtual {
        "virtual machine"
    } else {
        "no hypervisor"
    };
    let _ = writeln!(
        text,
        "sockredir {}, {} benchmark: {} rounds of {} ms",
        report.version, report.mode, report.rounds, report.window_ms
    );
    let _ = writeln!(
        text,
        "{}, {} processors, {:.0} GiB, {kind}, Linux {} {}",
        host.cpu, host.cpus, host.memory_gib, host.kernel, host.architecture
    );
    let processors = &report.processors;
    let siblings = if processors.are_siblings {
        ", two threads of one core"
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "client on processor {}, server on {}{siblings}; load {:.1} before, {:.1} after; {:.1} % of the time stolen by the \
         hypervisor",
        processors.client,
        processors.server,
        during.load_before,
        during.load_after,
        during.steal * 100.0
    );
    let network = if report.private_network {
        "in network namespaces of their own"
    } else {
        "in the host's network namespace"
    };
    let _ = writeln!(text, "all programs {network}");
    for (name, value) in &report.tunables {
        let _ = writeln!(text, "tunable {name} = {value}");
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

/// One line of a block, by its cells.
fn line(report: &Report, first: &str, cells: [&str; 8]) -> String {
    let [speed, p50, p99, p999, cpu, ratio, cpu_ratio, redirected] = cells;
    let names = report.columns.iter().map(|name| name.len() + 2);
    let width = names.max().unwrap_or_default();
    let line = format!(
        "  {first:width$}{speed:>14}{p50:>9}{p99:>9}{p999:>9}{cpu:>13}{ratio:>22}{cpu_ratio:>11}{redirected:>12}"
    );
    line.trim_end().to_owned()
}

fn titles(report: &Report, workload: Workload) -> String {
    if workload == Workload::Stopped {
        return line(
            report,
            "",
            ["taken", "", "", "", "kernel", "memory ratio", "", "redirected"],
        );
    }
    line(
        report,
        "",
        [
            "speed",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "CPU",
            "ratio",
            "CPU ratio",
            "redirected",
        ],
    )
}

fn block(report: &Report, row: &Row) -> String {
    let noise = |share: Option<f64>| share.map_or("unknown".to_owned(), percent);
    let mut text = format!(
        "{} (noise {}, of CPU {})\n",
        row.case.name,
        noise(row.noise),
        noise(row.cpu_noise)
    );
    for name in &report.columns {
        let Some(column) = row.columns.get(name) else {
            continue;
        };
        let _ = writeln!(text, "{}", cells(report, row, name, column));
        if let Some(failure) = &column.failure {
            let _ = writeln!(text, "  {name} failed: {failure}");
        }
        if column.not_accelerated {
            let counters: Vec<_> = column
                .counters
                .iter()
                .map(|(name, value)| format!("{name} {value}"))
                .collect();
            let _ = writeln!(text, "  {name} was not accelerated: {}", counters.join(", "));
        }
    }
    text
}

fn cells(report: &Report, row: &Row, name: &str, column: &Column) -> String {
    let latency = |figure| column.median.get(figure).map(|value| format!("{value:.1}"));
    let redirected = column.median.get(Figure::Redirected).or(column.bypassed);
    let cells = [
        speed(row.case.workload, column),
        latency(Figure::P50Us),
        latency(Figure::P99Us),
        latency(Figure::P999Us),
        cost(row.case.workload, column),
        column.ratio.map(|ratio| spread(&ratio, column.verdict)),
        column
            .cpu_ratio
            .map(|ratio| format!("{:.2}{}", ratio.median, mark(column.cpu_verdict))),
        redirected.map(percent),
    ]
    .map(Option::unwrap_or_default);
    line(report, name, cells.each_ref().map(String::as_str))
}

fn speed(workload: Workload, column: &Column) -> Option<String> {
    match workload {
        Workload::Stream => {
            let bytes = column.median.get(Figure::BytesPerSecond)?;
            Some(format!("{:.3} GB/s", bytes / 1e9))
        }
        Workload::Stopped => {
            let least = if column.limited { ">" } else { "" };
            Some(format!(
                "{least}{:.0} KiB",
                column.median.get(Figure::AcceptedBytes)? / 1024.0
            ))
        }
        Workload::RequestResponse | Workload::Short { .. } => {
            let rate = column.median.get(Figure::OperationsPerSecond)?;
            Some(format!("{:.2} k/s", rate / 1e3))
        }
    }
}

fn cost(workload: Workload, column: &Column) -> Option<String> {
    match workload {
        Workload::Stream => Some(format!("{:.3} ns/B", column.median.get(Figure::CpuNsPerByte)?)),
        Workload::Stopped => Some(format!(
            "{:.0} KiB",
            column.median.get(Figure::KernelBytes)? / 1024.0
        )),
        Workload::RequestResponse | Workload::Short { .. } => {
            Some(format!("{:.2} us", column.median.get(Figure::CpuUsPerOperation)?))
        }
    }
}

fn spread(ratio: &Spread, verdict: Option<Verdict>) -> String {
    let Spread { median, q1, q3, .. } = ratio;
    format!("{median:.2} ({q1:.2}-{q3:.2}){}", mark(verdict))
}

fn mark(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Better) => " +",
        Some(Verdict::Worse) => " -",
        Some(Verdict::Same) => " =",
        Some(Verdict::Noisy) => " ?",
        None => "",
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Counts the accelerator's rows by verdict.
fn summary(report: &Report) -> String {
    let speed = tally(report, "plain TCP", |column| column.verdict);
    let cpu = tally(report, "plain TCP in CPU time", |column| column.cpu_verdict);
    speed + &cpu
}

/// How many rows have each verdict, and which have become worse.
fn tally(report: &Report, against: &str, verdict: fn(&Column) -> Option<Verdict>) -> String {
    let name = &report.columns[2];
    let named = |wanted| {
        let rows = report
            .rows
            .iter()
            .filter(|row| row.columns.get(name).and_then(verdict) == Some(wanted));
        rows.map(|row| row.case.name.as_str()).collect::<Vec<_>>()
    };
    let worse = named(Verdict::Worse);
    let mut text = format!(
        "{name} against {against}: {} rows better, {} the same, {} worse, {} too noisy to tell.\n",
        named(Verdict::Better).len(),
        named(Verdict::Same).len(),
        worse.len(),
        named(Verdict::Noisy).len()
    );
    if !worse.is_empty() {
        let _ = writeln!(text, "  worse: {}", worse.join(", "));
    }
    text
}
