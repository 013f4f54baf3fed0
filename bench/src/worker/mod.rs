//! One process of the benchmark: takes its place, does its part of a row, and reports it in one line of JSON.

mod ask;
mod meter;
mod pattern;
mod peer;
mod serve;
mod socket;
mod stopped;
mod stream;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, alarm};
use serde::{Deserialize, Serialize};

use super::cases::{Programs, Workload};
use meter::Window;
use socket::{Listener, Manner};

pub use socket::Address;

/// Seconds beyond its window after which a process counts as hung, and the kernel kills it.
const DEADLINE: u32 = 20;

/// The task of a process, and its place. Passed as JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Job {
    pub task: Task,
    pub side: Side,
    pub location: Location,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum Side {
    /// Listens on the address and reports it in one line of JSON.
    Server(Address),
    Client(Address),
}

/// Where a process runs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Location {
    pub cgroup: PathBuf,
    /// A network namespace to enter.
    pub namespace: Option<PathBuf>,
    pub core: usize,
}

/// The same for both sides.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Task {
    pub workload: Workload,
    pub programs: Programs,
    pub size: usize,
    pub connections: usize,
    /// Before the window opens: round trips per connection, or short connections.
    pub warm_up: u64,
    pub window_ms: u64,
}

impl Task {
    fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms)
    }

    /// Small requests are sent at once; streams keep the default.
    fn manner(&self) -> Manner {
        Manner {
            programs: self.programs,
            no_delay: self.workload != Workload::Stream,
        }
    }

    /// The requests before the window, on all connections.
    fn warm_up_messages(&self) -> u64 {
        match self.workload {
            Workload::Short { round_trips } => self.warm_up * u64::from(round_trips),
            _ => self.warm_up * self.connections as u64,
        }
    }

    /// In one direction of one connection.
    fn warm_up_bytes(&self) -> u64 {
        self.warm_up * self.size as u64
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Latency {
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ClientReport {
    /// Of the window, like all members down to the CPU time.
    pub seconds: f64,
    pub operations: u64,
    /// Payload in both directions.
    pub bytes: u64,
    pub latency: Option<Latency>,
    pub cpu_seconds: f64,
    /// Payload of the whole run, in both directions.
    pub payload: u64,
    /// Bytes on the loopback interface meanwhile, including headers.
    pub loopback_bytes: u64,
    /// Per connection with a stopped reader.
    pub accepted_bytes: Option<f64>,
    pub kernel_bytes: Option<f64>,
    /// The benchmark stopped the filling rather than the kernel.
    pub limited: bool,
}

impl ClientReport {
    fn of(window: Option<Window>, bytes_each: u64, payload: u64) -> Result<Self> {
        let window = window.context("nothing was measured")?;
        Ok(Self {
            seconds: window.seconds(),
            operations: window.operations(),
            bytes: window.operations() * bytes_each,
            latency: window.latency(),
            cpu_seconds: window.cpu_seconds(),
            payload,
            ..Self::default()
        })
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ServerReport {
    /// Messages after the warm-up, and the CPU time since.
    pub messages: u64,
    pub cpu_seconds: f64,
}

impl FromStr for Job {
    type Err = String;

    fn from_str(json: &str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }
}

pub fn work(job: &Job) -> Result<()> {
    settle(job)?;
    let task = &job.task;
    match &job.side {
        Side::Server(address) => {
            let listener = Listener::bind(address, task.manner()).context("failed to listen")?;
            say(&listener.address(address)?)?;
            say(&match task.workload {
                Workload::Stream => stream::receive(task, &listener)?,
                _ => serve::serve(task, &listener)?,
            })
        }
        Side::Client(address) => {
            let before = loopback_bytes();
            let mut report = match task.workload {
                Workload::RequestResponse => ask::ask(task, address)?,
                Workload::Short { round_trips } => ask::ask_shortly(task, address, round_trips)?,
                Workload::Stream => stream::send(task, address)?,
                Workload::Stopped => stopped::fill(task, address)?,
            };
            report.loopback_bytes = loopback_bytes() - before;
            say(&report)
        }
    }
}

/// Takes the process's place before it has a socket. It is killed if its parent exits or it hangs.
fn settle(job: &Job) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    alarm::set(DEADLINE + (job.task.window_ms / 1000) as u32);
    let Location {
        cgroup,
        namespace,
        core,
    } = &job.location;
    let procs = cgroup.join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("failed to enter the cgroup {}", cgroup.display()))?;
    if let Some(namespace) = namespace {
        File::open(namespace)
            .and_then(|file| Ok(setns(file, CloneFlags::CLONE_NEWNET)?))
            .context("failed to enter the network namespace")?;
    }
    let mut cores = CpuSet::new();
    cores.set(*core)?;
    sched_setaffinity(Pid::from_raw(0), &cores).with_context(|| format!("failed to stay on processor {core}"))
}

/// One line, flushed at once.
fn say(what: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(what)?;
    line.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    Ok(out.flush()?)
}

/// Bytes received on the loopback interface of this network namespace.
fn loopback_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("lo:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
