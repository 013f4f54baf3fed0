//! Owns what programs see: the scenarios of the tests on plain TCP and under an accelerator, and where they differ.

use std::process::Stdio;

use crate::accelerator::Accelerator;
use crate::common::{Arena, Transcript, built, first_difference, transcript_of};

pub const MODES: [&str; 2] = ["nonblocking", "blocking"];

/// A scenario in which a program sees something else than on plain TCP.
pub struct Difference {
    pub mode: &'static str,
    pub scenario: String,
    /// The first line that differs.
    pub plain: String,
    pub accelerated: String,
}

/// All scenarios in both modes, and those that differ.
pub struct Differences {
    /// Modes and names
    scenarios: Vec<(&'static str, String)>,
    found: Vec<Difference>,
}

/// What plain TCP says, in the order of the modes.
pub fn plain() -> [Transcript; 2] {
    MODES.map(|mode| transcript(&Arena::new(), mode))
}

/// Runs all scenarios under an accelerator. Those of plain TCP are run again, which must be the same.
pub fn differences(plain: &[Transcript; 2], accelerator: &Accelerator) -> Differences {
    let (mut scenarios, mut found) = (Vec::new(), Vec::new());
    for (mode, plain) in MODES.into_iter().zip(plain) {
        let arena = Arena::new();
        let running = accelerator.start(&arena);
        let accelerated = transcript(&arena, mode);
        running.stop();
        for (name, lines) in plain {
            scenarios.push((mode, name.clone()));
            if let Some([plain, accelerated]) = first_difference(Some(lines), accelerated.get(name)) {
                found.push(Difference {
                    mode,
                    scenario: name.clone(),
                    plain,
                    accelerated,
                });
            }
        }
    }
    Differences { scenarios, found }
}

fn transcript(arena: &Arena, mode: &str) -> Transcript {
    let mut command = arena.command(built("scenarios"));
    let output = command.args(["--mode", mode]).stdin(Stdio::null()).output();
    let output = output.expect("failed to run the scenarios");
    assert!(
        output.status.success(),
        "the scenarios failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    transcript_of(&String::from_utf8_lossy(&output.stdout))
}

impl Differences {
    pub fn all(&self) -> &[Difference] {
        &self.found
    }

    /// How many scenarios of a mode there are whose names begin with one of these, and those of them that differ.
    pub fn of(&self, mode: &str, prefixes: &[&str]) -> (usize, Vec<&Difference>) {
        let is_meant =
            |other: &str, name: &str| other == mode && prefixes.iter().any(|prefix| name.starts_with(prefix));
        let count = self
            .scenarios
            .iter()
            .filter(|(mode, name)| is_meant(mode, name))
            .count();
        let found = self
            .found
            .iter()
            .filter(|found| is_meant(found.mode, &found.scenario));
        (count, found.collect())
    }
}
