//! The measurements of a process: time, CPU time, and the latency of each operation.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use super::Latency;
use crate::statistics::quantile;

/// Measures from its creation on.
pub struct Meter {
    pub begin: Instant,
    cpu: f64,
}

impl Meter {
    pub fn start() -> Self {
        Self {
            begin: Instant::now(),
            cpu: cpu_seconds(),
        }
    }

    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds() - self.cpu
    }
}

/// User and system time of this process, in seconds.
fn cpu_seconds() -> f64 {
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    // It fails only on invalid arguments.
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        seconds(usage.user_time()) + seconds(usage.system_time())
    })
}

/// The operations after the warm-up.
pub struct Window {
    meter: Meter,
    length: Duration,
    /// The end of the last operation in it.
    last: Instant,
    /// Latencies, in nanoseconds.
    took: Vec<f64>,
    /// The CPU time when it closed.
    cpu_seconds: Option<f64>,
}

impl Window {
    pub fn open(length: Duration) -> Self {
        let meter = Meter::start();
        Self {
            length,
            last: meter.begin,
            took: Vec::new(),
            cpu_seconds: None,
            meter,
        }
    }

    /// Adds an operation by its start and end. False if the window is closed; then it does not count.
    pub fn operation(&mut self, begin: Instant, end: Instant) -> bool {
        if self.is_over(end) {
            self.cpu_seconds.get_or_insert_with(|| self.meter.cpu_seconds());
            return false;
        }
        self.took.push((end - begin).as_nanos() as f64);
        self.last = end;
        true
    }

    /// A window holds at least one operation.
    fn is_over(&self, now: Instant) -> bool {
        !self.took.is_empty() && now - self.meter.begin > self.length
    }

    pub fn operations(&self) -> u64 {
        self.took.len() as u64
    }

    /// From its start to the end of the last operation in it.
    pub fn seconds(&self) -> f64 {
        (self.last - self.meter.begin).as_secs_f64()
    }

    pub fn cpu_seconds(&self) -> f64 {
        self.cpu_seconds.unwrap_or_default()
    }

    pub fn latency(&self) -> Option<Latency> {
        let mut took = self.took.clone();
        took.sort_by(f64::total_cmp);
        let microseconds = |share| Some(quantile(&took, share)? / 1000.0);
        Some(Latency {
            p50_us: microseconds(0.5)?,
            p99_us: microseconds(0.99)?,
            p999_us: microseconds(0.999)?,
        })
    }
}
