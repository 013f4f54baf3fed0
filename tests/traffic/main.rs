//! The workloads of the tests: programs that hold both ends of their connections and compare every byte.
//!
//! Results are lines `name=value` on standard output, `ok` the last one; faults are lines on standard error and exit
//! status 1.

mod conversation;
mod echo;
mod end;
mod events;
mod hold;
mod monitor;
mod order;
mod pattern;
mod run;
mod sys;
mod threads;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "traffic", about = "Workloads over loopback TCP that compare every byte")]
struct Cli {
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Subcommand)]
enum Workload {
    /// Requests and answers of one size
    Echo(echo::Options),
    /// Both directions at once, in phases of random nature
    Order(order::Options),
    /// Connections that stay open and echo when told
    Hold(hold::Options),
}

fn main() -> ExitCode {
    let result = sys::raise_file_limit().map_err(anyhow::Error::from).and_then(|()| match Cli::parse().workload {
        Workload::Echo(options) => echo::main(options),
        Workload::Order(options) => order::main(options),
        Workload::Hold(options) => hold::main(options),
    });
    match result {
        Ok(()) => {
            println!("ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("fault: {error:#}");
            ExitCode::FAILURE
        }
    }
}
