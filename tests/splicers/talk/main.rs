//! A client and a server for testing relays between them: event-driven sockets, messages from 1 byte to 10 MB, and every byte
//! compared.
//!
//! Results are lines `name=value` on standard output, `ok` the last one.

mod client;
#[path = "../../traffic/conversation.rs"]
#[allow(
    dead_code,
    reason = "what the system calls are told in its words is not used here"
)]
mod conversation;
mod message;
#[path = "../../traffic/pattern.rs"]
mod pattern;
mod server;
#[path = "../../traffic/sys.rs"]
#[allow(dead_code, reason = "the workloads use more of it")]
mod sys;
mod wire;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "talk", about = "A client and a server that compare every byte")]
struct Cli {
    #[command(subcommand)]
    side: Side,
}

#[derive(Subcommand)]
enum Side {
    Client(client::Options),
    Server(server::Options),
}

fn main() -> Result<()> {
    sys::raise_file_limit()?;
    match Cli::parse().side {
        Side::Client(options) => client::main(&options)?,
        Side::Server(options) => server::main(&options)?,
    }
    println!("ok");
    Ok(())
}
