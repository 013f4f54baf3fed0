//! The safety cases: each a workload that plain TCP passes, run alike under each accelerator, with a verdict.

mod namespaces;
mod stops;
mod workloads;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use anyhow::Result;

use crate::accelerator::Accelerator;
use crate::common::Transcript;
use crate::report::{Section, table, write};
use crate::transcripts::{self, Differences};

/// What has become of a workload.
pub enum Verdict {
    /// As it should be, with a figure where there is one.
    Fine(String),
    /// What is not.
    Wrong(String),
    /// A figure that noise has made meaningless.
    Unclear(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fine(figure) if figure.is_empty() => formatter.write_str("ok"),
            Self::Fine(figure) => write!(formatter, "ok: {figure}"),
            Self::Wrong(what) => write!(formatter, "**{what}**"),
            Self::Unclear(figure) => write!(formatter, "too noisy to tell: {figure}"),
        }
    }
}

/// One accelerator on trial.
pub struct Trial<'a> {
    pub accelerator: &'a Accelerator,
    pub differences: &'a Differences,
    /// What plain TCP, which comes first, has measured.
    pub baseline: &'a mut BTreeMap<&'static str, u64>,
}

impl Trial<'_> {
    /// The figure of plain TCP, which this is if it is on trial.
    pub fn against_plain(&mut self, what: &'static str, value: u64) -> u64 {
        *self.baseline.entry(what).or_insert(value)
    }
}

pub struct Case {
    pub name: &'static str,
    /// What is done, for the report.
    pub how: &'static str,
    pub judge: fn(&mut Trial) -> Verdict,
}

/// All cases, in the order of the report.
fn cases() -> impl Iterator<Item = &'static Case> {
    [workloads::CASES, namespaces::CASES, stops::CASES]
        .into_iter()
        .flatten()
}

pub fn run(accelerators: &[Accelerator], into: &Path) -> Result<Section> {
    let plain = transcripts::plain();
    let mut baseline = BTreeMap::new();
    let mut verdicts = Vec::new();
    let mut calls = String::from("accelerator\tmode\tscenario\tplain TCP\taccelerated\n");
    for accelerator in accelerators {
        eprintln!("safety of {}", accelerator.name);
        verdicts.push(judge_all(accelerator, &plain, &mut baseline, &mut calls));
    }
    write(&into.join("calls.tsv"), &calls)?;

    let mut header = vec!["case", "what is done"];
    header.extend(accelerators.iter().map(|accelerator| accelerator.name));
    let mut raw = String::from("case\taccelerator\tverdict\n");
    let mut rows = Vec::new();
    for (number, case) in cases().enumerate() {
        let mut row = vec![case.name.to_owned(), case.how.to_owned()];
        for (accelerator, verdicts) in accelerators.iter().zip(&verdicts) {
            let verdict = verdicts[number].to_string();
            raw.push_str(&format!("{}\t{}\t{verdict}\n", case.name, accelerator.name));
            row.push(verdict.replace('|', "\\|"));
        }
        rows.push(row);
    }
    write(&into.join("safety.tsv"), &raw)?;
    let text = format!(
        "## Safety\n\nThe workloads are those of the tests (`target/release/traffic` and `scenarios`), in a cgroup and \
         network namespaces of their own. Scenarios are programs' calls one by one; a scenario differs where a call returns \
         something else than on plain TCP. `calls.tsv` lists those that do.\n\n{}",
        table(&header, &rows, false)
    );
    Ok(Section { name: "safety", text })
}

fn judge_all(
    accelerator: &Accelerator,
    plain: &[Transcript; 2],
    baseline: &mut BTreeMap<&'static str, u64>,
    calls: &mut String,
) -> Vec<Verdict> {
    let differences = transcripts::differences(plain, accelerator);
    for found in differences.all() {
        let columns = [
            accelerator.name,
            found.mode,
            &found.scenario,
            &found.plain,
            &found.accelerated,
        ];
        calls.push_str(&columns.join("\t"));
        calls.push('\n');
    }
    let mut trial = Trial {
        accelerator,
        differences: &differences,
        baseline,
    };
    let judge = |case: &Case| {
        // A harness that panics has cleaned up; what it said is on standard error.
        let verdict = panic::catch_unwind(AssertUnwindSafe(|| (case.judge)(&mut trial)));
        let verdict = verdict.unwrap_or_else(|_| Verdict::Wrong("the workload could not be run".to_owned()));
        eprintln!("  {}: {verdict}", case.name);
        verdict
    };
    cases().map(judge).collect()
}
