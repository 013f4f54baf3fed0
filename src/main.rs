//! The program: runs the requested command.

use std::process::ExitCode;

use clap::CommandFactory as _;

use sockredir::cli::{Cli, Command};
use sockredir::commands;
use sockredir::generate::{Manual, generate};

fn main() -> ExitCode {
    sockredir::main(|cli: Cli| match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(args) => commands::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Reload(args) => commands::reload(&args),
        Command::Doctor(args) => commands::doctor(&args),
        Command::Status(args) => commands::status(&args),
        Command::Flows(args) => commands::flows(&args),
        Command::Explain(args) => commands::explain(&args),
        Command::Adopt(args) => commands::adopt(&args),
        Command::Top(args) => commands::top(&args),
        Command::Generate(what) => {
            generate(&what, Cli::command(), &Manual::OF_SOCKREDIR).map(|()| ExitCode::SUCCESS)
        }
    })
}
