//! Owns the workload `behind`: streams of large messages whose single reader only reads, and is slower than their sender.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use workloads::sys::stream;

use crate::direct::{Pair, STUCK_MILLISECONDS, connect};
use crate::options::{Common, Mode};

const MESSAGE: usize = 128 << 10;
/// Small enough that reading a message takes longer than sending it.
const READ: usize = 8 << 10;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    #[command(flatten)]
    common: Common,
}

/// Maps EAGAIN to `None`.
fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}

/// Sends a message on each stream that has room, over and over; returns the number of bytes.
fn send(mut clients: Vec<TcpStream>, until: Instant) -> Result<u64> {
    let buffer = vec![0; MESSAGE];
    let mut bytes = 0;
    while Instant::now() < until {
        let before = bytes;
        for client in &mut clients {
            if let Some(count) = unless_blocked(client.write(&buffer)).context("send failed")? {
                bytes += count as u64;
            }
        }
        if bytes == before {
            thread::yield_now();
        }
    }
    Ok(bytes)
}

/// One read per stream.
fn read(pairs: &[Pair], buffer: &mut [u8]) -> Result<u64> {
    let mut bytes = 0;
    for pair in pairs {
        let count =
            unless_blocked(stream::receive(pair.server.stream(), buffer, 0)).context("recv failed")?;
        bytes += count.unwrap_or(0) as u64;
    }
    Ok(bytes)
}

pub fn main(mut options: Options) -> Result<()> {
    ensure!(
        options.common.mode == Mode::Nonblocking,
        "behind has no blocking mode"
    );
    let seed = options.common.settle_seed();
    let pairs = connect(&options.common, seed, options.common.connections.unwrap_or(8))?;
    let clients: io::Result<Vec<_>> = pairs
        .iter()
        .map(|pair| pair.client.stream().try_clone())
        .collect();
    let clients = clients.context("failed to share a socket")?;
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let sender = thread::spawn(move || send(clients, until));
    let mut buffer = vec![0; READ];
    let mut received = 0;
    while !sender.is_finished() {
        received += read(&pairs, &mut buffer)?;
    }
    let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))??;
    let end = Instant::now() + Duration::from_millis(STUCK_MILLISECONDS as u64);
    while received < sent && Instant::now() < end {
        received += read(&pairs, &mut buffer)?;
    }
    ensure!(received == sent, "{received} of {sent} bytes arrived");
    println!("payload_bytes={sent}");
    Ok(())
}
