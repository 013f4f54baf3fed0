//! What programs see under acceleration is what they see on plain TCP, except for what docs/differences.md says.
//!
//! The example program `scenarios` writes down what the calls of each scenario return. Its transcripts are compared line
//! by line, and the line that differs is what the table must have: no more, and no less.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use common::{Arena, Tool, Transcript, example, first_difference, transcript_of};

/// One way to run the scenarios.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Run {
    family: &'static str,
    mode: &'static str,
    /// What has become of a connection when the scenario begins.
    start: &'static str,
}

const MODES: [&str; 2] = ["nonblocking", "blocking"];
/// From every start over IPv4, and over IPv6 too.
const PLACES: [(&str, &str); 4] = [
    ("v4", "admitted"),
    ("v4", "observed"),
    ("v4", "left"),
    ("v6", "admitted"),
];

/// The start, in the table, of scenarios that make their connections themselves: they run with those that are admitted.
const FRESH: &str = "fresh";

fn runs() -> impl Iterator<Item = Run> {
    let of_mode = |mode| PLACES.map(|(family, start)| Run { family, mode, start });
    MODES.into_iter().flat_map(of_mode)
}

fn scenarios(arena: &Arena, run: Run, more: &[&str]) -> String {
    let mut command = arena.command(example("scenarios"));
    command.args(["--family", run.family, "--mode", run.mode, "--start", run.start]);
    let output = command.args(more).stdin(Stdio::null()).output();
    let output = output.expect("failed to run the scenarios");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("not a text");
    let errors = text(output.stderr);
    assert!(output.status.success(), "{run:?}: {errors}");
    // What a scenario that failed had to say is not in the transcript.
    println!("{errors}");
    text(output.stdout)
}

fn transcript(arena: &Arena, run: Run) -> Transcript {
    transcript_of(&scenarios(arena, run, &[]))
}

/// The transcript on plain TCP, which is made once.
fn plain(run: Run) -> Transcript {
    static KNOWN: Mutex<BTreeMap<Run, Transcript>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.entry(run);
    known.or_insert_with(|| transcript(&Arena::new(), run)).clone()
}

/// The scenarios that begin with a warm connection.
fn warm(arena: &Arena, run: Run) -> BTreeSet<String> {
    let list = scenarios(arena, run, &["--list"]);
    let names = list.lines().filter_map(|line| line.strip_suffix("\twarm"));
    names.map(str::to_owned).collect()
}

/// A scenario that says something else, and where.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Difference {
    scenario: String,
    /// Under which `--admit`, and whether the programs are blocking.
    programs: String,
    start: String,
    /// The line that differs.
    plain: String,
    accelerated: String,
}

/// As a row of the table, without its reason.
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

/// As the table names them: `default` and `any` are non-blocking programs.
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

/// The rows of the table for one `--admit`. A row may name several kinds of programs and starts.
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

/// A transcript is of no use where it is not the same each time. Nor does it depend on addresses.
#[test]
fn scenarios_say_the_same_each_time_on_plain_tcp() {
    for run in runs().filter(|run| run.family == "v4") {
        let other = Run { family: "v6", ..run };
        let other = if runs().any(|run| run == other) {
            plain(other)
        } else {
            transcript(&Arena::new(), other)
        };
        let differing = differences("none", run, &plain(run), &other);
        assert!(differing.is_empty(), "{}", rows(&differing));
    }
}

fn rows(differences: &BTreeSet<Difference>) -> String {
    let rows: Vec<String> = differences.iter().map(Difference::to_string).collect();
    rows.join("\n")
}

/// How the messages of the warm connections must have gone: the transcripts of plain TCP would all be equal.
fn assert_way(admit: &str, run: Run, warm: &BTreeSet<String>, transcript: &Transcript) {
    let is_covered = admit == "any" || run.mode == "nonblocking";
    let expected = if is_covered && run.start == "admitted" {
        "redirected"
    } else {
        "through TCP"
    };
    for scenario in warm {
        let notes = transcript
            .get(scenario)
            .map_or(&[] as &[String], |lines| &lines.notes);
        let is_expected = !notes.is_empty() && notes.iter().all(|note| note == expected);
        assert!(
            is_expected,
            "{scenario}, {admit}, {run:?}: {notes:?} instead of {expected}"
        );
    }
}

fn assert_known_differences(admit: &str, arguments: &[&str]) {
    let mut seen = BTreeMap::from(["v4", "v6"].map(|family| (family, BTreeSet::new())));
    for run in runs() {
        let plain = plain(run);
        let arena = Arena::new();
        let tool = Tool::start(&arena, arguments);
        let accelerated = transcript(&arena, run);
        let totals = tool.stop();
        assert!(totals.status.success(), "{}", totals.transcript);
        let warm = warm(&arena, run);
        assert_way(admit, run, &warm, &accelerated);
        let differing = differences(admit, run, &plain, &accelerated).into_iter();
        let differing = differing.map(|difference| match warm.contains(&difference.scenario) {
            true => difference,
            false => Difference {
                start: FRESH.to_owned(),
                ..difference
            },
        });
        seen.get_mut(run.family)
            .expect("there are two families")
            .extend(differing);
    }
    let known = known_differences(admit);
    for (family, seen) in seen {
        let is_run = |row: &&Difference| row.start == FRESH || PLACES.contains(&(family, &row.start));
        let known: BTreeSet<Difference> = known.iter().filter(is_run).cloned().collect();
        let missing = rows(&seen.difference(&known).cloned().collect());
        let gone = rows(&known.difference(&seen).cloned().collect());
        assert!(
            missing.is_empty() && gone.is_empty(),
            "docs/differences.md, {family}: these are not in the table:\n{missing}\nand these no longer differ:\n{gone}"
        );
    }
}

/// Non-blocking programs see the differences of the table, and blocking ones hardly any.
#[test]
fn programs_see_the_known_differences_and_no_other() {
    assert_known_differences("default", &[]);
}

#[test]
fn programs_see_the_known_differences_and_no_other_with_admit_any() {
    assert_known_differences("any", &["--admit", "any"]);
}
