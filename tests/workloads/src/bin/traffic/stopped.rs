//! Owns the workload `stopped`: how much a connection takes after its reader has stopped, what it costs the kernel,
//! and whether all of it arrives once the reader continues.

use std::fs;
use std::io::{BufRead, stdin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::direct::{End, Pair, connect};
use crate::monitor::Monitor;
use crate::options::{Common, Mode};
use crate::order::parse_bytes;

const ECHOES: usize = 64;
const ECHO_SIZE: usize = 512;
/// The queues count as full when nothing has been taken for this long.
const FULL: Duration = Duration::from_millis(500);
const BUFFER: usize = 1 << 20;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Bytes per message
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=BUFFER as u64))]
    size: u64,
    /// What each connection does before its reader stops
    #[arg(long, value_enum, default_value = "rr")]
    warmup: WarmUp,
    /// Maximum bytes to send on each connection, with K, M or G
    #[arg(long, default_value = "64M", value_parser = parse_bytes)]
    limit: u64,
    /// Lines of standard input to wait for before the readers continue; `stopped` is printed when the wait begins
    #[arg(long, default_value_t = 0)]
    pause: usize,
    /// Both ends send in turn and neither reads (not with --mode blocking)
    #[arg(long)]
    mutual: bool,
    /// SO_SNDBUF of the readers, in bytes
    #[arg(long)]
    send_buffer: Option<i32>,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum WarmUp {
    /// 32 requests and answers of 64 bytes
    Rr,
    /// 64 messages of 64 KiB
    Bulk,
    None,
}

fn warm_up(pair: &mut Pair, how: WarmUp, buffer: &mut [u8]) -> Result<()> {
    match how {
        WarmUp::Rr => pair.echo(32, 64, buffer)?,
        WarmUp::Bulk => {
            for _ in 0..64 {
                pair.client.send_all(64 << 10, buffer)?;
                pair.server.receive_until(pair.client.sent, buffer)?;
            }
        }
        WarmUp::None => {}
    }
    Ok(())
}

/// The kernel memory of all sockets together.
struct Memory {
    slab: u64,
    tcp_pages: u64,
}

impl Memory {
    fn now() -> Result<Self> {
        // Per-CPU counters are summed up when this file is read, otherwise once a second.
        fs::read("/proc/sys/vm/stat_refresh").context("failed to read /proc/sys/vm/stat_refresh")?;
        let number = |path: &str, line: &str, name: &str| -> Result<u64> {
            let text = fs::read_to_string(path).with_context(|| format!("failed to read {path}"))?;
            let line = text.lines().find(|text| text.starts_with(line));
            let mut words = line
                .unwrap_or_default()
                .split_whitespace()
                .skip_while(|word| *word != name)
                .skip(1);
            words
                .next()
                .and_then(|word| word.parse().ok())
                .with_context(|| format!("no {name} in {path}"))
        };
        Ok(Self {
            slab: number("/proc/meminfo", "SUnreclaim:", "SUnreclaim:")? * 1024,
            tcp_pages: number("/proc/net/sockstat", "TCP:", "mem")?,
        })
    }
}

/// What each connection took while nobody read.
struct Taken {
    bytes: Vec<u64>,
    messages: Vec<u64>,
    limited: bool,
}

/// Sends in turn on all connections until none takes any more.
fn fill(pairs: &mut [Pair], options: &Options, buffer: &mut [u8]) -> Result<Taken> {
    const TURN: usize = 64;
    let size = options.size as usize;
    let mut taken = Taken {
        bytes: vec![0; pairs.len()],
        messages: vec![0; pairs.len()],
        limited: false,
    };
    let mut last = Instant::now();
    while last.elapsed() < FULL {
        let mut progress = false;
        for (number, pair) in pairs.iter_mut().enumerate() {
            for _ in 0..TURN {
                if taken.bytes[number] >= options.limit {
                    taken.limited = true;
                    break;
                }
                let Some(count) = pair.client.send(&mut buffer[..size])? else {
                    break;
                };
                taken.bytes[number] += count as u64;
                taken.messages[number] += 1;
                progress = true;
                if options.mutual {
                    pair.server.send(&mut buffer[..size])?;
                }
            }
        }
        if progress {
            last = Instant::now();
        } else {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(taken)
}

/// A blocking sender thread for each connection; the flag lets them finish.
struct Senders {
    stop: AtomicBool,
    bytes: Vec<AtomicU64>,
    messages: Vec<AtomicU64>,
    /// The length of each stream, known before its last byte is sent.
    ends: Vec<AtomicU64>,
}

impl Senders {
    fn new(connections: usize) -> Self {
        let zeros = || (0..connections).map(|_| AtomicU64::new(0)).collect();
        Self {
            stop: AtomicBool::new(false),
            bytes: zeros(),
            messages: zeros(),
            ends: zeros(),
        }
    }

    fn send(&self, number: usize, client: &mut End, options: &Options) -> Result<()> {
        let mut buffer = vec![0; options.size as usize];
        while !self.stop.load(SeqCst) {
            if self.bytes[number].load(SeqCst) >= options.limit {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            let count = client
                .send(&mut buffer)?
                .context("a blocking send returned EAGAIN")?;
            self.bytes[number].fetch_add(count as u64, SeqCst);
            self.messages[number].fetch_add(1, SeqCst);
        }
        self.ends[number].store(client.sent + 1, SeqCst);
        client.send_all(1, &mut buffer)
    }

    fn wait_until_full(&self, options: &Options, monitor: &Monitor) -> Taken {
        let load = |values: &[AtomicU64]| values.iter().map(|value| value.load(SeqCst)).collect::<Vec<_>>();
        let (mut last, mut seen) = (Instant::now(), Vec::new());
        while last.elapsed() < FULL && !monitor.failed() {
            thread::sleep(Duration::from_millis(10));
            let bytes = load(&self.bytes);
            if bytes != seen {
                (last, seen) = (Instant::now(), bytes);
            }
        }
        let limited = seen.iter().any(|bytes| *bytes >= options.limit);
        Taken {
            bytes: seen,
            messages: load(&self.messages),
            limited,
        }
    }

    fn receive(&self, number: usize, server: &mut End) -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let end = self.ends[number].load(SeqCst);
            if end != 0 && server.received >= end {
                return Ok(());
            }
            ensure!(
                server.receive(&mut buffer)?,
                "{}: a blocking recv returned EAGAIN",
                server.name
            );
        }
    }
}

/// As `fill`, with blocking threads; `full` is called while they block. The result does not include what a send in
/// progress has queued.
fn fill_blocking(
    pairs: &mut [Pair],
    options: &Options,
    monitor: &Monitor,
    full: impl FnOnce() -> Result<()>,
) -> Result<Taken> {
    let senders = Senders::new(pairs.len());
    let judge = |result: Result<()>| result.unwrap_or_else(|error| monitor.fault(format!("{error:#}")));
    thread::scope(|scope| {
        let mut servers = Vec::new();
        for (number, Pair { client, server }) in pairs.iter_mut().enumerate() {
            servers.push(server);
            let (senders, judge) = (&senders, &judge);
            scope.spawn(move || judge(senders.send(number, client, options)));
        }
        let taken = senders.wait_until_full(options, monitor);
        let result = full();
        senders.stop.store(true, SeqCst);
        for (number, server) in servers.into_iter().enumerate() {
            let (senders, judge) = (&senders, &judge);
            scope.spawn(move || judge(senders.receive(number, server)));
        }
        result.map(|()| taken)
    })
}

pub fn main(mut options: Options) -> Result<()> {
    let seed = options.common.settle_seed();
    let connections = options.common.connections.unwrap_or(16);
    ensure!(connections > 0, "no connections");
    let monitor = Monitor::start(options.common.deadline, options.common.stall);
    let mut buffer = vec![0; BUFFER];
    let mut pairs = connect(&options.common, seed, connections)?;
    for pair in &mut pairs {
        if let Some(bytes) = options.send_buffer {
            pair.server.limit_send_buffer(bytes)?;
        }
        warm_up(pair, options.warmup, &mut buffer)?;
    }

    let before = Memory::now()?;
    let on_full = || -> Result<()> {
        let after = Memory::now()?;
        let slab = after.slab.saturating_sub(before.slab) / connections;
        println!("slab_bytes_per_connection={slab}");
        println!("mem_pages={}", after.tcp_pages.saturating_sub(before.tcp_pages));
        println!("stopped");
        // End of file on standard input counts as all of the lines.
        for line in stdin().lock().lines().take(options.pause) {
            line.context("failed to read standard input")?;
        }
        Ok(())
    };
    let taken = match options.common.mode {
        Mode::Nonblocking => {
            let taken = fill(&mut pairs, &options, &mut buffer)?;
            on_full()?;
            for pair in &mut pairs {
                pair.server.receive_until(pair.client.sent, &mut buffer)?;
                pair.client.receive_until(pair.server.sent, &mut buffer)?;
            }
            taken
        }
        Mode::Blocking => fill_blocking(&mut pairs, &options, &monitor, on_full)?,
    };
    println!("accepted_max={}", taken.bytes.iter().max().unwrap_or(&0));
    println!("accepted_mean={}", taken.bytes.iter().sum::<u64>() / connections);
    println!("messages_max={}", taken.messages.iter().max().unwrap_or(&0));
    println!("limited={}", u8::from(taken.limited));

    for pair in &mut pairs {
        pair.echo(ECHOES, ECHO_SIZE, &mut buffer)?;
    }
    ensure!(!monitor.failed(), "faults, see above");
    Ok(())
}
