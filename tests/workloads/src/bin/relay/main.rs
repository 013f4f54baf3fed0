//! A TCP relay of one thread, which moves bytes by recv and send, or by splice(2) in one of the manners of real programs.
//!
//! At the end of standard input it prints what it has moved, `ok` the last line.

mod flow;

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use workloads::pattern::Random;
use workloads::sys::stream::{self, Listener};
use workloads::sys::{self, Epoll};

use crate::flow::Flow;

const LISTENER: u64 = u64::MAX;
/// The late splicer receives at most this many messages by recv.
const LATEST: u64 = 100;
const CONNECT_MILLISECONDS: i32 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Manner {
    /// recv and send, no splice
    Recv,
    /// One splice per event, level-triggered
    Level,
    /// Splices until EAGAIN, edge-triggered
    Edge,
    /// As `level`, with a first splice before anything can have arrived
    Before,
    /// As `level`, with the first splice once the whole first message has arrived
    After,
    /// recv for a while, then as `level`
    Late,
}

#[derive(Parser)]
#[command(name = "relay", about = "A TCP relay that splices")]
struct Options {
    #[arg(value_enum)]
    manner: Manner,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    target: SocketAddr,
    /// Reads by recv in each direction of a connection before the late one splices [default: 1 to 100]
    #[arg(long)]
    receives: Option<u64>,
    /// Connections that the late one first relays by recv alone
    #[arg(long, default_value_t = 0)]
    received_first: u64,
    /// Seed that decides when the late one splices
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const PORT_IS_FREE: Duration = Duration::from_secs(5);

/// Connections reset by one of the two ends, or by the kernel.
static RESETS: AtomicU64 = AtomicU64::new(0);

/// Retries, as an earlier relay may release its port a moment after it ends.
fn listen(address: SocketAddr) -> io::Result<Listener> {
    let deadline = Instant::now() + PORT_IS_FREE;
    loop {
        match Listener::bind(address, true, false) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    sys::raise_file_limit()?;
    let listener = listen(options.listen).context("failed to listen")?;
    thread::spawn(|| {
        // Standard input only serves to end the relay, so its content does not matter.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        println!("spliced={}", flow::SPLICED.load(Ordering::Relaxed));
        println!("received={}", flow::RECEIVED.load(Ordering::Relaxed));
        println!("resets={}", RESETS.load(Ordering::Relaxed));
        println!("ok");
        std::process::exit(0);
    });
    let mut epoll = Epoll::new()?;
    epoll.add(&listener, sys::IN, LISTENER)?;
    let mut flows = HashMap::new();
    let mut events = Vec::new();
    let mut number = 0;
    loop {
        events.clear();
        epoll.wait(-1, &mut events)?;
        for (token, _) in &events {
            if *token == LISTENER {
                let flow = accept(&options, &listener, number)?;
                for end in [0, 1] {
                    epoll.add(&flow.ends[end], flow.interest[end], number * 2 + end as u64)?;
                }
                flows.insert(number, flow);
                if options.manner == Manner::Before {
                    turn(&epoll, &mut flows, number)?;
                }
                number += 1;
            } else {
                turn(&epoll, &mut flows, token / 2)?;
            }
        }
    }
}

fn accept(options: &Options, listener: &Listener, number: u64) -> Result<Flow> {
    let (client, _) = listener.accept(true).context("failed to accept")?;
    let server = stream::connect(None, options.target, true).context("failed to connect")?;
    let connected = stream::wait_for(&server, sys::OUT, CONNECT_MILLISECONDS)?;
    ensure!(connected, "the server does not accept");
    for end in [&client, &server] {
        end.set_nodelay(true)?;
    }
    let mut random = Random::of(options.seed, number, 0);
    let receives = [(), ()].map(|()| match options.manner {
        Manner::Recv => u64::MAX,
        Manner::Late if number < options.received_first => u64::MAX,
        Manner::Late => options.receives.unwrap_or_else(|| random.spread(1, LATEST)),
        _ => 0,
    });
    Ok(Flow::new(options.manner, [client, server], receives)?)
}

/// Lets a connection make progress. One that fails is reset at both ends, so that neither waits for the other.
fn turn(epoll: &Epoll, flows: &mut HashMap<u64, Flow>, number: u64) -> Result<()> {
    // An earlier event of the same wait may have ended it.
    let Some(flow) = flows.get_mut(&number) else {
        return Ok(());
    };
    if flow.turn().is_err() {
        RESETS.fetch_add(1, Ordering::Relaxed);
        for end in &flow.ends {
            stream::reset_on_close(end)?;
        }
        flows.remove(&number);
    } else if flow.has_ended() {
        flows.remove(&number);
    } else {
        for end in [0, 1] {
            let wanted = flow.wanted(end);
            if wanted != flow.interest[end] {
                epoll.modify(&flow.ends[end], wanted, number * 2 + end as u64)?;
                flow.interest[end] = wanted;
            }
        }
    }
    Ok(())
}
