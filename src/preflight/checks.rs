//! What must hold before anything is accelerated: all checks in order, and whether `run` may go on.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use super::selftest::SelfTest;
use super::{load, privilege, requirements};
use crate::datapath::cgroup::Cgroups;
use crate::datapath::{Datapath, Options, Storage};
use crate::model::finding::Finding;
use crate::model::safety::SafetyCheck;

/// The outcome of a check.
#[derive(Debug)]
pub enum Outcome {
    /// Passed, and what that means.
    Ok(String),
    /// Failed; `run` refuses to start unless forced.
    Failed(Finding),
    /// Not run, because the check of this name failed.
    NotRun(&'static str),
    /// Worth knowing, but no reason for `run` to refuse.
    Note(Finding),
}

/// A check that was run, or could not be.
#[derive(Debug)]
pub struct Check {
    /// As printed by `doctor`.
    pub name: &'static str,
    /// The outcome.
    pub outcome: Outcome,
}

/// The checks in the order in which they were run.
#[derive(Debug, Default)]
pub struct Report {
    /// All checks.
    pub checks: Vec<Check>,
    /// How long the self-test took.
    pub self_test_time: Option<Duration>,
}

/// The value that a check yields, or the name of the check that failed.
pub type CheckResult<T> = Result<T, &'static str>;

impl Report {
    fn check<N, T>(
        &mut self,
        name: &'static str,
        needed: CheckResult<N>,
        meaning: &str,
        work: impl FnOnce(N) -> Result<T, Finding>,
    ) -> CheckResult<T> {
        let (outcome, result) = match needed.map(work) {
            Ok(Ok(value)) => (Outcome::Ok(meaning.to_owned()), Ok(value)),
            Ok(Err(finding)) => (Outcome::Failed(finding), Err(name)),
            Err(obstacle) => (Outcome::NotRun(obstacle), Err(obstacle)),
        };
        self.checks.push(Check { name, outcome });
        result
    }

    /// Runs a check that `run` does not depend on.
    pub fn note(&mut self, name: &'static str, meaning: &str, work: impl FnOnce() -> Result<(), Finding>) {
        let outcome = match work() {
            Ok(()) => Outcome::Ok(meaning.to_owned()),
            Err(finding) => Outcome::Note(finding),
        };
        self.checks.push(Check { name, outcome });
    }

    fn failures(&self) -> impl Iterator<Item = (&'static str, &Finding)> {
        self.checks.iter().filter_map(|check| match &check.outcome {
            Outcome::Failed(finding) => Some((check.name, finding)),
            _ => None,
        })
    }

    /// Runs every check of accelerated connections, on connections of the tool's own.
    fn self_test(&mut self, place: CheckResult<(&Cgroups, &mut Datapath<'_>)>) {
        let mut test = self.check(
            SafetyCheck::SelfTest.name(),
            place,
            SafetyCheck::SelfTest.meaning(),
            |(cgroups, datapath)| SelfTest::begin(datapath, cgroups.first().path()),
        );
        let mut obstacle = None;
        for check in SafetyCheck::OF_CONNECTIONS {
            let needed = match (obstacle, &mut test) {
                (Some(obstacle), _) => Err(obstacle),
                (None, Ok(test)) => Ok(test),
                (None, Err(obstacle)) => Err(*obstacle),
            };
            let result = self.check(check.name(), needed, check.meaning(), |test| test.check(*check));
            // The other checks would fail for the same reason.
            if *check == SafetyCheck::Redirects {
                obstacle = result.err();
            }
        }
        self.self_test_time = test.ok().map(SelfTest::end);
    }

    /// The first failed check that is not forced, on one line.
    pub fn refusal(&self, forced: &[SafetyCheck]) -> Option<String> {
        let (name, finding) = self
            .failures()
            .find(|(name, _)| !forced.iter().any(|check| check.name() == *name))?;
        let can_force = SafetyCheck::ALL.iter().any(|check| check.name() == name);
        let way_out = if can_force {
            format!(", or start nevertheless with --force {name}")
        } else {
            String::new()
        };
        Some(format!("{name}: {finding}{way_out}"))
    }

    /// Fails with the refusal; otherwise prints which failed checks were forced, and the notes.
    pub fn demand(&self, forced: &[SafetyCheck]) -> Result<()> {
        if let Some(refusal) = self.refusal(forced) {
            bail!(refusal);
        }
        for (name, finding) in self.failures() {
            eprintln!("sockredir: --force {name}: going on, though {}", finding.what);
        }
        for check in &self.checks {
            if let Outcome::Note(finding) = &check.outcome {
                eprintln!("sockredir: note: {finding}");
            }
        }
        Ok(())
    }
}

/// How to treat an instance on the same cgroup.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Single {
    /// It is a failure.
    Demanded,
    /// It will be asked to hand over.
    NotYet,
}

/// Runs every check that can be run. The datapath is loaded but not attached; the cgroups (the root if none is named)
/// are locked, unless an instance that is to be replaced holds them.
pub fn check_all<'a>(
    cgroups: &[PathBuf],
    single: Single,
    options: &Options,
    storage: &'a mut Storage,
) -> (Report, CheckResult<(Cgroups, Datapath<'a>)>) {
    let mut report = Report::default();
    let privileges = report.check(
        "privileges",
        Ok(()),
        "it may load BPF programs and attach them",
        |()| privilege::check(),
    );
    report.note(
        "waiters",
        "it sees which threads wait in recv",
        privilege::check_waiters,
    );
    report.note("resets", "it may reset connections", privilege::check_resets);
    let cgroups = report.check("cgroup2", Ok(()), "the cgroup is one of version 2", |()| {
        Cgroups::open(cgroups)
    });
    let types = report.check(
        "kernel-types",
        Ok(()),
        "the kernel has the types and functions that the programs use",
        |()| requirements::check(),
    );
    let mut datapath = report.check(
        "load",
        privileges.and(types),
        "the kernel accepts every program",
        |()| load(options, storage),
    );
    let place = match (&cgroups, &mut datapath) {
        (Ok(cgroups), Ok(datapath)) => Ok((cgroups, datapath)),
        (Err(obstacle), _) => Err(*obstacle),
        (_, Err(obstacle)) => Err(*obstacle),
    };
    report.self_test(place);
    // Last, so that `doctor` holds the lock only briefly.
    let locked = report.check(
        "single-instance",
        cgroups.as_ref().map_err(|obstacle| *obstacle),
        "no other sockredir works on the cgroup",
        |cgroups| match single {
            Single::Demanded => cgroups.lock(),
            Single::NotYet => cgroups.try_lock().map(drop),
        },
    );
    let ready = locked.and_then(|()| Ok((cgroups?, datapath?)));
    (report, ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(names: &[&'static str]) -> Report {
        let mut report = Report::default();
        let _ = report.check("load", Ok(()), "loaded", Ok);
        for name in names {
            let work = |()| Err::<(), _>(Finding::new("it is broken", "mend it"));
            let _ = report.check(name, Ok(()), "", work);
        }
        report
    }

    #[test]
    fn the_first_failed_check_that_is_not_forced_is_the_refusal() {
        let report = failed(&["order", "fionread"]);
        let refusal = |forced: &[SafetyCheck]| report.refusal(forced);
        assert_eq!(
            refusal(&[]).unwrap(),
            "order: it is broken: mend it, or start nevertheless with --force order"
        );
        assert!(refusal(&[SafetyCheck::Order]).unwrap().starts_with("fionread: "));
        assert_eq!(refusal(&[SafetyCheck::Order, SafetyCheck::Fionread]), None);
        assert_eq!(failed(&[]).refusal(&[]), None);
    }

    #[test]
    fn what_is_no_safety_check_cannot_be_forced() {
        assert_eq!(
            failed(&["cgroup2"]).refusal(&SafetyCheck::ALL).unwrap(),
            "cgroup2: it is broken: mend it"
        );
    }

    #[test]
    fn a_check_that_lacks_another_is_not_run_and_names_the_first_cause() {
        let mut report = Report::default();
        let first = report.check("first", Ok(()), "", |()| {
            Err::<(), _>(Finding::new("it is broken", "mend it"))
        });
        let second = report.check("second", first, "", Ok);
        let third = report.check("third", second, "", Ok);
        assert_eq!(third, Err("first"));
        let outcomes: Vec<_> = report.checks.iter().map(|check| &check.outcome).collect();
        assert!(matches!(
            outcomes[..],
            [
                Outcome::Failed(_),
                Outcome::NotRun("first"),
                Outcome::NotRun("first")
            ]
        ));
    }
}
