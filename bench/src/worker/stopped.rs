//! How much a connection accepts while its reader is stopped, and what that costs the kernel.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};

use super::ask::say_farewell;
use super::peer::{Arrival, Buffers, Peer};
use super::socket::{Address, Socket};
use super::{ClientReport, Task};

/// The queues are full if nothing was taken for this long.
const FULL: Duration = Duration::from_millis(100);
const STEP: Duration = Duration::from_millis(5);
/// Messages that one connection sends before the next one's turn.
const TURN: usize = 64;
/// Limits for an accelerator without a bound: bytes per connection, and kernel memory.
const MOST_TAKEN: u64 = 64 << 20;
const MOST_MEMORY: u64 = 1 << 30;
/// Turns between two checks of the memory.
const LOOK: u32 = 64;

pub fn fill(task: &Task, address: &Address) -> Result<ClientReport> {
    let mut buffers = Buffers::new(task.size);
    let before = Memory::now()?;
    let mut peers = Vec::new();
    for _ in 0..task.connections {
        let mut peer = Peer::new(Socket::connect(address, task.manner())?, task.size);
        warm_up(task, &mut peer, &mut buffers)?;
        peers.push(peer);
    }
    let begin = Instant::now();
    let limited = send_until_full(&mut peers, &buffers)?;
    let memory = Memory::now()?.kernel.saturating_sub(before.kernel);
    let taken: u64 = peers.iter().map(|peer| peer.sent - task.warm_up_bytes()).sum();
    say_farewell(task, address)?;
    let each = |total: u64| total as f64 / peers.len() as f64;
    Ok(ClientReport {
        seconds: begin.elapsed().as_secs_f64(),
        payload: peers.iter().map(|peer| peer.sent + peer.received).sum(),
        accepted_bytes: Some(each(taken)),
        kernel_bytes: Some(each(memory)),
        limited,
        ..ClientReport::default()
    })
}

/// Round trips, so that the connection is accelerated if it will be.
fn warm_up(task: &Task, peer: &mut Peer, buffers: &mut Buffers) -> Result<()> {
    for _ in 0..task.warm_up {
        while !peer.send_on(buffers)? {
            thread::yield_now();
        }
        while !matches!(peer.receive(buffers)?, Arrival::Message) {
            thread::yield_now();
        }
    }
    Ok(())
}

/// True if a limit of the benchmark stopped it rather than the kernel.
fn send_until_full(peers: &mut [Peer], buffers: &Buffers) -> Result<bool> {
    let slab = Memory::now()?.slab;
    let mut last = Instant::now();
    let mut turns = 0;
    while last.elapsed() < FULL {
        let mut progress = false;
        for peer in &mut *peers {
            let sent = peer.sent;
            send_until_refused(peer, buffers)?;
            progress |= peer.sent > sent;
        }
        turns += 1;
        let is_far = peers.iter().any(|peer| peer.sent > MOST_TAKEN);
        if is_far || turns % LOOK == 0 && Memory::now()?.slab.saturating_sub(slab) > MOST_MEMORY {
            return Ok(true);
        }
        if progress {
            last = Instant::now();
        } else {
            thread::sleep(STEP);
        }
    }
    Ok(false)
}

/// At most one turn of a connection.
fn send_until_refused(peer: &mut Peer, buffers: &Buffers) -> Result<()> {
    for _ in 0..TURN {
        if !peer.send_on(buffers)? {
            break;
        }
    }
    Ok(())
}

/// Kernel memory that cannot be reclaimed, in bytes.
struct Memory {
    /// All memory of the machine except free memory, the programs' memory and caches.
    kernel: u64,
    /// The part of it in small objects (slab).
    slab: u64,
}

impl Memory {
    fn now() -> Result<Self> {
        const OTHERS: [&str; 7] = [
            "MemFree",
            "Buffers",
            "Cached",
            "SwapCached",
            "AnonPages",
            "KReclaimable",
            "PageTables",
        ];
        // Reading this file sums up the per-CPU counters, which otherwise happens once a second.
        let _ = fs::read("/proc/sys/vm/stat_refresh");
        let text = fs::read_to_string("/proc/meminfo").context("failed to read /proc/meminfo")?;
        let bytes = |name: &str| -> Result<u64> {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
            Ok(kilobytes.with_context(|| format!("no {name} in /proc/meminfo"))? << 10)
        };
        let mut kernel = bytes("MemTotal")?.saturating_sub(pages_at_hand()?);
        for name in OTHERS {
            kernel = kernel.saturating_sub(bytes(name)?);
        }
        Ok(Self {
            kernel,
            slab: bytes("SUnreclaim")?,
        })
    }
}

/// Free pages on the per-CPU lists, in bytes: MemFree does not include them.
fn pages_at_hand() -> Result<u64> {
    let text = fs::read_to_string("/proc/zoneinfo").context("failed to read /proc/zoneinfo")?;
    let counts = text.lines().filter_map(|line| line.trim().strip_prefix("count:"));
    let pages: u64 = counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum();
    let size = sysconf(SysconfVar::PAGE_SIZE)?.context("the kernel tells no size of a page")?;
    Ok(pages * size as u64)
}
