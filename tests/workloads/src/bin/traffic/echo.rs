//! Owns the workload `echo`: requests and answers of one size, one after another.

use std::time::Instant;

use anyhow::Result;

use crate::conversation::{Op, Progress, Script, Side, Workload};
use crate::options::Common;
use crate::run::Run;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Exchanges on each connection
    #[arg(long, default_value_t = 2000)]
    count: u64,
    /// Bytes per request and answer
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    size: u64,
    #[command(flatten)]
    common: Common,
}

struct Echo {
    connections: u64,
    count: u64,
    size: u64,
}

impl Workload for Echo {
    fn more(&self, opened: u64) -> bool {
        opened < self.connections
    }

    fn script(&self, _connection: u64, side: Side) -> Box<dyn Script> {
        Box::new(Exchange::new(side, self.size, self.count))
    }
}

/// This many requests and answers, then the client closes.
struct Exchange {
    side: Side,
    size: u64,
    count: u64,
    step: u64,
}

impl Exchange {
    fn new(side: Side, size: u64, count: u64) -> Self {
        Self {
            side,
            size,
            count,
            step: 0,
        }
    }
}

impl Script for Exchange {
    fn next(&mut self, _: &Progress) -> Op {
        let (round, second) = (self.step / 2, self.step % 2 == 1);
        self.step += 1;
        if round >= self.count {
            return match (self.side, second) {
                (Side::Server, false) => Op::AwaitEof(self.size * self.count),
                _ => Op::Close,
            };
        }
        if second == (self.side == Side::Server) {
            Op::Send(self.size as usize)
        } else {
            Op::Await(self.size * (round + 1))
        }
    }
}

pub fn main(mut options: Options) -> Result<()> {
    options.common.settle_seed();
    let connections = options.common.connections.unwrap_or(1);
    let echo = Echo {
        connections,
        count: options.count,
        size: options.size,
    };
    let run = Run::new(&options.common, connections, Box::new(echo))?;
    let start = Instant::now();
    let tally = run.start().finish()?;
    let microseconds = start.elapsed().as_micros();
    println!(
        "payload_bytes={}\nmessages={}\nmicroseconds={microseconds}",
        tally.bytes, tally.messages
    );
    Ok(())
}
