//! What `sockredir` and `sockredir-bench` are made of.

mod adopt;
pub mod cgroup;
pub mod checks;
pub mod cli;
pub mod counters;
mod doctor;
mod events;
mod front;
pub mod generate;
mod handover;
mod image;
pub mod kernel;
mod known;
mod life;
mod memory;
mod notify;
mod observe;
pub mod output;
pub mod ports;
pub mod privilege;
mod programs;
mod run;

/// What the commands of `sockredir` do.
pub mod commands {
    pub use crate::doctor::doctor;
    pub use crate::handover::reload;
    pub use crate::observe::adopt::adopt;
    pub use crate::observe::explain::explain;
    pub use crate::observe::flows::flows;
    pub use crate::observe::status::status;
    pub use crate::observe::top::top;
    pub use crate::run::run;
}

use std::process::ExitCode;
use std::sync::LazyLock;

use anyhow::Result;
use clap::Parser;

/// Exit status for a command line that makes no sense.
const USAGE: u8 = 2;

static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} (libbpf {})",
        env!("CARGO_PKG_VERSION"),
        kernel::libbpf_version()
    )
});

/// The `main` of a program: parses its command line, does what that asks for, and prints an error once, in a line.
pub fn main<C: Parser>(work: impl FnOnce(C) -> Result<ExitCode>) -> ExitCode {
    let command = C::command().version(VERSION.as_str());
    let name = command.get_name().to_owned();
    let parsed = command
        .try_get_matches()
        .and_then(|matches| C::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            eprintln!("{name}: {} (see {name} --help)", cli::one_line(&error));
            return ExitCode::from(USAGE);
        }
        Err(help) => {
            // Help cut short by a closed pipe is no failure.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    work(cli).unwrap_or_else(|error| {
        eprintln!("{name}: {error:#}");
        ExitCode::FAILURE
    })
}
