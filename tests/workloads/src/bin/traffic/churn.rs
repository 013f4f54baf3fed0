//! Owns the workload `churn`: short connections that end in every way that a connection can end.

use std::time::{Duration, Instant};

use anyhow::Result;
use workloads::pattern::Random;

use crate::conversation::{Op, Reading, Script, Side, Workload};
use crate::options::Common;
use crate::plan::{Ending, Plan};
use crate::run::Run;

/// Enough addresses and ports that closed connections do not exhaust them.
const LISTENERS: usize = 8;
const LARGEST: u64 = 8 << 10;
const MOST_EXCHANGES: u64 = 20;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Total number of connections
    #[arg(long, default_value_t = 20_000)]
    count: u64,
    #[command(flatten)]
    common: Common,
}

struct Churn {
    seed: u64,
    count: u64,
}

impl Churn {
    fn plan(&self, connection: u64) -> (Ending, Random) {
        let mut random = Random::of(self.seed, connection, 0);
        let ending = Ending::draw(&mut random);
        (ending, random)
    }
}

impl Workload for Churn {
    fn more(&self, opened: u64) -> bool {
        opened < self.count
    }

    fn script(&self, connection: u64, side: Side) -> Box<dyn Script> {
        let (ending, random) = self.plan(connection);
        Box::new(short(ending, random, side))
    }

    fn reading(&self, connection: u64, side: Side) -> Reading {
        let mut random = Random::of(self.seed, connection, 1 + side.index() as u64);
        let buffer = random.spread(256, 64 << 10) as usize;
        match random.range(0, 2) {
            0 => Reading::Drain { buffer },
            1 => Reading::Edge { buffer },
            _ => Reading::Level { buffer },
        }
    }

    fn may_reset(&self, connection: u64) -> bool {
        self.plan(connection).0.is_reset()
    }

    fn accept_delay(&self, random: &mut Random) -> Option<Duration> {
        random
            .chance(50)
            .then(|| Duration::from_micros(random.range(100, 3000)))
    }

    fn listeners(&self) -> usize {
        LISTENERS
    }
}

/// A few exchanges, or none, then the ending.
pub fn short(ending: Ending, mut random: Random, this: Side) -> Plan {
    let mut plan = Plan::new(this);
    if !matches!(ending, Ending::Silent(_)) {
        let most = random.spread(1, LARGEST);
        for _ in 0..random.range(0, MOST_EXCHANGES) {
            for side in [Side::Client, Side::Server] {
                plan.send(side, random.range(1, most));
                plan.catch_up(side.other());
            }
        }
    }
    let last = random.spread(1, LARGEST);
    if let Ending::Silent(side) = ending {
        if random.chance(2) {
            plan.at(side, Op::Sleep(Duration::from_micros(random.range(1, 5000))));
        }
    }
    plan.end(ending, last);
    plan
}

pub fn main(mut options: Options) -> Result<()> {
    let seed = options.common.settle_seed();
    let connections = options.common.connections.unwrap_or(64);
    let churn = Churn {
        seed,
        count: options.count,
    };
    let run = Run::new(&options.common, connections, Box::new(churn))?;
    let start = Instant::now();
    let tally = run.start().finish()?;
    let microseconds = start.elapsed().as_micros();
    println!("connections={}\npayload_bytes={}", run.opened(), tally.bytes);
    println!("messages={}\nmicroseconds={microseconds}", tally.messages);
    Ok(())
}
