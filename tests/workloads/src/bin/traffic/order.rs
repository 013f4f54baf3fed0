//! Owns the workload `order`: both directions of a connection change their pattern at random, over and over, so that
//! bytes that take different paths through the kernel could overtake each other.

use std::time::{Duration, Instant};

use anyhow::Result;
use workloads::pattern::Random;

use crate::conversation::{Reading, Script, Side, Workload};
use crate::options::Common;
use crate::phases::{Phases, Tempo};
use crate::plan::{Ending, any_side};
use crate::run::Run;

const KIB: u64 = 1 << 10;
const TEMPO: Tempo = Tempo {
    sleep: Duration::from_millis(4),
    stop: Duration::from_millis(15),
};

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Total bytes of all connections and both directions, with K, M or G
    #[arg(long, default_value = "5G", value_parser = parse_bytes)]
    bytes: u64,
    #[command(flatten)]
    common: Common,
}

/// Parses a number of bytes with a binary suffix.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".to_string())
}

struct Order {
    seed: u64,
    connections: u64,
    quota: u64,
}

impl Workload for Order {
    fn more(&self, opened: u64) -> bool {
        opened < self.connections
    }

    fn script(&self, connection: u64, side: Side) -> Box<dyn Script> {
        let mut random = Random::of(self.seed, connection, 0);
        let ending = Ending::HalfCloses {
            first: any_side(&mut random),
            late: random.chance(2),
        };
        Box::new(Phases::new(random, side, self.quota, TEMPO, ending))
    }

    fn reading(&self, connection: u64, side: Side) -> Reading {
        let mut random = Random::of(self.seed, connection, 1 + side.index() as u64);
        let buffer = random.spread(4 * KIB, 512 * KIB) as usize;
        match random.range(0, 3) {
            0 => Reading::Level { buffer },
            _ => Reading::Drain { buffer },
        }
    }

    fn accept_delay(&self, random: &mut Random) -> Option<Duration> {
        random
            .chance(2)
            .then(|| Duration::from_micros(random.range(100, 8000)))
    }

    fn duplex(&self, _: u64) -> bool {
        true
    }
}

pub fn main(mut options: Options) -> Result<()> {
    let seed = options.common.settle_seed();
    let connections = options.common.connections.unwrap_or(64);
    let quota = options.bytes.div_ceil(connections.max(1));
    let run = Run::new(
        &options.common,
        connections,
        Box::new(Order {
            seed,
            connections,
            quota,
        }),
    )?;
    let start = Instant::now();
    let tally = run.start().finish()?;
    let microseconds = start.elapsed().as_micros();
    println!(
        "payload_bytes={}\nmessages={}\nmicroseconds={microseconds}",
        tally.bytes, tally.messages
    );
    Ok(())
}
