//! What programs do with TCP sockets, as scenarios: each logs every result, and the transcript must be the same on
//! plain TCP and under acceleration.
//!
//! An output line is a scenario's name, a tab, `log` or `note`, a tab, and a text. Notes are not compared.

mod close;
mod connect;
mod epoll;
mod halfclose;
mod handshake;
mod identity;
mod mixed;
mod options;
mod process;
mod reading;
mod ready;
mod recv;
mod reset;
mod signals;
mod slow;
mod socket;
mod stage;
mod threads;
mod urgent;
mod uring;
mod vectors;
mod zerocopy;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use workloads::sys::{self, Family};

use crate::stage::{Mode, Scenario, Stage, Start};

const GROUPS: &[&[Scenario]] = &[
    recv::SCENARIOS,
    ready::SCENARIOS,
    epoll::SCENARIOS,
    halfclose::SCENARIOS,
    close::SCENARIOS,
    reset::SCENARIOS,
    slow::SCENARIOS,
    signals::SCENARIOS,
    threads::SCENARIOS,
    mixed::SCENARIOS,
    process::SCENARIOS,
    vectors::SCENARIOS,
    zerocopy::SCENARIOS,
    uring::SCENARIOS,
    reading::SCENARIOS,
    options::SCENARIOS,
    urgent::SCENARIOS,
    connect::SCENARIOS,
    handshake::SCENARIOS,
    identity::SCENARIOS,
];

/// Scenarios take less than a second, so one that takes longer has hung.
const DEADLINE: Duration = Duration::from_secs(10);
/// Most scenarios sleep most of the time.
const AT_A_TIME: usize = 8;

#[derive(Parser)]
#[command(name = "scenarios", about = "What programs do with TCP sockets, written down")]
struct Cli {
    #[arg(long, value_enum, default_value = "v4")]
    family: Family,
    #[arg(long, value_enum, default_value = "nonblocking")]
    mode: Mode,
    /// State of the connections when a scenario begins
    #[arg(long, value_enum, default_value = "admitted")]
    start: Start,
    /// Print the names of the scenarios, and if they begin with a warm connection
    #[arg(long)]
    list: bool,
    /// Run this one scenario in this process
    #[arg(long, conflicts_with = "names", hide = true)]
    alone: Option<String>,
    /// Scenarios to run [default: all]
    names: Vec<String>,
}

/// The scenarios that apply to this mode and start.
fn scenarios(cli: &Cli) -> impl Iterator<Item = &'static Scenario> {
    let Cli { mode, start, .. } = *cli;
    let all = GROUPS.iter().flat_map(|group| group.iter());
    all.filter(move |scenario| scenario.mode.is_none_or(|only| only == mode))
        .filter(move |scenario| scenario.warm || start == Start::Admitted)
}

fn find(name: &str, cli: &Cli) -> Result<&'static Scenario> {
    let found = scenarios(cli).find(|scenario| scenario.name == name);
    found.with_context(|| format!("no scenario `{name}` in this mode, from this start; --list lists them"))
}

/// Starts a scenario in a process of its own, which leads a process group so that its children can be killed with it.
fn start(scenario: &Scenario, cli: &Cli) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe().context("failed to find this program")?);
    let options = [
        ("--family", name_of(cli.family)),
        ("--mode", name_of(cli.mode)),
        ("--start", name_of(cli.start)),
    ];
    for (option, value) in options {
        command.args([option, &value]);
    }
    command.args(["--alone", scenario.name]).process_group(0);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().context("failed to start a scenario")
}

fn name_of(value: impl ValueEnum) -> String {
    let name = value.to_possible_value();
    name.map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Runs a scenario until it ends or its deadline expires: its lines, plus one on how it ended unless it succeeded.
fn run(scenario: &Scenario, cli: &Cli) -> Result<Vec<String>> {
    let deadline = Instant::now() + DEADLINE;
    let mut child = start(scenario, cli)?;
    let stdout = child.stdout.take().context("no output")?;
    let mut stderr = child.stderr.take().context("no errors")?;
    let lines = thread::spawn(move || {
        BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .collect::<Vec<_>>()
    });
    let errors = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text).unwrap_or_default()
    });
    let has_ended = loop {
        match sys::has_ended(child.id()) {
            Ok(true) => break true,
            Ok(false) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
            _ => break false,
        }
    };
    // Kills its leftover children too. It is not reaped yet, so its pid cannot have been reused.
    let _ = sys::kill_group(child.id());
    let status = child.wait().context("failed to wait for a scenario")?;
    let mut lines = lines.join().expect("a reader of lines does not panic");
    let errors = errors.join().expect("a reader of errors does not panic");
    if !has_ended {
        lines.push("log\thang".into());
    } else if !status.success() {
        eprint!("{}: {errors}", scenario.name);
        let end = status.signal().or(status.code()).unwrap_or_default();
        lines.push(format!("log\tfailed with {end}"));
    }
    Ok(lines)
}

fn run_all(cli: &Cli) -> Result<()> {
    let mut chosen: Vec<&Scenario> = Vec::new();
    for name in &cli.names {
        chosen.push(find(name, cli)?);
    }
    if chosen.is_empty() {
        chosen.extend(scenarios(cli));
    }
    let queue = Mutex::new(chosen.iter().enumerate());
    let results = Mutex::new(vec![Vec::new(); chosen.len()]);
    let take = || queue.lock().expect("nobody panics with it").next();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some((index, scenario)) = take() {
                    let lines =
                        run(scenario, cli).unwrap_or_else(|error| vec![format!("log\tfault: {error:#}")]);
                    results.lock().expect("nobody panics with it")[index] = lines;
                }
            });
        }
    });
    let results = results.into_inner().expect("nobody panics with it");
    for (scenario, lines) in chosen.iter().zip(results) {
        for line in lines {
            println!("{}\t{line}", scenario.name);
        }
    }
    Ok(())
}

fn main_of(cli: &Cli) -> Result<()> {
    if cli.list {
        for scenario in scenarios(cli) {
            let kind = if scenario.warm { "warm" } else { "cold" };
            println!("{}\t{kind}", scenario.name);
        }
        return Ok(());
    }
    let Some(name) = &cli.alone else {
        return run_all(cli);
    };
    (find(name, cli)?.run)(&Stage {
        family: cli.family,
        mode: cli.mode,
        start: cli.start,
    });
    Ok(())
}

fn main() -> ExitCode {
    match main_of(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
