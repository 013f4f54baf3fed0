//! The command line: parses it, runs what it asks for, and prints an error once.

mod adopt;
mod bench;
mod cgroup;
mod checks;
mod cli;
mod counters;
mod doctor;
mod events;
mod front;
mod generate;
mod handover;
mod image;
mod kernel;
mod known;
mod life;
mod memory;
mod notify;
mod observe;
mod output;
mod ports;
mod privilege;
mod programs;
mod run;

use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::cli::{Cli, Command};

/// Exit status for a command line that makes no sense.
const USAGE: u8 = 2;

static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} (libbpf {})",
        env!("CARGO_PKG_VERSION"),
        kernel::libbpf_version()
    )
});

fn main() -> ExitCode {
    let parsed = Cli::command()
        .version(VERSION.as_str())
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            eprintln!("sockredir: {} (see sockredir --help)", cli::one_line(&error));
            return ExitCode::from(USAGE);
        }
        Err(help) => {
            // Help cut short by a closed pipe is no failure.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let done = match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(args) => run::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Reload(args) => handover::reload(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Status(args) => observe::status::status(&args),
        Command::Flows(args) => observe::flows::flows(&args),
        Command::Explain(args) => observe::explain::explain(&args),
        Command::Adopt(args) => observe::adopt::adopt(&args),
        Command::Top(args) => observe::top::top(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::BenchWorker { job } => bench::work(&job).map(|()| ExitCode::SUCCESS),
        Command::Generate(what) => generate::generate(&what).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(status) => status,
        Err(error) => {
            eprintln!("sockredir: {error:#}");
            ExitCode::FAILURE
        }
    }
}
