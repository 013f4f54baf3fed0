//! Owns the workload `churn`: short connections that end in every way a connection can end.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::conversation::{Op, Progress, Reading, Script, Side, Workload};
use crate::pattern::Random;
use crate::run::{Common, Run};

/// Ports and addresses enough that those of closed connections are no limit.
const LISTENERS: usize = 8;
const LARGEST: u64 = 8 << 10;
const MOST_EXCHANGES: u64 = 20;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Connections in all
    #[arg(long, default_value_t = 20_000)]
    count: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// This side closes after the last answer.
    Close(Side),
    /// This side closes at once after a last message, which must arrive.
    CloseAfterSend(Side),
    /// This side ends its direction first; the other sends a last message.
    HalfClose(Side),
    /// This side resets at once after a last message, which may be lost.
    Reset(Side),
    /// This side resets while the other one sends.
    ResetWhileSentTo(Side),
    /// Nobody ever sends anything, and this side closes.
    Silent(Side),
}

struct Churn {
    seed: u64,
    count: u64,
}

impl Churn {
    fn plan(&self, connection: u64) -> (Ending, Random) {
        let mut random = Random::of(self.seed, connection, 0);
        let side = if random.chance(2) {
            Side::Client
        } else {
            Side::Server
        };
        let ending = match random.range(0, 9) {
            0..=1 => Ending::Close(side),
            2..=4 => Ending::CloseAfterSend(side),
            5..=6 => Ending::HalfClose(side),
            7 => Ending::Reset(side),
            8 => Ending::ResetWhileSentTo(side),
            _ => Ending::Silent(side),
        };
        (ending, random)
    }
}

impl Workload for Churn {
    fn more(&self, opened: u64) -> bool {
        opened < self.count
    }

    fn script(&self, connection: u64, side: Side) -> Box<dyn Script> {
        let (ending, random) = self.plan(connection);
        Box::new(operations(ending, random, side).into_iter())
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
        matches!(
            self.plan(connection).0,
            Ending::Reset(_) | Ending::ResetWhileSentTo(_)
        )
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

/// All operations of one end. Whoever closes has read all that was sent to it: else the close would be a reset.
fn operations(ending: Ending, mut random: Random, this: Side) -> Vec<Op> {
    let mut plan = Plan {
        this,
        totals: [0; 2],
        ops: Vec::new(),
    };
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
    match ending {
        Ending::Close(side) => plan.close(side),
        Ending::CloseAfterSend(side) => {
            plan.send(side, last);
            plan.close(side);
        }
        Ending::HalfClose(side) => {
            plan.at(side, Op::ShutdownWrite);
            plan.await_eof(side.other());
            plan.send(side.other(), last);
            plan.close(side.other());
        }
        Ending::Reset(side) => {
            plan.send(side, last);
            plan.at(side, Op::Reset);
            plan.await_eof(side.other());
            plan.at(side.other(), Op::Close);
        }
        Ending::ResetWhileSentTo(side) => {
            plan.at(side, Op::Reset);
            plan.send(side.other(), last);
            plan.await_eof(side.other());
            plan.at(side.other(), Op::Close);
        }
        Ending::Silent(side) => {
            if random.chance(2) {
                plan.at(side, Op::Sleep(Duration::from_micros(random.range(1, 5000))));
            }
            plan.close(side);
        }
    }
    plan.ops
}

/// The operations of one side, drawn together with the other one's.
struct Plan {
    this: Side,
    totals: [u64; 2],
    ops: Vec<Op>,
}

impl Plan {
    fn at(&mut self, side: Side, op: Op) {
        if side == self.this {
            self.ops.push(op);
        }
    }

    fn send(&mut self, side: Side, length: u64) {
        self.totals[side.index()] += length;
        self.at(side, Op::Send(length as usize));
    }

    fn catch_up(&mut self, side: Side) {
        self.at(side, Op::Await(self.totals[side.other().index()]));
    }

    fn await_eof(&mut self, side: Side) {
        self.at(side, Op::AwaitEof(self.totals[side.other().index()]));
    }

    /// One side closes, the other one sees it and closes too.
    fn close(&mut self, first: Side) {
        self.at(first, Op::Close);
        self.await_eof(first.other());
        self.at(first.other(), Op::Close);
    }
}

impl Script for std::vec::IntoIter<Op> {
    fn next(&mut self, _: &Progress) -> Op {
        Iterator::next(self).unwrap_or(Op::Close)
    }
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
