//! Owns `sockredir-bench`: runs it with each accelerator, keeps its JSON, and puts the results side by side.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::accelerator::Accelerator;
use crate::common::built;
use crate::report::{Section, bytes, table, write};

/// The format of its JSON that this reads; docs/benchmarks.md describes it.
const FORMAT: u64 = 1;

/// Runs it for sockredir itself, or for another accelerator. Whether something failed is in its rows.
pub fn measure(accelerator: &Accelerator, arguments: &[&str]) -> Result<Value> {
    let mut command = Command::new(built("sockredir-bench"));
    command.arg("--json").args(arguments);
    if accelerator.name != "sockredir" {
        let program = accelerator
            .program
            .as_ref()
            .context("plain TCP is in every benchmark")?;
        command.arg("--external").arg(program);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.context("failed to run sockredir-bench")?;
    let result: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("sockredir-bench printed no JSON ({})", output.status))?;
    if result["format"] != FORMAT {
        bail!(
            "sockredir-bench prints format {}, and this reads {FORMAT}",
            result["format"]
        );
    }
    Ok(result)
}

/// The column of the accelerator in a row of its benchmark.
pub fn accelerated<'a>(result: &Value, row: &'a Value) -> &'a Value {
    let name = result["columns"]
        .as_array()
        .and_then(|columns| columns.last()?.as_str());
    &row["columns"][name.unwrap_or_default()]
}

pub fn run(accelerators: &[Accelerator], into: &Path, quick: bool) -> Result<Section> {
    let arguments: &[&str] = if quick { &["--quick"] } else { &[] };
    let measured = accelerators.iter().filter(|accelerator| !accelerator.is_plain());
    let mut results = Vec::new();
    for accelerator in measured {
        eprintln!("sockredir-bench with {}", accelerator.name);
        let result = measure(accelerator, arguments)?;
        write(
            &into.join(format!("bench-{}.json", accelerator.name)),
            &result.to_string(),
        )?;
        results.push((accelerator.name, result));
    }
    Ok(Section {
        name: "bench",
        text: text(&results),
    })
}

const LEGEND: &str = "Each accelerator has a benchmark of its own, with plain TCP in each round, so that a ratio is to plain TCP of the same \
    seconds. Above 1 is better: `+` better, `-` worse, `=` the same, `?` noisy. docs/benchmarks.md says what the rows are.";

fn text(results: &[(&str, Value)]) -> String {
    let Some((_, first)) = results.first() else {
        return String::new();
    };
    let mut header = vec!["row".to_owned(), "plain TCP".to_owned(), "Unix socket".to_owned()];
    header.extend(results.iter().map(|(name, _)| (*name).to_owned()));
    header.extend(results.iter().map(|(name, _)| format!("CPU, {name}")));
    let mut latency = vec!["row".to_owned(), "plain TCP".to_owned(), "Unix socket".to_owned()];
    latency.extend(results.iter().map(|(name, _)| (*name).to_owned()));

    let [mut speeds, mut times, mut stopped] = [Vec::new(), Vec::new(), Vec::new()];
    for row in rows(first) {
        let name = row["name"].as_str().unwrap_or_default();
        let own: Vec<_> = results
            .iter()
            .map(|(_, result)| own_column(result, name))
            .collect();
        let [plain, unix] = ["plain", "unix"].map(|column| &row["columns"][column]);
        let mut cells = vec![
            name.to_owned(),
            figure(row, plain),
            ratio(unix, "ratio", "verdict"),
        ];
        cells.extend(own.iter().map(|column| ratio(column, "ratio", "verdict")));
        cells.extend(own.iter().map(|column| ratio(column, "cpu_ratio", "cpu_verdict")));
        speeds.push(cells);
        let all = [plain, unix].into_iter().chain(own.iter().copied());
        if row["figure"] == "kernel_bytes" {
            stopped.push([name.to_owned()].into_iter().chain(all.map(queued)).collect());
        } else if plain["median"]["p50_us"].is_number() {
            times.push(
                [name.to_owned()]
                    .into_iter()
                    .chain(all.map(percentiles))
                    .collect(),
            );
        }
    }
    let names = |header: &[String]| header.to_vec();
    let as_table = |header: Vec<String>, rows: &[Vec<String>]| {
        let header: Vec<_> = header.iter().map(String::as_str).collect();
        table(&header, rows, true)
    };
    format!(
        "## sockredir-bench\n\n{LEGEND}\n\n{}\nTime of an operation, p50 / p99 in microseconds:\n\n{}\nBehind a reader that has \
         stopped, bytes taken / kernel memory for each connection:\n\n{}",
        as_table(header, &speeds),
        as_table(names(&latency), &times),
        as_table(latency, &stopped)
    )
}

fn rows(result: &Value) -> impl Iterator<Item = &Value> {
    result["rows"].as_array().into_iter().flatten()
}

/// The accelerator's column of the row of that name; null if this benchmark has no such row.
fn own_column<'a>(result: &'a Value, name: &str) -> &'a Value {
    let row = rows(result).find(|row| row["name"] == name);
    row.map_or(&Value::Null, |row| accelerated(result, row))
}

/// The figure that the row is about.
fn figure(row: &Value, column: &Value) -> String {
    let name = row["figure"].as_str().unwrap_or_default();
    let Some(value) = column["median"][name].as_f64() else {
        return "–".to_owned();
    };
    match name {
        "operations_per_second" => format!("{:.1} k/s", value / 1e3),
        "bytes_per_second" => format!("{:.2} GB/s", value / 1e9),
        _ => bytes(value as u64),
    }
}

fn ratio(column: &Value, ratio: &str, verdict: &str) -> String {
    if let Some(failure) = column["failure"].as_str() {
        return format!("**failed: {}**", failure.lines().next().unwrap_or_default());
    }
    let Some(value) = column[ratio]["median"].as_f64() else {
        return "–".to_owned();
    };
    let sign = match column[verdict].as_str() {
        Some("better") => " +",
        Some("worse") => " -",
        Some("same") => " =",
        Some("noisy") => " ?",
        _ => "",
    };
    format!("{value:.2}{sign}")
}

fn percentiles(column: &Value) -> String {
    let of = |name: &str| column["median"][name].as_f64();
    match (of("p50_us"), of("p99_us")) {
        (Some(p50), Some(p99)) => format!("{p50:.1} / {p99:.1}"),
        _ => "–".to_owned(),
    }
}

fn queued(column: &Value) -> String {
    let of = |name: &str| column["median"][name].as_f64().map(|value| bytes(value as u64));
    match (of("accepted_bytes"), of("kernel_bytes")) {
        (Some(accepted), Some(kernel)) if column["limited"] == true => {
            format!("{accepted} / {kernel}, and no end")
        }
        (Some(accepted), Some(kernel)) => format!("{accepted} / {kernel}"),
        _ => "–".to_owned(),
    }
}
