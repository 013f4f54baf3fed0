//! Owns the workload `dial`: one client of an echo server that is not ours.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use crate::conversation::Side;
use crate::direct::{End, STUCK_MILLISECONDS};
use crate::options::Common;
use crate::sys;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where the server listens; it must send back what it gets
    address: SocketAddr,
    /// Messages to send, each after the answer to the one before
    #[arg(long, default_value_t = 2000)]
    count: u64,
    /// Bytes of a message
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    size: u64,
    /// Make the socket blocking when it is connected, or after the first answer
    #[arg(long, value_enum)]
    turn: Option<Turn>,
    /// Make an io_uring before the socket
    #[arg(long)]
    io_uring: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Turn {
    Connected,
    Answered,
}

pub fn main(mut options: Options) -> Result<()> {
    let _ring = options.io_uring.then(sys::io_uring).transpose()?;
    let seed = options.common.settle_seed();
    let stream = sys::connect(None, options.address, options.common.nonblocking());
    let stream = stream.with_context(|| format!("failed to connect to {}", options.address))?;
    ensure!(
        sys::wait_for(&stream, sys::OUT, STUCK_MILLISECONDS)?,
        "the connect does not end"
    );
    if let Some(error) = stream.take_error()? {
        return Err(error).with_context(|| format!("failed to connect to {}", options.address));
    }
    let turns = stream.try_clone().context("failed to share the socket")?;
    let mut client = End::new(&options.common, seed, 0, Side::Client, stream);
    client.expect_echo();
    let mut buffer = vec![0; options.size as usize];
    for message in 0..options.count {
        if options.turn == Some([Turn::Connected, Turn::Answered][message.min(1) as usize]) {
            turns.set_nonblocking(false)?;
        }
        client.send_all(options.size as usize, &mut buffer)?;
        client.receive_until(client.sent, &mut buffer)?;
    }
    println!(
        "payload_bytes={}\nmessages={}",
        client.sent + client.received,
        options.count
    );
    Ok(())
}
