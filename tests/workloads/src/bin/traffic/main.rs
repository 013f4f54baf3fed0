//! The workloads of the tests: programs that own both ends of their connections and compare every byte.
//!
//! Results are lines `name=value` on standard output, `ok` last; faults are lines on standard error, with exit
//! status 1.

mod awaited;
mod behind;
mod churn;
mod conversation;
mod dial;
mod direct;
mod echo;
mod end;
mod events;
mod gate;
mod get;
mod hold;
mod monitor;
mod older;
mod options;
mod order;
mod overtake;
mod peer;
mod phases;
mod plan;
mod readers;
mod refuse;
mod repeat;
mod run;
mod serve;
mod soak;
mod stopped;
mod task;
mod threads;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use workloads::sys;

#[derive(Parser)]
#[command(
    name = "traffic",
    about = "Workloads over loopback TCP that compare every byte"
)]
struct Cli {
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Subcommand)]
enum Workload {
    /// Requests and answers of one size
    Echo(echo::Options),
    /// Both directions at once, in phases of random character
    Order(order::Options),
    /// Senders whose readers have stopped
    Stopped(stopped::Options),
    /// Event-loop readers that rely on edges, short reads and FIONREAD
    Readers(readers::Options),
    /// Uploads whose readers half-close and end before they have read everything
    Refuse(refuse::Options),
    /// Segments that are retransmitted together with later ones
    Repeat(repeat::Options),
    /// Threads on one socket, one of which sends late what another believes sent
    Overtake(overtake::Options),
    /// Streams of large messages whose reader is slower than the sender
    Behind(behind::Options),
    /// Short connections that end in every possible way
    Churn(churn::Options),
    /// A client of a foreign echo server
    Dial(dial::Options),
    /// Clients of a memcached, as fast as it responds
    Get(get::Options),
    /// An echo server for clients in other processes
    Serve(serve::Options),
    /// Connections that stay open and echo on demand
    Hold(hold::Options),
    /// Calls that wait for a socket which a scan gets to first
    Awaited(awaited::Options),
    /// Connections in a given state when a tool finds them
    Older(older::Options),
    /// Programs of every kind at once, whose connections do everything that a connection can do
    Soak(soak::Options),
    /// One side of a soak's connections, to be killed
    Victim(soak::victims::Options),
}

fn main() -> ExitCode {
    let result = sys::raise_file_limit()
        .map_err(anyhow::Error::from)
        .and_then(|()| match Cli::parse().workload {
            Workload::Echo(options) => echo::main(options),
            Workload::Order(options) => order::main(options),
            Workload::Stopped(options) => stopped::main(options),
            Workload::Readers(options) => readers::main(options),
            Workload::Refuse(options) => refuse::main(options),
            Workload::Repeat(options) => repeat::main(options),
            Workload::Overtake(options) => overtake::main(options),
            Workload::Behind(options) => behind::main(options),
            Workload::Churn(options) => churn::main(options),
            Workload::Dial(options) => dial::main(options),
            Workload::Get(options) => get::main(options),
            Workload::Serve(options) => serve::main(options),
            Workload::Hold(options) => hold::main(options),
            Workload::Awaited(options) => awaited::main(options),
            Workload::Older(options) => older::main(options),
            Workload::Soak(options) => soak::main(options),
            Workload::Victim(options) => soak::victims::main(options),
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
