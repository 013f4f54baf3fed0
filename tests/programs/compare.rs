//! Owns the comparison: the same play on plain TCP and under the tool, and the tool's counters in the second run.

use std::iter::zip;
use std::time::Duration;

use crate::common::{KernelLog, ToolReport, wait_until_gone};
use crate::stage::{Results, Stage};

/// The tool's counters.
pub struct Totals(ToolReport);

/// Runs the play twice and demands the same answers. The play starts its servers and calls `accelerate` before its clients.
pub fn compare(what: &str, play: impl Fn(&mut Stage)) -> Totals {
    let mut log = KernelLog::mark();
    let (plain, _) = run(false, &play);
    let (accelerated, report) = run(true, &play);
    let totals = Totals(report.expect("the play never called `accelerate`"));
    totals.print(what);
    for ((name, plain), (_, accelerated)) in zip(&plain.rates, &accelerated.rates) {
        println!(
            "  {name}: plain {plain:.0}, accelerated {accelerated:.0}, ratio {:.2}",
            accelerated / plain
        );
    }
    assert!(!plain.answers.is_empty(), "nothing to compare");
    for (plain, accelerated) in zip(&plain.answers, &accelerated.answers) {
        assert_eq!(plain, accelerated, "plain and accelerated differ");
    }
    assert_eq!(plain.answers.len(), accelerated.answers.len());
    wait_until_gone(Duration::from_secs(30));
    assert_eq!(log.warnings(), Vec::<String>::new());
    totals
}

fn run(accelerated: bool, play: impl Fn(&mut Stage)) -> (Results, Option<ToolReport>) {
    let mut stage = Stage::new(accelerated);
    play(&mut stage);
    let report = stage.end();
    if let Some(report) = &report {
        report.assert_success();
    }
    (std::mem::take(&mut stage.results), report)
}

impl Totals {
    pub fn counter(&self, name: &str) -> u64 {
        self.0.counter(name)
    }

    pub fn admitted(&self) -> u64 {
        self.counter("admitted_request_response") + self.counter("admitted_bulk")
    }

    /// Fails if a program that the tool is meant for gains nothing from it.
    pub fn assert_admitted(&self) {
        assert!(self.admitted() > 0, "no flow was admitted: {}", self.0.transcript);
        assert!(self.counter("messages_redirected") > 0, "{}", self.0.transcript);
    }

    /// Programs that should not be accelerated stay on TCP, for one of these reasons.
    pub fn assert_untouched(&self, reasons: &[&str]) {
        let transcript = &self.0.transcript;
        assert_eq!(self.admitted(), 0, "{transcript}");
        assert_eq!(self.counter("messages_redirected"), 0, "{transcript}");
        let counted: u64 = reasons.iter().map(|reason| self.counter(reason)).sum();
        assert!(counted > 0, "none counted as {reasons:?}: {transcript}");
    }

    fn print(&self, what: &str) {
        println!(
            "{what}: {} flows, {} admitted ({} bulk), {} messages redirected",
            self.counter("ends_inserted") / 2,
            self.admitted(),
            self.counter("admitted_bulk"),
            self.counter("messages_redirected"),
        );
        for line in self
            .0
            .stdout
            .iter()
            .skip_while(|line| line.trim() != "totals")
            .skip(1)
        {
            println!("  {}", line.trim());
        }
    }
}
