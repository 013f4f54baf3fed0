//! Owns the measurements of a row: the places that the ways run in, the rounds in which they take turns, and their figures.

use std::fs;
use std::panic::{self, AssertUnwindSafe};

use super::clients::Sample;
use super::{Program, Row, Way};
use crate::accelerator::{Accelerator, Running};
use crate::stage::Stage;
use crate::statistics::median;

/// Servers of their own in an arena of their own, and what accelerates them. All places are there at the same time, so that
/// the ways can take turns and connections between servers stay what they are.
pub struct Place<'a> {
    // Ended before its servers, as a user does it.
    running: Option<Running>,
    accelerator: &'a Accelerator,
    stage: Stage,
}

impl<'a> Place<'a> {
    pub fn all(program: &Program, accelerators: &'a [Accelerator]) -> Vec<Self> {
        let place = |accelerator: &'a Accelerator| {
            let mut stage = Stage::new(false);
            let running = accelerator.start(stage.arena());
            (program.start)(&mut stage);
            Self {
                running: Some(running),
                accelerator,
                stage,
            }
        };
        accelerators.iter().map(place).collect()
    }

    /// Microseconds that the processes of the place have worked.
    fn cpu_time(&self) -> f64 {
        let path = self.stage.arena().cgroup().join("cpu.stat");
        let text =
            fs::read_to_string(&path).unwrap_or_else(|e| panic!("failed to read {}: {e}", path.display()));
        let time = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
        time.unwrap_or_else(|| panic!("no usage_usec in {}", path.display()))
    }

    fn measure(&self, row: &Row, way: Way, milliseconds: u32) -> Result<Sample, String> {
        let measured = panic::catch_unwind(AssertUnwindSafe(|| {
            let before = self.cpu_time();
            let mut sample = (row.client)(&self.stage, way, milliseconds);
            sample.cpu_us = (self.cpu_time() - before) / sample.requests;
            sample
        }));
        measured.map_err(|_| "a client failed".to_owned())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

/// One way through all rounds.
pub struct Series {
    pub way: &'static str,
    pub samples: Vec<Sample>,
    /// Why there are no more samples.
    pub failure: Option<String>,
}

impl Series {
    pub fn median(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(&self.samples.iter().map(figure).collect::<Vec<_>>())
    }

    /// Rates against those of the same rounds.
    pub fn ratio_to(&self, plain: &Self) -> String {
        let pairs = self.samples.iter().zip(&plain.samples);
        let ratios: Vec<_> = pairs.map(|(this, plain)| this.rate / plain.rate).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        format!("{:.2} ({least:.2} to {most:.2})", median(&ratios))
    }
}

/// All ways, plain TCP first. Each round begins with another one, after one that is not measured.
pub fn row(places: &[Place], row: &Row, rounds: u32, milliseconds: u32) -> Vec<Series> {
    let mut ways: Vec<(&Place, Way, Series)> = Vec::new();
    for place in places {
        let mut add = |way, name| {
            let series = Series {
                way: name,
                samples: Vec::new(),
                failure: None,
            };
            ways.push((place, way, series));
        };
        add(Way::Tcp, place.accelerator.name);
        if row.has_unix && place.accelerator.is_plain() {
            add(Way::Unix, "Unix socket");
        }
    }
    let count = ways.len();
    for round in 0..=rounds as usize {
        for turn in 0..count {
            let (place, way, series) = &mut ways[(round + turn) % count];
            if series.failure.is_some() {
                continue;
            }
            match place.measure(row, *way, milliseconds) {
                Ok(sample) if round > 0 => series.samples.push(sample),
                Ok(_) => {}
                Err(failure) => series.failure = Some(failure),
            }
        }
    }
    ways.into_iter().map(|(_, _, series)| series).collect()
}
