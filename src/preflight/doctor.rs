//! `sockredir doctor`: every check with its result, meaning and remedy, as a table or as JSON.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::checks::{Check, Outcome, Report, Single, check_all};
use super::{privilege, requirements};
use crate::cli::{DEFAULT_FLOWS, DoctorArgs, Scope};
use crate::datapath;
use crate::model::finding::Finding;
use crate::model::output::print;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The environment of the checks.
struct Host {
    libbpf: String,
    /// As in `uname -r`.
    kernel: String,
    /// The scope for `run`.
    scope: &'static str,
}

/// Prints the checks; the exit status is 1 if `run` would not start.
pub fn doctor(args: &DoctorArgs) -> Result<ExitCode> {
    datapath::set_verbose(false);
    let others = datapath::message_programs();
    let options = datapath::Options {
        admit_blocking: false,
        scope_host: args.scope == Scope::Host,
        same_user: false,
        same_cgroup: false,
        log_decisions: false,
        max_flows: DEFAULT_FLOWS,
        tunables: Vec::new(),
    };
    let mut storage = datapath::Storage::uninit();
    let (mut report, ready) = check_all(&args.cgroups, Single::Demanded, &options, &mut storage);
    let splices = ready.as_ref().ok().map(|(_, datapath)| Check {
        name: "splices",
        outcome: match datapath.splice_watch().meaning() {
            Ok(meaning) => Outcome::Ok(meaning.to_owned()),
            Err(finding) => Outcome::Note(finding),
        },
    });
    // Release the lock first: `run` may be started at this very moment.
    drop(ready);
    report.note(
        "scans",
        "the kernel can be asked for its TCP sockets",
        requirements::check_scans,
    );
    report.checks.extend(splices);
    report.note(
        "files",
        "it sees by the files of a program whether that calls splice",
        privilege::check_files,
    );
    report.checks.extend(note_on(&others));

    let kernel = datapath::release();
    let host = Host {
        libbpf: datapath::libbpf_version(),
        kernel,
        scope: args.scope.name(),
    };
    let text = if args.json {
        json(&host, &report)?
    } else {
        table(&host, &report)
    };
    print(&text)?;
    Ok(match report.refusal(&[]) {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    })
}

/// A socket can be in only one map with such a program, and the first one keeps it.
fn note_on(programs: &[String]) -> Option<Check> {
    let what = format!(
        "other programs redirect messages of sockets: {}",
        programs.join(", ")
    );
    let remedy =
        "a socket that one of them has stays on it; those of a killed sockredir go with its connections";
    (!programs.is_empty()).then(|| Check {
        name: "other-programs",
        outcome: Outcome::Note(Finding::new(what, remedy)),
    })
}

/// The result in a word, its meaning, and the remedy.
fn columns(outcome: &Outcome) -> (&'static str, String, Option<&str>) {
    match outcome {
        Outcome::Ok(meaning) => ("ok", meaning.clone(), None),
        Outcome::Failed(finding) => ("failed", finding.what.clone(), Some(&finding.remedy)),
        Outcome::NotRun(obstacle) => ("not run", format!("{obstacle} failed"), None),
        Outcome::Note(finding) => ("note", finding.what.clone(), Some(&finding.remedy)),
    }
}

fn table(host: &Host, report: &Report) -> String {
    let Host {
        libbpf,
        kernel,
        scope,
    } = host;
    let mut text = format!("sockredir {VERSION} (libbpf {libbpf}), Linux {kernel}, scope {scope}\n\n");
    let width = report.checks.iter().map(|check| check.name.len()).max();
    let mut line = |name: &str, result: &str, rest: &str| {
        let name_width = width.unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:name_width$}  {result:7}  {rest}");
    };
    line("check", "result", "meaning");
    for check in &report.checks {
        let (result, meaning, remedy) = columns(&check.outcome);
        line(check.name, result, &meaning);
        if let Some(remedy) = remedy {
            line("", "", &format!("remedy: {remedy}"));
        }
    }
    text.push('\n');
    if let Some(time) = report.self_test_time {
        let _ = writeln!(text, "The self-test took {} ms.", time.as_millis());
    }
    text.push_str(match report.refusal(&[]) {
        None => "`sockredir run` would start.\n",
        Some(_) => "`sockredir run` would refuse to start.\n",
    });
    text
}

/// The JSON output, with its members in order.
#[derive(Serialize)]
struct Diagnosis<'a> {
    version: &'static str,
    libbpf: &'a str,
    kernel: &'a str,
    scope: &'static str,
    would_run: bool,
    self_test_ms: Option<u128>,
    checks: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'static str,
    result: String,
    meaning: String,
    remedy: Option<&'a str>,
}

impl<'a> Row<'a> {
    fn of(check: &'a Check) -> Self {
        let (result, meaning, remedy) = columns(&check.outcome);
        Self {
            name: check.name,
            result: result.replace(' ', "-"),
            meaning,
            remedy,
        }
    }
}

fn json(host: &Host, report: &Report) -> Result<String> {
    let diagnosis = Diagnosis {
        version: VERSION,
        libbpf: &host.libbpf,
        kernel: &host.kernel,
        scope: host.scope,
        would_run: report.refusal(&[]).is_none(),
        self_test_ms: report.self_test_time.map(|time| time.as_millis()),
        checks: report.checks.iter().map(Row::of).collect(),
    };
    Ok(serde_json::to_string(&diagnosis)? + "\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn host() -> Host {
        Host {
            libbpf: "v1.7".to_owned(),
            kernel: "6.18.44".to_owned(),
            scope: "host",
        }
    }

    fn report(outcomes: Vec<(&'static str, Outcome)>) -> Report {
        let check = |(name, outcome)| Check { name, outcome };
        Report {
            checks: outcomes.into_iter().map(check).collect(),
            self_test_time: Some(Duration::from_micros(12_345)),
        }
    }

    fn broken() -> Report {
        report(vec![
            ("load", Outcome::Ok("it is loaded".to_owned())),
            ("order", Outcome::Failed(Finding::new("it is broken", "mend it"))),
            ("fionread", Outcome::NotRun("order")),
            ("other-programs", Outcome::Note(Finding::new("a \"b\"", "see"))),
        ])
    }

    #[test]
    fn the_table_has_a_line_for_each_check_and_one_for_each_remedy() {
        assert_eq!(
            table(&host(), &broken()).lines().skip(2).collect::<Vec<_>>(),
            [
                "check           result   meaning",
                "load            ok       it is loaded",
                "order           failed   it is broken",
                "                         remedy: mend it",
                "fionread        not run  order failed",
                "other-programs  note     a \"b\"",
                "                         remedy: see",
                "",
                "The self-test took 12 ms.",
                "`sockredir run` would refuse to start.",
            ]
        );
    }

    #[test]
    fn json_says_the_same() {
        let text = json(&host(), &broken()).unwrap();
        for part in [
            r#""libbpf":"v1.7","kernel":"6.18.44","scope":"host","would_run":false,"self_test_ms":12,"checks":[{"#,
            r#"{"name":"load","result":"ok","meaning":"it is loaded","remedy":null}"#,
            r#"{"name":"order","result":"failed","meaning":"it is broken","remedy":"mend it"}"#,
            r#"{"name":"fionread","result":"not-run","meaning":"order failed","remedy":null}"#,
            r#"{"name":"other-programs","result":"note","meaning":"a \"b\"","remedy":"see"}]}"#,
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }

    #[test]
    fn a_note_is_no_reason_to_refuse() {
        let report = report(vec![("other-programs", Outcome::Note(Finding::new("a", "b")))]);
        assert!(table(&host(), &report).ends_with("`sockredir run` would start.\n"));
        assert!(json(&host(), &report).unwrap().contains(r#""would_run":true"#));
    }
}
