//! How much connections take whose reader has stopped, and what that costs the kernel.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};

use super::ask::say_farewell;
use super::peer::{Arrival, Buffers, Peer};
use super::socket::{Address, Socket};
use super::{ClientReport, Task};

/// The queues are full when nothing was taken for so long.
const FULL: Duration = Duration::from_millis(100);
const STEP: Duration = Duration::from_millis(5);
/// Messages that one connection sends before it is the next one's turn.
const TURN: usize = 64;
/// An accelerator that knows no bound is stopped at so many bytes on each connection, or so much memory of the kernel.
const MOST_TAKEN: u64 = 64 << 20;
const MOST_MEMORY: u64 = 1 << 30;
/// Turns between two looks at the memory.
const LOOK: u32 = 64;

pub fn fill(task: &Task, address: &Address) -> Result<ClientReport> {
    let mut buffers = Buffers::new(task.size);
    let before = kernel_memory()?;
    let mut peers = Vec::new();
    for _ in 0..task.connections {
        let mut peer = Peer::new(Socket::connect(address, task.manner())?, task.size);
        warm_up(task, &mut peer, &mut buffers)?;
        peers.push(peer);
    }
    let begin = Instant::now();
    let limited = send_until_full(&mut peers, &buffers, before)?;
    let memory = kernel_memory()?.saturating_sub(before);
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

/// Round trips, so that the connection is accelerated if it is to be.
fn warm_up(task: &Task, peer: &mut Peer, buffers: &mut Buffers) -> Result<()> {
    for _ in 0..task.warm_up {
        while !(if peer.is_sending() {
            peer.flush(buffers)?
        } else {
            peer.send(buffers)?
        }) {
            thread::yield_now();
        }
        while !matches!(peer.receive(buffers)?, Arrival::Message) {
            thread::yield_now();
        }
    }
    Ok(())
}

/// True if the limits of the benchmark ended it, and not the kernel.
fn send_until_full(peers: &mut [Peer], buffers: &Buffers, before: u64) -> Result<bool> {
    let mut last = Instant::now();
    let mut turns = 0;
    while last.elapsed() < FULL {
        let mut progress = false;
        for peer in &mut *peers {
            let sent = peer.sent;
            for _ in 0..TURN {
                let taken = if peer.is_sending() {
                    peer.flush(buffers)?
                } else {
                    peer.send(buffers)?
                };
                if !taken {
                    break;
                }
            }
            progress |= peer.sent > sent;
        }
        turns += 1;
        if turns % LOOK == 0 && is_beyond_limits(peers, before)? {
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

fn is_beyond_limits(peers: &[Peer], before: u64) -> Result<bool> {
    let most = peers.iter().map(|peer| peer.sent).max().unwrap_or_default();
    Ok(most > MOST_TAKEN || kernel_memory()?.saturating_sub(before) > MOST_MEMORY)
}

/// Bytes that the kernel holds and cannot give up: all memory but what is free, the programs', and caches.
fn kernel_memory() -> Result<u64> {
    // The counters of the processors are summed up when somebody reads this, else once a second.
    let _ = fs::read("/proc/sys/vm/stat_refresh");
    let text = fs::read_to_string("/proc/meminfo").context("failed to read /proc/meminfo")?;
    let kilobytes = |name: &str| -> Result<u64> {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
            .with_context(|| format!("no {name} in /proc/meminfo"))
    };
    const OTHERS: [&str; 7] = [
        "MemFree",
        "Buffers",
        "Cached",
        "SwapCached",
        "AnonPages",
        "KReclaimable",
        "PageTables",
    ];
    let mut left = kilobytes("MemTotal")?;
    for name in OTHERS {
        left = left.saturating_sub(kilobytes(name)?);
    }
    Ok((left << 10).saturating_sub(pages_at_hand()?))
}

/// Free pages that the processors keep at hand, in bytes: those of MemFree are without them.
fn pages_at_hand() -> Result<u64> {
    let text = fs::read_to_string("/proc/zoneinfo").context("failed to read /proc/zoneinfo")?;
    let counts = text.lines().filter_map(|line| line.trim().strip_prefix("count:"));
    let pages: u64 = counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum();
    Ok(pages * page_size()?)
}

fn page_size() -> Result<u64> {
    let size = sysconf(SysconfVar::PAGE_SIZE)?.context("the kernel tells no size of a page")?;
    Ok(size as u64)
}
