//! Owns the placement and the state of threads, for workloads that depend on who comes first.

use std::fs;
use std::hint::spin_loop;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use workloads::sys;

/// The state in /proc of a thread in interruptible sleep.
pub const ASLEEP: char = 'S';
/// The state in uninterruptible sleep, as when waiting for a socket's lock.
pub const LOCKED: char = 'D';

/// Less than the scheduler allows a real-time thread to run without a pause.
const LONGEST: Duration = Duration::from_millis(900);

/// This thread's directory in /proc, for others to look at.
pub fn current() -> Result<PathBuf> {
    let link = fs::read_link("/proc/thread-self").context("failed to read /proc/thread-self")?;
    Ok(Path::new("/proc").join(link))
}

/// Waits until the thread is in that state.
pub fn wait_for(task: &Path, state: char) -> Result<()> {
    loop {
        let stat = fs::read_to_string(task.join("stat")).context("a thread has ended")?;
        let is_in_it = |(_, rest): (&str, &str)| rest.starts_with(state);
        if stat.rsplit_once(") ").is_some_and(is_in_it) {
            return Ok(());
        }
        thread::yield_now();
    }
}

pub fn two_processors() -> Result<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("failed to ask for the processors")?;
    let mut processors = (0..CpuSet::count()).filter(|number| allowed.is_set(*number).unwrap_or(false));
    match (processors.next(), processors.next()) {
        (Some(one), Some(other)) => Ok([one, other]),
        _ => bail!("it takes two processors"),
    }
}

/// Pins this thread to a processor.
pub fn stay_on(processor: usize) -> Result<()> {
    let mut processors = CpuSet::new();
    processors.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &processors)
        .with_context(|| format!("failed to stay on processor {processor}"))
}

/// Keeps every other thread off a processor, for a limited time.
pub fn occupy(processor: usize, begun: &AtomicBool, until: &AtomicBool) -> Result<()> {
    stay_on(processor)?;
    sys::become_urgent().context("failed to become urgent")?;
    begun.store(true, Ordering::SeqCst);
    let begin = Instant::now();
    while !until.load(Ordering::SeqCst) && begin.elapsed() < LONGEST {
        spin_loop();
    }
    Ok(())
}
