//! A client and a server for testing relays between them: event-driven sockets, messages from 1 byte to 10 MB, and every byte
//! compared.
//!
//! Results are lines `name=value` on standard output, `ok` the last one.

mod client;
mod message;
mod server;
mod wire;

use anyhow::Result;
use clap::{Parser, Subcommand};
use workloads::sys;

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
