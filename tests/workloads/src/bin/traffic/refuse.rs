//! Owns the workload `refuse`: readers that read a part, answer, shut down their sending side and end later in one of several
//! ways, each group in a process of its own, and when and how their senders learn of it.

mod readers;
mod senders;

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use workloads::pattern::Random;
use workloads::sys;
use workloads::sys::stream;

use crate::options::Common;

/// Connections per reader process.
const GROUP: u64 = 10;
/// Maximum milliseconds between a reader's shutdown and its end.
const LONGEST: u64 = 5000;
const LARGEST: u64 = 1 << 20;
const MOST_READ: u64 = 256 << 10;
const ANSWER: usize = 100;
/// Bytes of the first message, which identifies the connection.
const NAME: usize = 8;
const ECHO: usize = 64;
const MOST_ECHOES: u64 = 32;
const RUN: u64 = 16;
/// The size of all buffers of senders and readers, except some that are as large as TCP makes them.
const BUFFER: i32 = 64 << 10;
const LARGE_OF: u64 = 16;
/// On any TCP every sender gets its error within this time, in milliseconds.
const STUCK: i32 = 150_000;

/// How a reader ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Ending {
    /// By close
    Close,
    /// Its process is killed
    Killed,
    /// It closes, and another process that holds the socket closes it later
    Held,
    /// By close, after reading some more
    Partly,
    /// It reads to the end, so the sender ends first
    ReadsOn,
    /// By close, once it has read all that the sender has for it, while the sender has not ended
    ReadsAll,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How the readers end; all but the last two by default
    #[arg(long, value_enum)]
    ending: Vec<Ending>,
    /// Number of connections
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Be the readers of this group
    #[arg(long)]
    group: Option<u64>,
    /// Address of a single group of readers, started apart from its senders
    #[arg(long)]
    at: Option<SocketAddr>,
    #[command(flatten)]
    common: Common,
}

/// What one connection does, the same on both sides and in every run of a seed.
struct Plan {
    echoes: u64,
    /// Bytes per message
    size: u64,
    /// Bytes the reader reads before it answers; `more` is for before it ends
    first: u64,
    more: u64,
    is_large: bool,
    /// The sender stops after this many bytes and waits for its error
    most: Option<u64>,
    /// Bytes in all, for a reader that reads to the end
    total: u64,
}

impl Plan {
    fn of(seed: u64, id: u64) -> Self {
        let mut random = Random::of(seed, id, 0);
        let size = random.spread(1, LARGEST);
        let reach = (size * RUN).min(MOST_READ);
        Self {
            echoes: random.range(0, 1) * random.range(0, MOST_ECHOES),
            size,
            first: random.range(1, reach),
            more: random.range(1, reach),
            is_large: random.chance(LARGE_OF),
            most: random.chance(4).then(|| 4 * reach),
            total: (size * random.range(1, 2 * RUN)).max(2 * reach),
        }
    }
}

impl Options {
    fn endings(&self) -> &[Ending] {
        const TOLD: [Ending; 4] = [Ending::Close, Ending::Killed, Ending::Held, Ending::Partly];
        if self.ending.is_empty() {
            &TOLD
        } else {
            &self.ending
        }
    }

    fn ending(&self, group: u64) -> Ending {
        let endings = self.endings();
        endings[group as usize % endings.len()]
    }

    fn delay(&self, seed: u64, group: u64) -> Duration {
        // The first few end at once.
        let longest = if group < 8 { 0 } else { LONGEST };
        Duration::from_millis(Random::of(seed, group, 1).range(0, longest))
    }
}

pub fn main(mut options: Options) -> Result<()> {
    let seed = match options.group {
        Some(_) => options.common.seed.context("a group of readers has no seed")?,
        None => options.common.settle_seed(),
    };
    match options.group {
        Some(group) => readers::read_group(&options, seed, group),
        None => senders::send_all(&options, seed),
    }
}

/// A clock that all processes share.
fn clock() -> Result<Duration> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("failed to read the clock")?;
    Ok(Duration::from(now))
}

/// One non-blocking read, whatever the file's mode.
fn read_now(stream: &TcpStream, into: &mut [u8]) -> io::Result<Option<usize>> {
    match stream::receive(stream, into, libc::MSG_DONTWAIT) {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn receive_exactly(stream: &TcpStream, into: &mut [u8]) -> Result<()> {
    let mut got = 0;
    while got < into.len() {
        ensure!(stream::wait_for(stream, sys::IN, STUCK)?, "nothing to read");
        got += match stream::receive(stream, &mut into[got..], 0)? {
            0 => bail!("the sender has ended"),
            count => count,
        };
    }
    Ok(())
}
