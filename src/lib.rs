//! What `sockredir` and `sockredir-bench` are made of, in floors of which each knows only those below it:
//!
//! ```text
//! main.rs    sockredir-bench    what the two programs do at each command
//!   daemon   client             an instance; who asks one
//!     preflight                 whether an instance may start here
//!       datapath                the programs in the kernel, all of libbpf, every `unsafe`
//!         cli  image  model     values: options, what the files of programs say, what is told of connections
//! ```
//!
//! `tests/floors.rs` has the table of who may import what, and fails where somebody imports more.

pub mod cli;
mod client;
mod daemon;
pub mod datapath;
pub mod generate;
mod image;
pub mod model;
pub mod preflight;

/// What the commands of `sockredir` do.
pub mod commands {
    pub use crate::client::{adopt, explain, flows, status, top};
    pub use crate::daemon::{reload, run};
    pub use crate::preflight::doctor;
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
        datapath::libbpf_version()
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
