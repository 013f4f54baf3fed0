//! Programs see under acceleration what they see on plain TCP, except for what docs/differences.md lists.
//!
//! The program `scenarios` logs what the calls of each scenario return. The transcripts are compared line by
//! line, and the differences must be exactly those in the table.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use common::{Arena, Tool, Transcript, built, first_difference, transcript_of};

/// One way to run the scenarios.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Run {
    family: &'static str,
    mode: &'static str,
    /// The state of a connection when the scenario begins.
    start: &'static str,
}

const MODES: [&str; 2] = ["nonblocking", "blocking"];
/// From every start over IPv4, and once over IPv6.
const PLACES: [(&str, &str); 4] = [
    ("v4", "admitted"),
    ("v4", "observed"),
    ("v4", "left"),
    ("v6", "admitted"),
];

/// The start, in the table, of scenarios that make their own connections: they run along with `admitted`.
const FRESH: &str = "fresh";

fn runs() -> impl Iterator<Item = Run> {
    let of_mode = |mode| PLACES.map(|(family, start)| Run { family, mode, start });
    MODES.into_iter().flat_map(of_mode)
}

fn scenarios(arena: &Arena, run: Run, more: &[impl AsRef<OsStr>]) -> String {
    let mut command = arena.command(built("scenarios"));
    command.args(["--family", run.family, "--mode", run.mode, "--start", run.start]);
    let output = command.args(more).stdin(Stdio::null()).output();
    let output = output.expect("failed to run the scenarios");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("not a text");
    let errors = text(output.stderr);
    assert!(output.status.success(), "{run:?}: {errors}");
    // What a failed scenario printed is not in the transcript.
    println!("{errors}");
    text(output.stdout)
}

/// Runs these scenarios, or all of them if there are no names.
fn transcript(arena: &Arena, run: Run, names: &[String]) -> Transcript {
    transcript_of(&scenarios(arena, run, names))
}

/// The transcript on plain TCP; the one of all scenarios is made only once.
fn plain(run: Run, names: &[String]) -> Transcript {
    static KNOWN: Mutex<BTreeMap<Run, Transcript>> = Mutex::new(BTreeMap::new());
    if !names.is_empty() {
        return transcript(&Arena::new(), run, names);
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.entry(run);
    known
        .or_insert_with(|| transcript(&Arena::new(), run, &[]))
        .clone()
}

/// The scenarios that begin with a warm connection.
fn warm(arena: &Arena, run: Run) -> BTreeSet<String> {
    let list = scenarios(arena, run, &["--list"]);
    let names = list.lines().filter_map(|line| line.strip_suffix("\twarm"));
    names.map(str::to_owned).collect()
}

/// A scenario whose transcript differs, and where.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Difference {
    scenario: String,
    /// The value of `--admit`, and if the programs are blocking.
    programs: String,
    start: String,
    /// The line that differs.
    plain: String,
    accelerated: String,
}

/// Formats it as a row of the table, without the reason.
impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |text: &str| text.replace('|', "\\|");
        write!(
            formatter,
            "| {} | {} | {} | `{}` | `{}` |",
            self.scenario,
            self.programs,
            self.start,
            cell(&self.plain),
            cell(&self.accelerated)
        )
    }
}

/// The programs as the table names them: `default` and `any` mean non-blocking programs.
fn programs(admit: &str, mode: &str) -> String {
    if mode == "blocking" {
        format!("{admit}-blocking")
    } else {
        admit.to_owned()
    }
}

fn differences(admit: &str, run: Run, plain: &Transcript, accelerated: &Transcript) -> BTreeSet<Difference> {
    let names: BTreeSet<&String> = plain.keys().chain(accelerated.keys()).collect();
    let difference = |name: &String| {
        let [plain, accelerated] = first_difference(plain.get(name), accelerated.get(name))?;
        Some(Difference {
            scenario: name.clone(),
            programs: programs(admit, run.mode),
            start: run.start.to_owned(),
            plain,
            accelerated,
        })
    };
    names.into_iter().filter_map(difference).collect()
}

/// The table's rows for one `--admit`. A row may name several kinds of programs and starts.
fn known_differences(admit: &str) -> BTreeSet<Difference> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/differences.md");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("failed to read {}: {e}", path.display()));
    let mine = MODES.map(|mode| programs(admit, mode));
    let mut known = BTreeSet::new();
    for row in text.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<String> = row
            .replace("\\|", "\t")
            .split('|')
            .map(|cell| cell.trim().replace('\t', "|"))
            .collect();
        let [_, scenario, programs, starts, plain, accelerated, why, _] = cells.as_slice() else {
            panic!("not a row of the table: {row}");
        };
        assert!(
            text.contains(&format!("\n## {why}\n")),
            "no section `{why}` for {row}"
        );
        let line = |cell: &String| cell.trim_matches('`').to_owned();
        for programs in programs
            .split(", ")
            .filter(|programs| mine.iter().any(|name| name == programs))
        {
            for start in starts.split(", ") {
                let is_new = known.insert(Difference {
                    scenario: scenario.clone(),
                    programs: programs.to_owned(),
                    start: start.to_owned(),
                    plain: line(plain),
                    accelerated: line(accelerated),
                });
                assert!(is_new, "twice in the table: {row}");
            }
        }
    }
    known
}

/// No names mean all names.
fn is_wanted(names: &[String], name: &String) -> bool {
    names.is_empty() || names.contains(name)
}

/// The fault of each scenario.
type Faults = BTreeMap<String, String>;

/// What is wrong in at least two of three tries: on a busy machine a scenario that waits for a fixed time may deviate
/// once. `attempt` receives the names of the scenarios to run, or none for all of them.
fn faults(attempt: impl Fn(&[String]) -> Faults) -> String {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for _ in 0..3 {
        let names: Vec<String> = found.keys().cloned().collect();
        for (name, fault) in attempt(&names) {
            found.entry(name).or_default().push(fault);
        }
        if found.is_empty() {
            break;
        }
    }
    let often = found.into_values().filter(|faults| faults.len() > 1);
    often.flatten().collect::<Vec<_>>().join("\n")
}

/// A transcript that varies between runs, or that depends on addresses, is useless.
#[test]
fn scenarios_say_the_same_each_time_on_plain_tcp() {
    for run in runs().filter(|run| run.family == "v4") {
        let v6 = Run { family: "v6", ..run };
        let faults = faults(|names| {
            let other = if runs().any(|run| run == v6) {
                plain(v6, names)
            } else {
                transcript(&Arena::new(), v6, names)
            };
            let differing = differences("none", run, &plain(run, names), &other).into_iter();
            differing
                .map(|row| (row.scenario.clone(), row.to_string()))
                .collect()
        });
        assert!(faults.is_empty(), "{faults}");
    }
}

/// Checks which way the messages of the warm connections went: if all went through TCP, transcripts would agree trivially.
fn wrong_ways<'a>(
    admit: &str,
    run: Run,
    warm: impl Iterator<Item = &'a String>,
    transcript: &Transcript,
    totals: &str,
) -> Faults {
    let is_covered = admit == "any" || run.mode == "nonblocking";
    let expected = if is_covered && run.start == "admitted" {
        "redirected"
    } else {
        "through TCP"
    };
    let fault = |scenario: &String| {
        let notes = transcript
            .get(scenario)
            .map_or(&[] as &[String], |lines| &lines.notes);
        let is_expected = !notes.is_empty() && notes.iter().all(|note| note == expected);
        let fault = || format!("{scenario}, {admit}, {run:?}: {notes:?} instead of {expected}\n{totals}");
        (!is_expected).then(|| (scenario.clone(), fault()))
    };
    warm.filter_map(fault).collect()
}

/// The table's rows that this run must see, for these scenarios or for all.
fn expected(
    known: &BTreeSet<Difference>,
    run: Run,
    warm: &BTreeSet<String>,
    names: &[String],
) -> BTreeSet<Difference> {
    let is_seen = |row: &&Difference| {
        let is_start = match warm.contains(&row.scenario) {
            true => row.start == run.start,
            false => row.start == FRESH && run.start == "admitted",
        };
        is_start && is_wanted(names, &row.scenario)
    };
    known.iter().filter(is_seen).cloned().collect()
}

/// These bypass recv, which becomes known about the program: there would be no differences left to compare.
fn is_around_recv(name: &str) -> bool {
    name.starts_with("vectors-splice-out") || name == "zerocopy-receive"
}

/// All scenarios of this run.
fn all_names(arena: &Arena, run: Run) -> Vec<String> {
    let list = scenarios(arena, run, &["--list"]);
    let name = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
    list.lines().map(name).collect()
}

fn assert_known_differences(admit: &str, arguments: &[&str]) {
    let known = known_differences(admit);
    let mut looked_for = BTreeSet::new();
    for run in runs() {
        let warm = warm(&Arena::new(), run);
        let mine = known
            .iter()
            .filter(|row| row.programs == programs(admit, run.mode));
        let mine = mine.cloned().collect();
        looked_for.append(&mut expected(&mine, run, &warm, &[]));
        let faults = faults(|names| {
            let mut plain = plain(run, names);
            plain.retain(|name, _| !is_around_recv(name));
            let arena = Arena::new();
            let mut asked = if names.is_empty() {
                all_names(&arena, run)
            } else {
                names.to_owned()
            };
            asked.retain(|name| !is_around_recv(name));
            let tool = Tool::start(&arena, arguments);
            let accelerated = transcript(&arena, run, &asked);
            let totals = tool.stop();
            assert!(totals.status.success(), "{}", totals.transcript);
            let warm_ones = warm.iter().filter(|name| asked.contains(name));
            let mut faults = wrong_ways(admit, run, warm_ones, &accelerated, &totals.transcript);
            let seen = differences(admit, run, &plain, &accelerated).into_iter();
            let seen: BTreeSet<Difference> = seen
                .map(|row| match warm.contains(&row.scenario) {
                    true => row,
                    false => Difference {
                        start: FRESH.to_owned(),
                        ..row
                    },
                })
                .collect();
            let expected = expected(&mine, run, &warm, names);
            for row in seen.symmetric_difference(&expected) {
                let fault = match expected.contains(row) {
                    true => "no longer differs",
                    false => "is not in docs/differences.md",
                };
                let faults = faults.entry(row.scenario.clone()).or_default();
                faults.push_str(&format!("{row} {fault}, {}\n", run.family));
            }
            faults
        });
        assert!(faults.is_empty(), "{faults}");
    }
    let gone: Vec<String> = known.difference(&looked_for).map(Difference::to_string).collect();
    assert!(
        gone.is_empty(),
        "docs/differences.md has rows that no run can show:\n{}",
        gone.join("\n")
    );
}

/// An unknown program is watched on plain TCP: whatever it does, above all bypassing recv, works as usual.
#[test]
fn programs_that_are_not_known_see_no_difference() {
    for run in runs().filter(|run| run.start == "admitted") {
        let warm = warm(&Arena::new(), run);
        let faults = faults(|names| {
            let arena = Arena::new();
            let mut asked = all_names(&arena, run);
            asked.retain(|name| is_wanted(names, name) && (is_around_recv(name) || !warm.contains(name)));
            // A program that reads this way would be known for it in the next scenario.
            asked.sort_by_key(|name| is_around_recv(name));
            let plain = transcript(&arena, run, &asked);
            let tool = Tool::start(&arena, &["--trust-programs", "none"]);
            let watched = transcript(&arena, run, &asked);
            tool.end();
            differences("default", run, &plain, &watched)
                .into_iter()
                .map(|row| (row.scenario.clone(), row.to_string()))
                .collect()
        });
        assert!(faults.is_empty(), "{faults}");
    }
}

/// Non-blocking programs see the differences in the table, blocking ones hardly any.
#[test]
fn programs_see_the_known_differences_and_no_other() {
    assert_known_differences("default", &[]);
}

#[test]
fn programs_see_the_known_differences_and_no_other_with_admit_any() {
    assert_known_differences("any", &["--admit", "any"]);
}
