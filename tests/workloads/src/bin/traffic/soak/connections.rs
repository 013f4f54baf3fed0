//! Owns what the connections of the soak do: everything is drawn from the seed and the connection's id, so that two
//! processes draw the same.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use workloads::pattern::Random;
use workloads::sys::stream;

use crate::churn;
use crate::conversation::{Change, Op, Progress, Reading, Script, Side, Workload};
use crate::phases::{Phases, Tempo};
use crate::plan::{Ending, any_side};
use crate::run::number_of;
use crate::soak::Control;

const KIB: u64 = 1 << 10;
/// How many of sixteen connections to each listener are short: services of either kind, and mixtures.
const SHORT: [u64; 6] = [0, 2, 4, 8, 12, 15];
/// The only listener whose connections may turn blocking: a tool may remember that and exclude all of them.
const TURNS_BLOCKING: usize = 1;
const MOST_READS: u64 = 1000;
const LARGEST: u64 = 16 << 20;
const LARGEST_SLOW: u64 = 2 << 20;
const BRISK: Tempo = Tempo {
    sleep: Duration::from_millis(4),
    stop: Duration::from_millis(15),
};
const SLOW: Tempo = Tempo {
    sleep: Duration::from_secs(2),
    stop: Duration::from_secs(3),
};
/// The connections of one part.
pub struct Soak {
    control: Arc<Control>,
    /// The side broken by `--inject`.
    broken: Side,
    /// Nothing more is to be opened, although time is not up.
    closing: Arc<AtomicBool>,
}

impl Soak {
    pub fn new(control: &Arc<Control>, broken: Side, closing: &Arc<AtomicBool>) -> Self {
        Self {
            control: Arc::clone(control),
            broken,
            closing: Arc::clone(closing),
        }
    }

    fn random(&self, connection: u64, part: u64) -> Random {
        Random::of(self.control.seed, connection, part)
    }

    fn plan(&self, connection: u64) -> Plan {
        let mut random = self.random(connection, 0);
        let is_short = random.range(0, 15) < SHORT[number_of(connection) as usize % SHORT.len()];
        let ending = if random.chance(4) {
            Ending::HalfCloses {
                first: any_side(&mut random),
                late: random.chance(2),
            }
        } else {
            Ending::draw(&mut random)
        };
        let is_slow = random.chance(8);
        let most = if is_slow { LARGEST_SLOW } else { LARGEST };
        let quota = random.spread(4 * KIB, most);
        Plan {
            is_short,
            ending,
            tempo: if is_slow { SLOW } else { BRISK },
            quota,
            random,
        }
    }
}

/// What both ends of a connection know in advance.
struct Plan {
    is_short: bool,
    ending: Ending,
    tempo: Tempo,
    quota: u64,
    random: Random,
}

impl Plan {
    /// Roughly the most bytes that a side receives.
    fn most(self, side: Side) -> u64 {
        if self.is_short {
            churn::short(self.ending, self.random, side).total(side.other())
        } else {
            self.quota
        }
    }
}

impl Workload for Soak {
    fn more(&self, _: u64) -> bool {
        !self.closing.load(Ordering::SeqCst) && !self.control.is_over()
    }

    fn script(&self, connection: u64, side: Side) -> Box<dyn Script> {
        let plan = self.plan(connection);
        if plan.is_short {
            return Box::new(churn::short(plan.ending, plan.random, side));
        }
        let phases = Phases::new(plan.random, side, plan.quota, plan.tempo, plan.ending);
        let mut random = self.random(connection, 1 + side.index() as u64);
        if !random.chance(12) {
            return Box::new(phases);
        }
        let change = if number_of(connection) as usize % SHORT.len() == TURNS_BLOCKING {
            Change::Blocking
        } else if random.chance(2) {
            Change::ZeroCopy
        } else {
            Change::PeekOffset
        };
        let after = random.spread(1, 1000);
        Box::new(Changing {
            phases,
            after,
            change,
        })
    }

    fn reading(&self, connection: u64, side: Side) -> Reading {
        let mut random = self.random(connection, 3 + side.index() as u64);
        let buffer = match random.range(0, 7) {
            0 => random.spread(1, 64),
            1 => random.spread(64, 8 * KIB),
            _ => random.spread(8 * KIB, 512 * KIB),
        };
        // A turn in a busy loop takes time, and an end that still reads minutes after its peer has closed gets reset.
        let buffer = buffer.max(self.plan(connection).most(side) / MOST_READS) as usize;
        match random.range(0, 3) {
            0 => Reading::Drain { buffer },
            1 => Reading::Edge { buffer },
            2 => Reading::Fionread { at_once: false },
            _ => Reading::Level { buffer },
        }
    }

    fn may_reset(&self, connection: u64) -> bool {
        self.plan(connection).ending.is_reset()
    }

    /// Half of the sockets disable Nagle's algorithm, some have small buffers.
    fn tune(&self, connection: u64, side: Side, stream: &TcpStream) -> io::Result<()> {
        let mut random = self.random(connection, 5 + side.index() as u64);
        stream.set_nodelay(random.chance(2))?;
        let mut size = |least| random.chance(6).then(|| random.spread(least, 256 * KIB) as i32);
        let (receive, send) = (size(16 * KIB), size(4 * KIB));
        // With a receive buffer below a segment, 64 KiB on loopback, TCP advances by its timers only.
        let receive = receive.filter(|_| self.plan(connection).quota < 256 * KIB);
        stream::set_buffers(stream, receive, send)?;
        if side == self.broken {
            self.control.inject(number_of(connection), stream)?;
        }
        Ok(())
    }

    fn accept_delay(&self, random: &mut Random) -> Option<Duration> {
        random
            .chance(16)
            .then(|| Duration::from_micros(random.spread(100, 300_000)))
    }

    fn duplex(&self, connection: u64) -> bool {
        !self.plan(connection).is_short
    }

    fn may_call_again(&self) -> bool {
        self.control.may_call_again()
    }

    fn listeners(&self) -> usize {
        SHORT.len()
    }
}

/// A script that changes the socket after this many operations.
struct Changing {
    phases: Phases,
    after: u64,
    change: Change,
}

impl Script for Changing {
    fn next(&mut self, progress: &Progress) -> Op {
        self.after = self.after.wrapping_sub(1);
        if self.after == 0 {
            return Op::Change(self.change);
        }
        self.phases.next(progress)
    }
}
