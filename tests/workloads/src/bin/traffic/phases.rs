//! Owns a long conversation: both directions of a connection change their pattern at random, over and over.

use std::time::Duration;

use workloads::pattern::Random;

use crate::conversation::{Op, Progress, Script, Side};
use crate::plan::{Ending, Plan, any_side};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The longest that an end may sleep, and stop reading.
#[derive(Clone, Copy, Debug)]
pub struct Tempo {
    pub sleep: Duration,
    pub stop: Duration,
}

/// The script of one end: both ends draw the same phases, and each keeps its own operations.
pub struct Phases {
    plan: Plan,
    random: Random,
    /// Most connections never send many small messages in one direction: such a flow may go back to TCP for good, and
    /// then has nothing more to show.
    steady: bool,
    /// Bytes that the connection may still send, in both directions together.
    left: u64,
    tempo: Tempo,
    ending: Ending,
}

impl Phases {
    pub fn new(mut random: Random, side: Side, quota: u64, tempo: Tempo, ending: Ending) -> Self {
        let mut phases = Self {
            plan: Plan::new(side),
            steady: !random.chance(4),
            random,
            left: quota,
            tempo,
            ending,
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
        self.plan.send(from, length);
    }

    fn any_side(&mut self) -> Side {
        any_side(&mut self.random)
    }

    fn time(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.random.range(200, most.as_micros() as u64))
    }

    /// The client sends at once, before the server accepts, or both begin in turn.
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
                self.plan.catch_up(side.other());
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

    /// A run of small sends: a short one followed by an exchange, or one that makes the flow a stream of small messages.
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
                self.plan.catch_up(side.other());
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
                let time = self.time(self.tempo.sleep);
                self.plan.at(side, Op::Sleep(time));
            }
            _ => {
                let time = self.time(self.tempo.stop);
                self.plan.at(side.other(), Op::PauseReading(time));
                if self.random.chance(2) {
                    self.bulk(side)
                } else {
                    self.tiny(side)
                }
            }
        }
    }
}

impl Script for Phases {
    fn next(&mut self, _: &Progress) -> Op {
        loop {
            if let Some(op) = self.plan.next() {
                return op;
            }
            if self.left > 0 {
                self.phase()
            } else {
                let last = self.random.spread(1, 256 * KIB);
                self.plan.end(self.ending, last);
            }
        }
    }
}
