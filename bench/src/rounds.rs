//! The rounds: each row on every column in turn, in rotating order, so that other activity on the machine affects all
//! columns alike.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use sockredir::model::Counter;

use super::accelerator::Accelerator;
use super::cases::{Case, Cores, Network, Workload};
use super::figures::Figures;
use super::place::{CgroupPair, NamespacePair, Processors};
use super::process::{Locations, measure};
use super::worker::{Address, Location, Task};

/// The ports that the accelerator must leave alone: below the range that the kernel assigns to clients.
pub const EXCLUDED_PORTS: (u16, u16) = (20000, 20999);

/// Everything is cleaned up on the way out.
pub const INTERRUPTED: &str = "interrupted: nothing is left behind";

/// A column, or the second measurement of plain TCP, which shows the noise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lane {
    Plain,
    Unix,
    Accelerated,
    Control,
}

impl Lane {
    pub const ALL: [Self; 4] = [Self::Plain, Self::Unix, Self::Accelerated, Self::Control];

    fn exists_for(self, case: &Case) -> bool {
        self != Self::Unix || case.network == Network::Loopback
    }
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub rounds: u32,
    pub window_ms: u64,
    pub is_quick: bool,
}

impl Extent {
    pub fn new(is_quick: bool, rounds: Option<u32>) -> Self {
        let (usual, window_ms) = if is_quick { (3, 20) } else { (7, 250) };
        Self {
            rounds: rounds.unwrap_or(usual),
            window_ms,
            is_quick,
        }
    }

    /// Operations before the window, until connections are decided on, buffers have grown and caches are warm.
    fn warm_up(self, case: &Case) -> u64 {
        let (least, usual): (u64, u64) = match (case.workload, case.size) {
            (Workload::Stream, _) => return 0,
            (Workload::Stopped, _) => return 16,
            (Workload::Short { .. }, _) => (64, 200),
            (Workload::RequestResponse, ..=1024) => (200, 2000),
            (Workload::RequestResponse, ..=65536) => (64, 200),
            (Workload::RequestResponse, _) => (16, 32),
        };
        let total = if self.is_quick { least } else { usual };
        // Enough for the datapath to decide on a connection.
        (total / case.connections as u64).max(16)
    }

    fn task(self, case: &Case) -> Task {
        let connections = match case.workload {
            Workload::Stopped if self.is_quick => 2,
            Workload::Stopped => 8,
            _ => case.connections,
        };
        Task {
            workload: case.workload,
            programs: case.programs,
            size: case.size,
            connections,
            warm_up: self.warm_up(case),
            window_ms: self.window_ms,
        }
    }
}

pub struct Setup<'setup, 'a> {
    pub cases: Vec<Case>,
    pub extent: Extent,
    pub cgroups: &'setup CgroupPair,
    pub namespaces: Option<&'setup NamespacePair>,
    pub processors: Processors,
    pub accelerator: Accelerator<'a>,
    pub interrupted: &'setup AtomicBool,
}

/// The results of one lane of a row.
#[derive(Debug, Default)]
pub struct Outcome {
    pub rounds: Vec<Figures>,
    /// The datapath's counts over all rounds.
    pub counters: BTreeMap<String, u64>,
    /// The benchmark cut a run short because nothing bounded it.
    pub limited: bool,
    /// Why there are no further rounds.
    pub failure: Option<String>,
}

/// A row with its lanes, in the order of [`Lane::ALL`].
#[derive(Debug)]
pub struct Results {
    pub case: Case,
    pub lanes: [Outcome; Lane::ALL.len()],
}

impl Results {
    pub fn lane(&self, lane: Lane) -> &Outcome {
        &self.lanes[lane as usize]
    }
}

/// Measures everything, with a progress bar on a terminal.
pub fn measure_all(setup: &mut Setup<'_, '_>) -> Result<Vec<Results>> {
    let cases = std::mem::take(&mut setup.cases);
    let mut results: Vec<_> = cases
        .into_iter()
        .map(|case| Results {
            case,
            lanes: Default::default(),
        })
        .collect();
    let bar = ProgressBar::new(u64::from(setup.extent.rounds) * results.len() as u64);
    bar.set_style(ProgressStyle::with_template(
        "{bar:30} {pos}/{len} {msg} ({eta} left)",
    )?);
    let mut number = 0;
    for round in 0..setup.extent.rounds {
        for row in &mut results {
            bar.set_message(row.case.name.clone());
            for lane in order(round) {
                number += 1;
                run(setup, row, lane, number)?;
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(results)
}

/// Forwards and backwards in turn, then starting from the next lane: each is first, second, third and last in turn.
fn order(round: u32) -> [Lane; 4] {
    let mut order = Lane::ALL;
    let turns = round as usize / 2 % order.len();
    order.rotate_left(turns);
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// One run. A failure of plain TCP or a Unix socket ends the benchmark; one of the accelerator is a result.
fn run(setup: &mut Setup<'_, '_>, row: &mut Results, lane: Lane, number: u32) -> Result<()> {
    if setup.interrupted.load(Ordering::Relaxed) {
        bail!(INTERRUPTED);
    }
    let case = &row.case;
    let outcome = &mut row.lanes[lane as usize];
    if !lane.exists_for(case) || outcome.failure.is_some() {
        return Ok(());
    }
    setup.accelerator.ensure_running()?;
    let before = setup.accelerator.counters()?;
    let task = setup.extent.task(case);
    let measured = measure(&task, address(case, lane, number), &locations(setup, case, lane));
    let (client, server) = match measured {
        Ok(reports) => reports,
        Err(_) if setup.interrupted.load(Ordering::Relaxed) => bail!(INTERRUPTED),
        Err(error) if lane == Lane::Accelerated => {
            outcome.failure = Some(format!("{error:#}"));
            return Ok(());
        }
        Err(error) => return Err(error).with_context(|| format!("failed to measure {}", case.name)),
    };
    let after = setup.accelerator.counters()?;
    let counted = before.zip(after).filter(|_| lane == Lane::Accelerated);
    let counted = counted.map(|(before, after)| after.since(&before));
    let redirected = counted
        .as_ref()
        .map(|counted| counted.value(const { Counter::of("bytes_redirected") }));
    for (name, value) in counted.iter().flat_map(|counted| counted.counted()) {
        *outcome.counters.entry(name.to_owned()).or_default() += value;
    }
    outcome.limited |= client.limited;
    outcome
        .rounds
        .push(Figures::of(case.workload, &client, &server, redirected));
    Ok(())
}

/// Where the server listens. No two runs share a name, or an excluded port that is still in use.
fn address(case: &Case, lane: Lane, number: u32) -> Address {
    if lane == Lane::Unix {
        return Address::Unix(format!("sockredir-bench-{}-{number}", process::id()));
    }
    let (host, port) = match case.network {
        Network::Loopback => ("127.0.0.1", 0),
        Network::ExcludedPort => {
            let (first, last) = EXCLUDED_PORTS;
            ("127.0.0.1", first + (number % u32::from(last - first + 1)) as u16)
        }
        Network::Veth => (NamespacePair::REMOTE, 0),
    };
    Address::Tcp(SocketAddrV4::new(host.parse().expect("a constant address"), port))
}

fn locations(setup: &Setup<'_, '_>, case: &Case, lane: Lane) -> Locations {
    let cgroup = match lane {
        Lane::Accelerated => setup.cgroups.accelerated(),
        Lane::Plain | Lane::Unix | Lane::Control => setup.cgroups.plain(),
    };
    let Processors { client, server, .. } = setup.processors;
    let local = setup.namespaces.map(NamespacePair::local);
    let (server_cgroup, server_namespace) = match case.network {
        // A program on another host is in no cgroup of this one.
        Network::Veth => (setup.cgroups.plain(), setup.namespaces.map(NamespacePair::remote)),
        Network::Loopback | Network::ExcludedPort => (cgroup.clone(), local.clone()),
    };
    Locations {
        client: Location {
            cgroup,
            namespace: local,
            core: client,
        },
        server: Location {
            cgroup: server_cgroup,
            namespace: server_namespace,
            core: if case.cores == Cores::Two { server } else { client },
        },
    }
}

/// Why a row cannot be measured here, if it cannot.
pub fn obstacle(
    case: &Case,
    namespaces: Option<&NamespacePair>,
    processors: &Processors,
    is_external: bool,
) -> Option<&'static str> {
    if case.network == Network::Veth && namespaces.is_none() {
        return Some("rows over veth need network namespaces");
    }
    if case.cores == Cores::Two && !processors.are_two() {
        return Some("rows on two cores need two processors");
    }
    if case.network == Network::ExcludedPort && is_external {
        return Some("rows with an excluded port are for sockredir only");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::cases::{Programs, all};
    use super::*;

    #[test]
    fn every_lane_has_every_place_in_turn() {
        for place in 0..Lane::ALL.len() {
            for lane in Lane::ALL {
                assert!(
                    (0..8).any(|round| order(round)[place] == lane),
                    "{lane:?} {place}"
                );
            }
        }
    }

    #[test]
    fn every_connection_warms_up_until_it_is_decided_on() {
        for extent in [Extent::new(true, None), Extent::new(false, None)] {
            for case in all() {
                let task = extent.task(&case);
                assert!(
                    task.workload == Workload::Stream || task.warm_up >= 16,
                    "{}",
                    case.name
                );
                assert!(case.programs == Programs::Nonblocking || task.connections == 1);
            }
        }
    }
}
