//! The results as printed: medians, ratios to plain TCP in the same round, and verdicts.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::cases::Case;
use super::figures::{Figure, Figures};
use super::host::{During, Host};
use super::place::Processors;
use super::rounds::{Lane, Outcome, Results};
use super::statistics::{Spread, Verdict, noise};

/// Changes when a member changes its name or meaning.
pub const FORMAT: u32 = 1;

#[derive(Debug, Serialize)]
pub struct Report {
    pub format: u32,
    pub version: &'static str,
    pub mode: &'static str,
    pub rounds: u32,
    pub window_ms: u64,
    /// In display order; the accelerator's is last.
    pub columns: [String; 3],
    pub admit: &'static str,
    pub tunables: BTreeMap<String, u32>,
    pub host: Host,
    pub during: During,
    pub processors: Processors,
    /// The processes had a network namespace of their own, without the host's firewall rules.
    pub private_network: bool,
    pub notes: BTreeSet<String>,
    pub rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub case: Case,
    /// The figure that its ratios compare.
    pub figure: Figure,
    /// By how much plain TCP differs from itself, in this figure and in CPU time.
    pub noise: Option<f64>,
    pub cpu_noise: Option<f64>,
    pub columns: BTreeMap<String, Column>,
    /// Plain TCP measured a second time.
    pub control: Column,
}

#[derive(Debug, Default, Serialize)]
pub struct Column {
    pub median: Figures,
    /// To plain TCP in the same round; above 1 is better.
    pub ratio: Option<Spread>,
    pub verdict: Option<Verdict>,
    /// The same for CPU time per operation, or per byte of a stream.
    pub cpu_ratio: Option<Spread>,
    pub cpu_verdict: Option<Verdict>,
    /// The share of the payload that bypassed the loopback interface, if plain TCP used that.
    pub bypassed: Option<f64>,
    /// Less was redirected than the row expects.
    pub not_accelerated: bool,
    pub limited: bool,
    pub failure: Option<String>,
    pub counters: BTreeMap<String, u64>,
    pub rounds: Vec<Figures>,
}

#[derive(Default)]
struct Noise {
    speed: Option<f64>,
    cpu: Option<f64>,
}

impl Row {
    pub fn of(results: Results, names: &[String; 3]) -> Self {
        let workload = results.case.workload;
        let noise_of = |figure| noise(&ratios(&results, Lane::Control, figure));
        let noise = Noise {
            speed: noise_of(Figure::of(workload)),
            cpu: noise_of(Figure::of_cpu(workload)),
        };
        let mut columns = BTreeMap::new();
        for (lane, name) in [Lane::Plain, Lane::Unix, Lane::Accelerated]
            .into_iter()
            .zip(names)
        {
            let outcome = results.lane(lane);
            if !outcome.rounds.is_empty() || outcome.failure.is_some() {
                columns.insert(name.clone(), column(&results, lane, &noise));
            }
        }
        Self {
            figure: Figure::of(workload),
            noise: noise.speed,
            cpu_noise: noise.cpu,
            columns,
            control: column(&results, Lane::Control, &Noise::default()),
            case: results.case,
        }
    }

    pub fn has_failed(&self) -> bool {
        self.columns.values().any(|column| column.failure.is_some())
    }
}

fn column(results: &Results, lane: Lane, noise: &Noise) -> Column {
    let Outcome {
        rounds,
        counters,
        limited,
        failure,
    } = results.lane(lane);
    let workload = results.case.workload;
    let spread = |figure| {
        let ratios = (lane != Lane::Plain).then(|| ratios(results, lane, figure))?;
        Spread::of(&ratios)
    };
    let verdict = |ratio: Option<Spread>, noise: Option<f64>| Some(Verdict::of(&ratio?, noise?));
    let ratio = spread(Figure::of(workload));
    let cpu_ratio = spread(Figure::of_cpu(workload));
    let median = Figures::median(rounds);
    let bypassed = bypassed(results, lane);
    let redirected = median.get(Figure::Redirected).or(bypassed);
    Column {
        median,
        ratio,
        verdict: verdict(ratio, noise.speed),
        cpu_ratio,
        cpu_verdict: verdict(cpu_ratio, noise.cpu),
        bypassed,
        not_accelerated: redirected.is_some_and(|share| share < results.case.least_redirected),
        limited: *limited,
        failure: failure.clone(),
        counters: counters.clone(),
        rounds: rounds.clone(),
    }
}

/// Ratios of a lane to plain TCP, round by round.
fn ratios(results: &Results, lane: Lane, figure: Figure) -> Vec<f64> {
    let pairs = results
        .lane(lane)
        .rounds
        .iter()
        .zip(&results.lane(Lane::Plain).rounds);
    pairs
        .filter_map(|(this, plain)| figure.ratio(this, plain))
        .collect()
}

fn bypassed(results: &Results, lane: Lane) -> Option<f64> {
    if lane != Lane::Accelerated {
        return None;
    }
    let carried = |lane| Figures::median(&results.lane(lane).rounds).get(Figure::LoopbackBytesPerByte);
    let plain = carried(Lane::Plain).filter(|carried| *carried > 0.0)?;
    Some((1.0 - carried(lane)? / plain).max(0.0))
}
