//! Owns the workload `soak`: programs of every kind at once, whose connections do everything that a connection can do.

mod connections;
mod crowd;
pub mod victims;

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Result, ensure};
use workloads::sys::{self, stream};

use crate::conversation::Side;
use crate::monitor::Monitor;
use crate::options::{Common, Family, Mode};
use crate::run::{Parts, Run, Sides, Tally};
use connections::Soak;

/// Connections that are open when time is up may run on for this long, in seconds.
const LAST_ORDERS: u64 = 60;
/// One is not enough: everything it waits for may have arrived before its socket breaks, or it may be reset at once.
const HUNG: u64 = 8;

/// Ends after --seconds (60 by default), SIGTERM or SIGINT, once the connections open at that time have ended.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Run only these parts, to narrow down a fault
    #[arg(long, value_enum)]
    part: Vec<Part>,
    /// Differences from plain TCP to count instead of treating them as faults
    #[arg(long, value_enum)]
    known: Vec<Known>,
    /// Break something, to check that it is noticed
    #[arg(long, value_enum)]
    inject: Option<Inject>,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Event loops on both sides
    Loops,
    /// Blocking threads on both sides
    Threads,
    /// One of each
    Mixed,
    /// Processes killed with their connections open
    Victims,
    /// Several threads sending on one socket
    Crowd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Inject {
    /// Nothing arrives any more on the first connections of each part
    Hang,
    /// Every blocking recv returns EAGAIN if nothing arrives for a while
    Timeout,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Known {
    /// A blocking recv returns EAGAIN
    Eagain,
}

/// What all parts share.
pub struct Control {
    pub common: Common,
    pub seed: u64,
    pub monitor: Arc<Monitor>,
    pub known: Vec<Known>,
    inject: Option<Inject>,
    /// Calls that were repeated.
    again: AtomicU64,
    end: Instant,
}

impl Control {
    pub fn new(common: Common, seed: u64, seconds: u64, known: Vec<Known>, inject: Option<Inject>) -> Self {
        Self {
            seed,
            monitor: Monitor::start(seconds + LAST_ORDERS, common.stall),
            common,
            known,
            inject,
            again: AtomicU64::new(0),
            end: Instant::now() + Duration::from_secs(seconds),
        }
    }

    pub fn is_over(&self) -> bool {
        sys::terminated() || Instant::now() >= self.end
    }

    /// Breaks a socket, if `--inject` demands it.
    pub fn inject(&self, number: u64, stream: &TcpStream) -> io::Result<()> {
        match self.inject {
            Some(Inject::Hang) if number < HUNG => stream::drop_incoming(stream, true),
            Some(Inject::Timeout) => stream.set_read_timeout(Some(Duration::from_millis(1))),
            Some(Inject::Hang) | None => Ok(()),
        }
    }

    /// A blocking recv has returned EAGAIN: true if it may be called again.
    pub fn may_call_again(&self) -> bool {
        self.again.fetch_add(1, Ordering::Relaxed);
        self.known.contains(&Known::Eagain)
    }
}

/// Runs a part with both sides in this process until time is up.
fn both_sides(
    control: &Arc<Control>,
    number: u64,
    name: &str,
    modes: [Mode; 2],
    connections: u64,
) -> Result<Sums> {
    let parts = Parts {
        name: format!("{name} "),
        number,
        modes,
        families: vec![Family::V4, Family::V6, Family::Mapped],
        sides: Sides::Both,
    };
    let soak = Soak::new(control, Side::Server, &Arc::default());
    let monitor = Arc::clone(&control.monitor);
    let run = Run::of(parts, &control.common, connections, Box::new(soak), monitor)?;
    let tally = run.start().finish()?;
    Ok(Sums {
        tally,
        connections: run.opened(),
        killed: 0,
    })
}

/// What a part has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    pub tally: Tally,
    pub connections: u64,
    pub killed: u64,
}

impl Sums {
    pub fn add(&mut self, other: Sums) {
        self.tally.add(other.tally);
        self.connections += other.connections;
        self.killed += other.killed;
    }
}

type Work = Box<dyn FnOnce(&Arc<Control>) -> Result<Sums> + Send>;

/// Most connections belong to event loops, as those are what gets accelerated.
fn parts(connections: u64) -> Vec<(Part, &'static str, Work)> {
    use Mode::{Blocking, Nonblocking};
    let few = (connections / 20).max(1);
    let many = connections.saturating_sub(6 * few).max(1);
    let both = |part, number, name, modes, connections| -> (Part, &'static str, Work) {
        let work = move |control: &_| both_sides(control, number, name, modes, connections);
        (part, name, Box::new(work))
    };
    let crowd = move |control: &_| crowd::work(control, 4, few.div_ceil(4));
    let victims = move |control: &_| victims::work(control, 5, 2 * few);
    vec![
        both(Part::Loops, 0, "loops", [Nonblocking; 2], many),
        both(Part::Threads, 1, "threads", [Blocking; 2], few),
        both(Part::Mixed, 2, "blocking-servers", [Nonblocking, Blocking], few),
        both(Part::Mixed, 3, "blocking-clients", [Blocking, Nonblocking], few),
        (Part::Crowd, "crowd", Box::new(crowd)),
        (Part::Victims, "victims", Box::new(victims)),
    ]
}

pub fn main(mut options: Options) -> Result<()> {
    ensure!(
        options.common.mode == Mode::Nonblocking && options.common.family == Family::V4,
        "`soak` has all modes and families"
    );
    let seed = options.common.settle_seed();
    let seconds = options.common.seconds.unwrap_or(60);
    sys::catch_termination()?;
    let control = Control::new(
        options.common.clone(),
        seed,
        seconds,
        options.known,
        options.inject,
    );
    let control = Arc::new(control);
    println!("running");

    let start = Instant::now();
    let connections = options.common.connections.unwrap_or(300);
    let mut running = Vec::new();
    for (part, name, work) in parts(connections.max(1)) {
        if options.part.is_empty() || options.part.contains(&part) {
            let control = Arc::clone(&control);
            let work = move || {
                work(&control).inspect_err(|error| {
                    // Reported at once, not when the other parts are done.
                    if !control.monitor.failed() {
                        control.monitor.fault(format!("{name}: {error:#}"));
                    }
                })
            };
            running.push((name, thread::spawn(work)));
        }
    }
    let mut sums = Sums::default();
    for (name, work) in running {
        let part = work.join().expect("a part panicked")?;
        println!(
            "{name}_connections={}\n{name}_bytes={}",
            part.connections, part.tally.bytes
        );
        sums.add(part);
    }
    println!(
        "connections={}\npayload_bytes={}",
        sums.connections, sums.tally.bytes
    );
    println!("messages={}\nkilled={}", sums.tally.messages, sums.killed);
    println!("blocking_eagain={}", control.again.load(Ordering::Relaxed));
    println!("microseconds={}", start.elapsed().as_micros());
    Ok(())
}
