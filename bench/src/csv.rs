//! The results as comma-separated values: one line per row and column. No value needs quotes.

use std::fmt::Write as _;

use super::figures::Figure;
use super::report::{Column, Report, Row};
use super::statistics::Spread;

/// The first and the last columns; the figures are in between.
const FIRST: [&str; 7] = [
    "row",
    "column",
    "programs",
    "size",
    "connections",
    "cores",
    "network",
];
const LAST: [&str; 13] = [
    "ratio",
    "ratio_q1",
    "ratio_q3",
    "ratio_min",
    "ratio_max",
    "verdict",
    "noise",
    "cpu_ratio",
    "cpu_verdict",
    "cpu_noise",
    "bypassed",
    "rounds",
    "failed",
];

pub fn header() -> Vec<&'static str> {
    let figures = Figure::ALL.map(Figure::name);
    FIRST.into_iter().chain(figures).chain(LAST).collect()
}

pub fn text(report: &Report) -> String {
    let mut text = header().join(",") + "\n";
    for row in &report.rows {
        for name in &report.columns {
            if let Some(column) = row.columns.get(name) {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{}", line(row, name, column).join(","));
            }
        }
    }
    text
}

fn line(row: &Row, name: &str, column: &Column) -> Vec<String> {
    let case = &row.case;
    let mut cells = vec![
        case.name.clone(),
        name.to_owned(),
        word(&case.programs),
        case.size.to_string(),
        case.connections.to_string(),
        word(&case.cores),
        word(&case.network),
    ];
    cells.extend(Figure::ALL.map(|figure| number(column.median.get(figure))));
    let of = |value: fn(&Spread) -> f64| number(column.ratio.as_ref().map(value));
    cells.extend([
        of(|ratio| ratio.median),
        of(|ratio| ratio.q1),
        of(|ratio| ratio.q3),
        of(|ratio| ratio.min),
        of(|ratio| ratio.max),
        column.verdict.as_ref().map(word).unwrap_or_default(),
        number(row.noise),
        number(column.cpu_ratio.map(|ratio| ratio.median)),
        column.cpu_verdict.as_ref().map(word).unwrap_or_default(),
        number(row.cpu_noise),
        number(column.bypassed),
        column.rounds.len().to_string(),
        column.failure.is_some().to_string(),
    ]);
    cells
}

fn number(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// The name of an enumerator, as in the JSON.
fn word(choice: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(choice).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_documented() {
        let documents = include_str!("../../docs/benchmarks.md");
        for name in header() {
            assert!(
                documents.contains(&format!("`{name}`")),
                "{name} is not documented"
            );
        }
    }
}
