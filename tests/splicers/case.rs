//! Owns one comparison: the same conversations through a relaying program, on plain TCP and under the tool.

use std::path::Path;
use std::time::Duration;

use crate::common::{Process, Traffic, TrafficReport, patience, work};
use crate::programs::{BACK, FRONT, Splicer};
use crate::stage::Stage;

/// The seed of all random choices.
const SEED: &str = "20261130";
const CONNECTIONS: u64 = 200;
/// How much later than the slowest answer on plain TCP an answer under the tool may come.
const LATER: Duration = Duration::from_secs(1);
/// A connection broken by a late splicer must end within this time.
const BREAKS_WITHIN: Duration = Duration::from_secs(2);
/// An answer that takes longer than this is missing; under the tool it counts as late long before.
const MISSING_PLAIN: Duration = Duration::from_secs(60);
const MISSING: Duration = Duration::from_secs(5);
const STOP: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    Client,
    Server,
}

/// The traffic through the program.
#[derive(Clone, Copy)]
pub struct Case {
    pub splicer: Splicer,
    pub first: First,
    pub http: bool,
    /// The program does not support half-closed connections.
    pub whole: bool,
    /// Maximum messages per connection.
    pub rounds: &'static str,
    pub large_one_in: &'static str,
    /// Milliseconds before the first message of a connection.
    pub pause: &'static str,
    /// It splices late, so the tool may break a connection.
    pub may_break: bool,
}

impl Case {
    pub fn new(splicer: Splicer, first: First) -> Self {
        Self {
            splicer,
            first,
            http: false,
            whole: false,
            rounds: "8",
            large_one_in: "4",
            pause: "0",
            may_break: false,
        }
    }

    pub fn http(self) -> Self {
        Self {
            http: true,
            whole: true,
            ..self
        }
    }

    pub fn whole(self) -> Self {
        Self { whole: true, ..self }
    }

    /// For a program whose first splice precedes the first bytes.
    pub fn paused(self) -> Self {
        Self { pause: "10", ..self }
    }

    /// It receives up to 100 messages by recv, so connections have more of them, and fewer large ones.
    pub fn late(self) -> Self {
        Self {
            rounds: "200",
            large_one_in: "100",
            may_break: true,
            ..self
        }
    }

    fn framing(&self) -> [&'static str; 2] {
        ["--framing", if self.http { "http" } else { "bare" }]
    }

    /// The server behind the program.
    pub fn serve(&self, stage: &Stage, talk: &Path) -> Process {
        let mut command = stage.command(talk);
        command.args(["server", "--listen", BACK, "--seed", SEED]);
        command.args(self.framing());
        command.args(["--pause", self.pause, "--large-one-in", self.large_one_in]);
        if self.first == First::Server {
            command.arg("--greet");
        }
        stage.serve(command, BACK)
    }

    /// The conversations with an address; `more` can override their options.
    pub fn converse(
        &self,
        stage: &Stage,
        talk: &Path,
        target: &str,
        connections: u64,
        missing: Duration,
        more: &[&str],
    ) -> TrafficReport {
        let connections = work(connections).to_string();
        let patience = patience(missing).as_millis().to_string();
        let mut arguments = vec!["client", "--target", target, "--seed", SEED];
        arguments.extend(self.framing());
        arguments.extend(["--connections", &connections, "--patience", &patience]);
        if self.first == First::Server {
            arguments.push("--greeted");
        }
        if self.whole {
            arguments.push("--whole");
        }
        match more {
            [] => arguments.extend([
                "--rounds",
                self.rounds,
                "--pause",
                self.pause,
                "--large-one-in",
                self.large_one_in,
            ]),
            _ => arguments.extend(more),
        }
        Traffic::start(stage.command(talk), &arguments).finish()
    }

    /// The complete run on plain TCP, from a fresh start.
    pub fn plain(&self, connections: u64) -> Outcome {
        self.run(Stage::new(false), connections, MISSING_PLAIN)
    }

    fn run(&self, stage: Stage, connections: u64, missing: Duration) -> Outcome {
        let talk = stage.copy_of("talk");
        let server = self.serve(&stage, &talk);
        let splicer = self.splicer.start(&stage);
        let report = self.converse(&stage, &talk, FRONT, connections, missing, &[]);
        self.conclude(stage, server, splicer, &report)
    }

    /// Ends all processes, each of which must still be running.
    pub fn conclude(
        &self,
        stage: Stage,
        mut server: Process,
        mut splicer: Process,
        report: &TrafficReport,
    ) -> Outcome {
        for process in [&mut server, &mut splicer] {
            assert!(process.is_running(), "it has ended: {}", process.transcript());
        }
        let moved = self.moved(&mut splicer);
        splicer.kill();
        server.close_stdin();
        server.wait(STOP);
        let faults = server.stderr();
        let totals = stage.end();
        Outcome::new(report, moved, faults, totals)
    }

    /// The bytes that our own relay has moved by splice and by recv.
    fn moved(&self, splicer: &mut Process) -> Option<[u64; 2]> {
        let Splicer::Relay(_) = self.splicer else {
            return None;
        };
        splicer.close_stdin();
        splicer.wait(STOP);
        let lines = splicer.stdout();
        let value = |name: &str| {
            let value = lines
                .iter()
                .find_map(|line| line.strip_prefix(name)?.parse().ok());
            value.unwrap_or_else(|| panic!("no {name}: {}", splicer.transcript()))
        };
        Some([value("spliced="), value("received=")])
    }

    /// Runs the same on plain TCP and under the tool, from fresh starts; returns the faults.
    pub fn compare(&self) -> Vec<String> {
        self.compare_with(|connections, missing| self.run(Stage::new(true), connections, missing))
    }

    /// As `compare`, while the tool scans.
    pub fn compare_with_scans(&self) -> Vec<String> {
        self.compare_with(|connections, missing| self.run(Stage::with_scans(), connections, missing))
    }

    /// As `compare`, with `accelerate` as the second half, given the number of connections and the time limit of an answer.
    pub fn compare_with(&self, accelerate: impl FnOnce(u64, Duration) -> Outcome) -> Vec<String> {
        let plain = self.plain(CONNECTIONS);
        let faults = self.judge_plain(&plain);
        if !faults.is_empty() {
            return faults;
        }
        self.judge(&plain, &accelerate(CONNECTIONS, plain.slowest + MISSING))
    }

    pub fn judge_plain(&self, plain: &Outcome) -> Vec<String> {
        let mut faults = Faults::of(self, "on plain TCP", plain);
        faults.unless(plain.broken == 0, || "connections were broken".to_owned());
        if let (Splicer::Relay(manner), Some([spliced, received])) = (self.splicer, plain.moved) {
            let expected = [manner != "recv", ["recv", "late"].contains(&manner)];
            faults.unless([spliced > 0, received > 0] == expected, || {
                format!("the relay {manner} has spliced {spliced} bytes and received {received}")
            });
        }
        faults.list
    }

    fn judge(&self, plain: &Outcome, accelerated: &Outcome) -> Vec<String> {
        let mut faults = Faults::of(self, "under the tool", accelerated);
        faults.unless(self.may_break || accelerated.broken == 0, || {
            format!("{} connections were broken", accelerated.broken)
        });
        let breaks = accelerated.slowest_break;
        faults.unless(breaks <= patience(BREAKS_WITHIN), || {
            format!("a broken connection hung for {breaks:?}")
        });
        let slowest = [plain, accelerated].map(|outcome| outcome.slowest);
        faults.unless(slowest[1] <= slowest[0] + patience(LATER), || {
            format!(
                "an answer came after {:?}, and after {:?} on plain TCP",
                slowest[1], slowest[0]
            )
        });
        let answers = [plain, accelerated].map(|outcome| outcome.answers);
        faults.unless(accelerated.broken > 0 || answers[0] == answers[1], || {
            format!("{} answers, and {} on plain TCP", answers[1], answers[0])
        });
        faults.list
    }
}

/// The faults of a run, whose figures are printed.
struct Faults {
    of: String,
    list: Vec<String>,
}

impl Faults {
    fn of(case: &Case, place: &str, outcome: &Outcome) -> Self {
        let of = format!("{}, {:?} first, {place}", case.splicer.name(), case.first);
        println!("{of}: {}", outcome.line());
        let mut faults = Self { of, list: Vec::new() };
        let right = outcome.missing + outcome.wrong == 0 && outcome.faults.is_empty();
        faults.unless(right, || {
            format!(
                "{}\n{}\n{}",
                outcome.line(),
                outcome.faults.join("\n"),
                outcome.text
            )
        });
        faults
    }

    fn unless(&mut self, right: bool, text: impl FnOnce() -> String) {
        if !right {
            self.list.push(format!("{}: {}", self.of, text()));
        }
    }
}

/// Runs all cases, and fails if any of them has a fault.
#[track_caller]
pub fn assert_right(cases: &[Case], run: impl Fn(&Case) -> Vec<String>) {
    let faults: Vec<String> = cases.iter().flat_map(run).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The outcome of a run's conversations.
pub struct Outcome {
    answers: u64,
    slowest: Duration,
    missing: u64,
    wrong: u64,
    broken: u64,
    slowest_break: Duration,
    /// By splice and by recv.
    moved: Option<[u64; 2]>,
    faults: Vec<String>,
    text: String,
}

impl Outcome {
    fn new(report: &TrafficReport, moved: Option<[u64; 2]>, faults: Vec<String>, totals: String) -> Self {
        let time = |name| Duration::from_micros(report.value(name));
        Self {
            answers: report.value("answers"),
            slowest: time("slowest_us"),
            missing: report.value("missing"),
            wrong: report.value("wrong"),
            broken: report.value("early"),
            slowest_break: time("slowest_early_us"),
            moved,
            faults,
            text: format!("{}\n{totals}", report.transcript),
        }
    }

    fn line(&self) -> String {
        let mut line = format!("{} answers within {:?}", self.answers, self.slowest);
        if let Some([spliced, received]) = self.moved {
            line += &format!(", {spliced} bytes spliced and {received} received");
        }
        if self.missing + self.wrong > 0 {
            line += &format!(", {} missing, {} wrong", self.missing, self.wrong);
        }
        if self.broken > 0 {
            line += &format!(
                ", {} connections broken within {:?}",
                self.broken, self.slowest_break
            );
        }
        line
    }
}
