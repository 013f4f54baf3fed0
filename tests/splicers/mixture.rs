//! First calls on new connections: a recv that returns EAGAIN instead of waiting, or a FIONREAD that does not count what is
//! there, would show that a socket entered the map at the wrong moment.
//!
//! In the environment, SOCKREDIR_SOAK_MINUTES sets the duration, instead of 20 seconds.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{KernelLog, Traffic, TrafficReport};
use crate::stage::Stage;

const USUAL: Duration = Duration::from_secs(20);
const COUNTERS: [&str; 7] = [
    "connections",
    "calls",
    "eagain",
    "wrong_counts",
    "wrong_bytes",
    "interrupted",
    "resets",
];
/// A fresh process makes only a few connections, as the first ones are of interest.
const FRESH: &str = "3";
/// One in this many fresh processes runs from a file that nobody has seen before.
const NEW_FILE: u64 = 4;

/// The kinds of a client and its server.
struct Pair {
    name: &'static str,
    server: &'static [&'static str],
    client: &'static [&'static str],
}

const PAIRS: [Pair; 4] = [
    Pair {
        name: "a client that connects without blocking and then blocks in recv",
        server: &["polls", "--greets"],
        client: &["blocks", "--greeted", "--signals"],
    },
    Pair {
        name: "a listener that does not block, whose sockets do",
        server: &["blocks"],
        client: &["polls"],
    },
    Pair {
        name: "a client that asks FIONREAD first",
        server: &["polls", "--greets"],
        client: &["asks", "--greeted"],
    },
    Pair {
        name: "a server that asks FIONREAD first",
        server: &["asks"],
        client: &["polls"],
    },
];

/// The sums of what the processes of a pair have counted.
#[derive(Default)]
struct Sums([AtomicU64; COUNTERS.len()], AtomicU64);

impl Sums {
    fn add(&self, report: &TrafficReport) {
        self.1.fetch_add(1, Ordering::Relaxed);
        for (sum, name) in self.0.iter().zip(COUNTERS) {
            sum.fetch_add(report.value(name), Ordering::Relaxed);
        }
    }

    fn value(&self, name: &str) -> u64 {
        let at = COUNTERS.iter().position(|counter| *counter == name);
        self.0[at.expect("a counter")].load(Ordering::Relaxed)
    }

    fn line(&self) -> String {
        let words = COUNTERS.map(|name| format!(", {name} {}", self.value(name)));
        format!("{} processes{}", self.1.load(Ordering::Relaxed), words.concat())
    }
}

/// One run of a pair: its files, its environment and its end.
struct Work<'a> {
    stage: &'a Stage,
    pair: &'a Pair,
    programs: [PathBuf; 2],
    until: Instant,
    seeds: AtomicU64,
    sums: Sums,
}

impl Work<'_> {
    fn seed(&self) -> u64 {
        self.seeds.fetch_add(1, Ordering::Relaxed)
    }

    fn server(&self, program: &Path) -> (Traffic, String) {
        let seed = self.seed().to_string();
        let mut arguments = vec!["server"];
        arguments.extend(self.pair.server);
        arguments.extend(["--seed", &seed]);
        let mut server = Traffic::start(self.stage.command(program), &arguments);
        let address = server.wait_for_line("address=", 1).replace("address=", "");
        (server, address)
    }

    fn client(&self, program: &Path, address: &str, more: &[&str]) {
        let seed = self.seed().to_string();
        let mut arguments = vec!["client"];
        arguments.extend(self.pair.client);
        arguments.extend(["--target", address, "--seed", &seed]);
        arguments.extend(more);
        let client = Traffic::start(self.stage.command(program), &arguments);
        self.sums.add(&client.finish());
    }

    /// Starts both sides, lets them talk a little and ends them, over and over.
    fn start_afresh(&self) {
        for number in 1.. {
            if Instant::now() > self.until {
                break;
            }
            let is_new = number % NEW_FILE == 0;
            let programs = match is_new {
                true => [(), ()].map(|()| self.stage.copy_of("mixture")),
                false => self.programs.clone(),
            };
            let (server, address) = self.server(&programs[0]);
            self.client(&programs[1], &address, &["--connections", FRESH]);
            self.sums.add(&server.finish());
            // Minutes of such files would fill the disk.
            for program in programs.iter().filter(|_| is_new) {
                fs::remove_file(program).expect("failed to remove a copy of a program");
            }
        }
    }

    /// One long-lived server and client, with fresh clients alongside.
    fn last(&self) {
        let (server, address) = self.server(&self.programs[0]);
        thread::scope(|scope| {
            scope.spawn(|| {
                let seconds = self.until.saturating_duration_since(Instant::now());
                let seconds = seconds.as_secs_f64().to_string();
                self.client(&self.programs[1], &address, &["--seconds", &seconds]);
            });
            while Instant::now() < self.until {
                self.client(&self.programs[1], &address, &["--connections", FRESH]);
            }
        });
        self.sums.add(&server.finish());
    }
}

/// Runs all pairs at once, for this long.
fn mix(accelerated: bool, time: Duration) {
    let mut log = KernelLog::mark();
    let stage = Stage::new(accelerated);
    let until = Instant::now() + time;
    let works = PAIRS.each_ref().map(|pair| Work {
        stage: &stage,
        pair,
        programs: [(), ()].map(|()| stage.copy_of("mixture")),
        until,
        seeds: AtomicU64::new(1),
        sums: Sums::default(),
    });
    let failed = Mutex::new(false);
    thread::scope(|scope| {
        for work in &works {
            scope.spawn(|| work.start_afresh());
            scope.spawn(|| work.last());
        }
    });
    for work in &works {
        println!("{}: {}", work.pair.name, work.sums.line());
        let sums = &work.sums;
        let wrong = ["eagain", "wrong_counts", "wrong_bytes"];
        *failed.lock().unwrap() |= wrong.iter().any(|name| sums.value(name) > 0);
        assert!(sums.value("connections") > 0, "{}", work.pair.name);
    }
    let interrupted = works[0].sums.value("interrupted");
    assert!(interrupted > 0, "no call was interrupted");
    drop(works);
    let totals = stage.end();
    assert!(
        !failed.into_inner().unwrap(),
        "wrong answers, see above: {totals}"
    );
    assert_eq!(log.warnings(), Vec::<String>::new());
}

fn time() -> Duration {
    let text = env::var("SOCKREDIR_SOAK_MINUTES").unwrap_or_default();
    if text.is_empty() {
        return USUAL;
    }
    let minutes: f64 = text
        .parse()
        .unwrap_or_else(|_| panic!("SOCKREDIR_SOAK_MINUTES={text} is not a number"));
    Duration::from_secs_f64(minutes * 60.0)
}

/// A socket in the map whose program then blocks gets EAGAIN from recv, and one that enters the map between FIONREAD and recv
/// was given a wrong count.
#[test]
fn first_calls_on_new_connections_answer_as_on_plain_tcp() {
    mix(true, time());
}

/// The control: without a tool, the stress counts nothing.
#[test]
fn first_calls_on_new_connections_are_right_on_plain_tcp() {
    mix(false, time() / 4);
}
