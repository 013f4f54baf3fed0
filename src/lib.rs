//! The layers of `sockredir` and `sockredir-bench`, each of which knows only those below it:
//!
//! ```text
//! main.rs    sockredir-bench    the commands of the two programs
//!   daemon   client             an instance; the commands that ask one
//!     preflight                 whether an instance may start here
//!       datapath                the programs in the kernel, all of libbpf, every `unsafe`
//!         cli  image  model     values: options, ELF files of programs, descriptions of connections
//! ```
//!
//! `tests/floors.rs` has the table of allowed imports, and fails on any other.

pub mod cli;
mod client;
mod daemon;
pub mod datapath;
pub mod generate;
mod image;
pub mod model;
pub mod preflight;

/// The implementations of the commands of `sockredir`.
pub mod commands {
    pub use crate::client::{adopt, explain, flows, status, top};
    pub use crate::daemon::{reload, run};
    pub use crate::preflight::doctor;
}

use std::process::ExitCode;
use std::sync::LazyLock;

use anyhow::Result;
use clap::Parser;

/// Exit status for an invalid command line.
const USAGE: u8 = 2;

static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} (libbpf {})",
        env!("CARGO_PKG_VERSION"),
        datapath::libbpf_version()
    )
});

/// The `main` of a program: parses its command line, runs the command, and prints an error once, on one line.
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
            // Help cut short by a closed pipe is not an error.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    work(cli).unwrap_or_else(|error| {
        eprintln!("{name}: {error:#}");
        ExitCode::FAILURE
    })
}
