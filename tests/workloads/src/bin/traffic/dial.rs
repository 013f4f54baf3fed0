//! Owns the workload `dial`: clients of a foreign echo server.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use workloads::sys::{self, ring, stream};

use crate::conversation::Side;
use crate::direct::{End, STUCK_MILLISECONDS};
use crate::options::Common;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address of the server, which must send back what it receives
    address: SocketAddr,
    /// Messages to send on each connection, each after the previous answer
    #[arg(long, default_value_t = 2000)]
    count: u64,
    /// Bytes per message
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    size: u64,
    /// Milliseconds between two messages
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// Make all connections this many times, one round after the other
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// Source address; if it has a port, each connection takes the next one, otherwise a free one
    #[arg(long)]
    source: Option<SocketAddr>,
    /// Set the initial sequence number of each connection, as CAP_NET_ADMIN in one's own network namespace permits
    #[arg(long)]
    sequence: Option<u32>,
    /// Establish each connection unilaterally, in repair mode, as CAP_NET_ADMIN in one's own network namespace permits
    #[arg(long)]
    restored: bool,
    /// Send the first message in the SYN, once there is a fast-open cookie for it
    #[arg(long)]
    fast_open: bool,
    /// Make the socket blocking once connected, or after the first answer
    #[arg(long, value_enum)]
    turn: Option<Turn>,
    /// Create an io_uring before the socket
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

struct Client {
    end: End,
    /// The same socket, for changing its options.
    stream: TcpStream,
}

pub fn main(mut options: Options) -> Result<()> {
    let _ring = options.io_uring.then(ring::idle).transpose()?;
    let seed = options.common.settle_seed();
    let connections = options.common.connections.unwrap_or(1);
    let mut bytes = 0;
    let start = Instant::now();
    for round in 0..options.rounds {
        let numbers = round * connections..(round + 1) * connections;
        let clients = numbers.map(|number| connect(&options, seed, number));
        let mut clients = clients.collect::<Result<Vec<_>>>()?;
        for client in &mut clients {
            settle(&options, client)?;
        }
        for message in 0..options.count {
            thread::sleep(Duration::from_millis(options.pause));
            for client in &mut clients {
                exchange(&options, client, message)?;
            }
        }
        bytes += clients
            .iter()
            .map(|client| client.end.sent + client.end.received)
            .sum::<u64>();
    }
    println!(
        "payload_bytes={bytes}\nmessages={}\nmicroseconds={}",
        options.count * connections * options.rounds,
        start.elapsed().as_micros()
    );
    Ok(())
}

fn connect(options: &Options, seed: u64, number: u64) -> Result<Client> {
    let port = |first: u16| if first == 0 { 0 } else { first + number as u16 };
    let source = options
        .source
        .map(|source| SocketAddr::new(source.ip(), port(source.port())));
    let nonblocking = options.common.nonblocking();
    let begin = match (options.sequence, options.fast_open) {
        _ if options.restored => stream::Begin::Restored,
        (Some(first), _) => stream::Begin::At(first),
        (None, true) => stream::Begin::WithData,
        (None, false) => stream::Begin::Usual,
    };
    let stream = stream::connect_so(
        begin,
        source,
        options.address,
        nonblocking && !options.common.late,
    );
    let stream = stream.with_context(|| format!("failed to connect to {}", options.address))?;
    stream.set_nonblocking(nonblocking)?;
    let same = stream.try_clone().context("failed to share the socket")?;
    let mut end = End::new(&options.common, seed, number, Side::Client, stream);
    end.expect_echo();
    Ok(Client { end, stream: same })
}

fn settle(options: &Options, client: &mut Client) -> Result<()> {
    ensure!(
        stream::wait_for(&client.stream, sys::OUT, STUCK_MILLISECONDS)?,
        "the connect does not end"
    );
    match client.stream.take_error()? {
        Some(error) => Err(error).with_context(|| format!("failed to connect to {}", options.address)),
        None => Ok(()),
    }
}

fn exchange(options: &Options, client: &mut Client, message: u64) -> Result<()> {
    if options.turn == Some([Turn::Connected, Turn::Answered][message.min(1) as usize]) {
        client.stream.set_nonblocking(false)?;
    }
    let mut buffer = vec![0; options.size as usize];
    client.end.send_all(options.size as usize, &mut buffer)?;
    client.end.receive_until(client.end.sent, &mut buffer)
}
