//! Owns the workload `order`: both directions of a connection change their nature at random, again and again, so that
//! bytes that take different ways through the kernel could overtake each other.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::conversation::{Op, Progress, Reading, Script, Side, Workload};
use crate::pattern::Random;
use crate::run::{Common, Run};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Bytes of all connections and both directions, with K, M or G
    #[arg(long, default_value = "5G", value_parser = parse_bytes)]
    bytes: u64,
    #[command(flatten)]
    common: Common,
}

/// A number of bytes with a binary suffix.
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
        Box::new(Phases::new(
            Random::of(self.seed, connection, 0),
            side,
            self.quota,
        ))
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

    fn duplex(&self) -> bool {
        true
    }
}

/// The script of one end: phases that both ends draw alike, each end keeping its own operations.
struct Phases {
    random: Random,
    side: Side,
    /// Most connections never send many small messages in one direction: such a flow may be given up for good, and then
    /// has nothing more to show.
    steady: bool,
    /// Bytes that the connection may still send, both directions together.
    left: u64,
    /// Bytes sent by each side when all operations so far are done.
    planned: [u64; 2],
    ops: VecDeque<Op>,
}

impl Phases {
    fn new(mut random: Random, side: Side, quota: u64) -> Self {
        let mut phases = Self {
            steady: !random.chance(4),
            random,
            side,
            left: quota,
            planned: [0; 2],
            ops: VecDeque::new(),
        };
        phases.open();
        phases
    }

    fn send(&mut self, from: Side, length: u64) {
        let length = length.min(self.left);
        if length == 0 {
            return;
        }
        self.left -= length;
        self.planned[from.index()] += length;
        self.at(from, Op::Send(length as usize));
    }

    fn at(&mut self, side: Side, op: Op) {
        if side == self.side {
            self.ops.push_back(op);
        }
    }

    /// Makes a side wait for all that the other one has sent by then.
    fn catch_up(&mut self, side: Side) {
        let total = self.planned[side.other().index()];
        self.at(side, Op::Await(total));
    }

    fn any_side(&mut self) -> Side {
        if self.random.chance(2) {
            Side::Client
        } else {
            Side::Server
        }
    }

    fn milliseconds(&mut self, most: u64) -> Duration {
        Duration::from_micros(self.random.range(200, most * 1000))
    }

    /// The client sends at once, before the server accepts, or both begin by turns.
    fn open(&mut self) {
        match self.random.range(0, 3) {
            _ if !self.steady => {
                let most = self.random.spread(1, 64);
                let sends = self.random.range(1, most);
                self.burst(sends);
            }
            0 => self.bulk(Side::Client),
            1 => {
                let sends = self.random.range(1, 3);
                self.burst(sends);
            }
            _ => {}
        }
        let rounds = self.random.range(8, 60);
        self.ping_pong(rounds);
    }

    fn burst(&mut self, sends: u64) {
        for _ in 0..sends {
            let length = self.random.spread(1, 32 * KIB);
            self.send(Side::Client, length);
        }
    }

    fn ping_pong(&mut self, rounds: u64) {
        let first = self.any_side();
        let most = self.random.spread(2, 32 * KIB);
        for _ in 0..rounds {
            for side in [first, first.other()] {
                let length = self.random.range(1, most);
                self.send(side, length);
                self.catch_up(side.other());
            }
        }
    }

    fn bulk(&mut self, from: Side) {
        let length = self.random.range(32 * KIB, MIB);
        let same = self.random.chance(2);
        let mut total = self.random.spread(256 * KIB, 8 * MIB);
        while total > 0 {
            let length = if same {
                length
            } else {
                self.random.range(32 * KIB, MIB)
            };
            self.send(from, length);
            total = total.saturating_sub(length);
        }
    }

    /// A run of small sends: a short one, ended by turns, or one that makes the flow a stream of small messages.
    fn tiny(&mut self, from: Side) {
        let most = self.random.spread(1, 128);
        let sends = if self.steady {
            self.random.spread(2, 48)
        } else {
            self.random.spread(16, 1024)
        };
        for _ in 0..sends {
            let length = self.random.range(1, most);
            self.send(from, length);
        }
        if self.steady {
            let rounds = self.random.range(1, 4);
            self.ping_pong(rounds);
        }
    }

    fn mixed(&mut self) {
        for _ in 0..self.random.spread(4, 64) {
            let side = self.any_side();
            let length = self.random.spread(1, MIB);
            self.send(side, length);
            if self.random.chance(8) {
                self.catch_up(side.other());
            }
        }
    }

    fn phase(&mut self) {
        let side = self.any_side();
        match self.random.range(0, 9) {
            0..=2 => {
                let rounds = self.random.range(2, 60);
                self.ping_pong(rounds);
            }
            3 => self.bulk(side),
            4 => {
                self.bulk(side);
                self.bulk(side.other());
            }
            5 => self.tiny(side),
            6 => {
                self.tiny(side);
                self.tiny(side.other());
            }
            7 => self.mixed(),
            8 => {
                let time = self.milliseconds(4);
                self.at(side, Op::Sleep(time));
            }
            _ => {
                let time = self.milliseconds(15);
                self.at(side.other(), Op::PauseReading(time));
                if self.random.chance(2) {
                    self.bulk(side)
                } else {
                    self.tiny(side)
                }
            }
        }
    }

    /// Half-close by one side, then by the other, with or without bytes after the first end of file.
    fn finish(&mut self) {
        let first = self.any_side();
        let second = first.other();
        self.at(first, Op::ShutdownWrite);
        let total = self.planned[first.index()];
        let late = self.random.chance(2);
        if late {
            self.at(second, Op::AwaitEof(total));
            let length = self.random.spread(1, 256 * KIB);
            self.planned[second.index()] += length;
            self.at(second, Op::Send(length as usize));
        }
        self.at(second, Op::ShutdownWrite);
        self.at(second, Op::AwaitEof(total));
        let total = self.planned[second.index()];
        self.at(first, Op::AwaitEof(total));
        self.ops.push_back(Op::Close);
    }
}

impl Script for Phases {
    fn next(&mut self, _: &Progress) -> Op {
        loop {
            if let Some(op) = self.ops.pop_front() {
                return op;
            }
            if self.left > 0 {
                self.phase()
            } else {
                self.finish()
            }
        }
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
