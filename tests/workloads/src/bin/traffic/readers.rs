//! Owns the workload `readers`: event-loop programs that rely on one edge, one short read or FIONREAD, and so hang
//! if the kernel misleads them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use workloads::pattern::Random;
use workloads::sys;

use crate::conversation::{Op, Progress, Reading, Script, Side, Workload};
use crate::options::{Common, Mode};
use crate::plan::Plan;
use crate::run::Run;

const KIB: u64 = 1 << 10;
/// A connection begins with this many plain calls.
const EARLY: u64 = 4;

/// Ends after --seconds (60 by default) or at SIGTERM.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Connections to close and reopen per second
    #[arg(long, default_value_t = 5)]
    churn: u64,
    /// Only readers of this kind
    #[arg(long, value_enum)]
    only: Option<Style>,
    /// FIONREAD readers also ask before their first read
    #[arg(long)]
    fionread_at_once: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Style {
    /// Edge-triggered, until a short read
    Edge,
    /// Edge-triggered, as FIONREAD reports
    Fionread,
    /// Level-triggered
    Level,
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The client closes between two exchanges.
    Close,
    /// The client ends its direction, the server sends some more and closes.
    HalfClose,
    /// The client closes right after a last message.
    CloseAfterSend,
    /// The client sends one more request, and the server closes right after the answer.
    AnswerAndClose,
}

/// What the ends of all connections know besides what they read.
struct Control {
    seed: u64,
    start: Instant,
    end: Instant,
    churn: u64,
    replaced: AtomicU64,
    /// How the client has begun to end a connection; set before the server can see it.
    endings: Mutex<HashMap<u64, Ending>>,
}

impl Control {
    fn over(&self) -> bool {
        sys::terminated() || Instant::now() >= self.end
    }

    /// True if it is this connection's turn to be replaced.
    fn replace(&self) -> bool {
        let due = self.churn * self.start.elapsed().as_millis() as u64 / 1000;
        let take = |replaced| (replaced < due).then_some(replaced + 1);
        self.replaced
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    fn endings(&self) -> MutexGuard<'_, HashMap<u64, Ending>> {
        self.endings
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

struct Readers {
    connections: u64,
    only: Option<Style>,
    fionread_at_once: bool,
    control: Arc<Control>,
}

impl Workload for Readers {
    fn more(&self, opened: u64) -> bool {
        opened < self.connections || !self.control.over()
    }

    fn script(&self, connection: u64, side: Side) -> Box<dyn Script> {
        let mut random = Random::of(self.control.seed, connection, 0);
        Box::new(Talk {
            control: Arc::clone(&self.control),
            connection,
            steady: !random.chance(4),
            exchanges: 0,
            random,
            choices: Random::of(self.control.seed, connection, 3),
            plan: Plan::new(side),
            asked: false,
        })
    }

    fn reading(&self, connection: u64, side: Side) -> Reading {
        let mut random = Random::of(self.control.seed, connection, 1 + side.index() as u64);
        let style = self.only.unwrap_or(match connection % 4 {
            0 | 1 => Style::Edge,
            2 => Style::Fionread,
            _ => Style::Level,
        });
        match style {
            Style::Edge => Reading::Edge {
                buffer: random.spread(KIB, 128 * KIB) as usize,
            },
            Style::Fionread => Reading::Fionread {
                at_once: self.fionread_at_once,
            },
            Style::Level => Reading::Level {
                buffer: random.spread(256, 16 * KIB) as usize,
            },
        }
    }
}

/// The script of one end: both ends draw the same exchanges, each of one or more requests and their answers.
struct Talk {
    control: Arc<Control>,
    connection: u64,
    /// The choices that both ends share.
    random: Random,
    /// The choices of this end alone.
    choices: Random,
    plan: Plan,
    /// Most connections never send many small messages in one direction: such a flow may go back to TCP for good, and
    /// then has nothing more to show.
    steady: bool,
    exchanges: u64,
    /// The server waits for the first byte of an exchange.
    asked: bool,
}

impl Talk {
    /// One message, sometimes in two sends: a header and a body.
    fn send(&mut self, from: Side, length: u64) {
        let header = if length > 1 && self.random.chance(4) {
            self.random.range(1, length.min(64) - 1)
        } else {
            0
        };
        for part in [header, length - header] {
            if part > 0 {
                self.plan.send(from, part);
            }
        }
    }

    fn exchange(&mut self) {
        let kind = if self.exchanges < EARLY {
            0
        } else {
            self.random.range(0, 5)
        };
        self.exchanges += 1;
        match kind {
            0..=3 => {
                let most = self.random.spread(1, 256 * KIB);
                let (request, answer) = (self.random.range(1, most), self.random.range(1, most));
                self.call(request, answer);
            }
            4 | 5 => self.pipeline(),
            6 | 7 => self.flips(),
            8 => self.burst(Side::Client),
            _ => {
                let request = self.random.range(1, 512);
                self.send(Side::Client, request);
                self.plan.catch_up(Side::Server);
                self.burst(Side::Server);
            }
        }
        // The answer that ends an exchange shows the client that the server has read everything.
        let answer = self.random.spread(1, 4 * KIB);
        self.plan.catch_up(Side::Server);
        self.send(Side::Server, answer);
        self.plan.catch_up(Side::Client);
    }

    fn call(&mut self, request: u64, answer: u64) {
        self.send(Side::Client, request);
        self.plan.catch_up(Side::Server);
        self.send(Side::Server, answer);
        self.plan.catch_up(Side::Client);
    }

    fn pipeline(&mut self) {
        for _ in 0..self.random.range(2, 16) {
            let (request, answer) = (self.random.spread(1, 16 * KIB), self.random.spread(1, 64 * KIB));
            self.send(Side::Client, request);
            self.plan.catch_up(Side::Server);
            self.send(Side::Server, answer);
        }
        self.plan.catch_up(Side::Client);
    }

    fn flips(&mut self) {
        for _ in 0..self.random.range(2, 8) {
            let (small, big) = (self.random.range(1, 100), self.random.range(32 * KIB, 256 * KIB));
            let request = self.random.range(1, 200);
            self.call(request, small);
            self.call(request, big);
        }
    }

    /// More than the receive queue holds, to a reader that may be late; or many small messages.
    fn burst(&mut self, from: Side) {
        if self.random.chance(2) {
            let pause = Duration::from_micros(self.random.range(100, 10_000));
            self.plan.at(from.other(), Op::PauseReading(pause));
        }
        let (least, most) = match self.random.range(0, 3) {
            0 => (1, 4 * KIB),
            1 => (1, 256 * KIB),
            _ => (32 * KIB, 256 * KIB),
        };
        let mut left = self.random.spread(64 * KIB, 3072 * KIB);
        let longest = if self.steady { 32 } else { 512 };
        let mut sends = 0;
        while left > 0 && sends < longest {
            let length = self.random.range(least, most).min(left);
            self.send(from, length);
            left -= length;
            sends += 1;
        }
    }

    fn client_next(&mut self) {
        let over = self.control.over();
        if over || self.control.replace() {
            let ending = match self.choices.range(0, 3) {
                0 => Ending::Close,
                1 => Ending::HalfClose,
                2 => Ending::CloseAfterSend,
                _ => Ending::AnswerAndClose,
            };
            self.control.endings().insert(self.connection, ending);
            return self.end(ending);
        }
        if self.choices.chance(3) {
            let thought = Duration::from_micros(self.choices.spread(50, 20_000));
            self.plan.at(Side::Client, Op::Sleep(thought));
        }
        self.exchange();
    }

    fn server_next(&mut self, progress: &Progress) {
        if !self.asked {
            self.asked = true;
            let first = self.plan.total(Side::Client) + 1;
            return self.plan.at(Side::Server, Op::AwaitOrEof(first));
        }
        self.asked = false;
        let ending = self.control.endings().remove(&self.connection);
        match ending {
            Some(ending) => self.end(ending),
            None if progress.eof => {
                let text = format!("end of file at {}, nobody closed", progress.received);
                self.plan.at(Side::Server, Op::Fault(text));
            }
            None => self.exchange(),
        }
    }

    fn end(&mut self, ending: Ending) {
        let length = self.random.spread(1, 256 * KIB);
        let (client, server) = (Side::Client, Side::Server);
        match ending {
            Ending::Close => self.plan.close(client),
            Ending::HalfClose => {
                self.plan.at(client, Op::ShutdownWrite);
                self.plan.await_eof(server);
                self.send(server, length);
                self.plan.close(server);
            }
            Ending::CloseAfterSend => {
                self.send(client, length);
                self.plan.close(client);
            }
            Ending::AnswerAndClose => {
                self.send(client, length);
                self.plan.catch_up(server);
                let answer = self.random.spread(1, 256 * KIB);
                self.send(server, answer);
                self.plan.close(server);
            }
        }
    }
}

impl Script for Talk {
    fn next(&mut self, progress: &Progress) -> Op {
        loop {
            if let Some(op) = self.plan.next() {
                return op;
            }
            match self.plan.this() {
                Side::Client => self.client_next(),
                Side::Server => self.server_next(progress),
            }
        }
    }
}

pub fn main(mut options: Options) -> Result<()> {
    if options.common.mode == Mode::Blocking {
        bail!("`readers` is about event loops: it has no blocking mode");
    }
    let seed = options.common.settle_seed();
    let seconds = *options.common.seconds.get_or_insert(60);
    sys::catch_termination()?;
    let start = Instant::now();
    let control = Arc::new(Control {
        seed,
        start,
        end: start + Duration::from_secs(seconds),
        churn: options.churn,
        replaced: AtomicU64::new(0),
        endings: Mutex::default(),
    });
    let connections = options.common.connections.unwrap_or(200);
    let fionread_at_once = options.fionread_at_once;
    let readers = Readers {
        connections,
        only: options.only,
        fionread_at_once,
        control,
    };
    let run = Run::new(&options.common, connections, Box::new(readers))?;
    let running = run.start();
    println!("running");
    let tally = running.finish()?;
    println!("connections={}\npayload_bytes={}", run.opened(), tally.bytes);
    println!(
        "messages={}\nmicroseconds={}",
        tally.messages,
        start.elapsed().as_micros()
    );
    // A stall is a fault, so a run that gets here had none.
    println!("stalls=0");
    Ok(())
}
