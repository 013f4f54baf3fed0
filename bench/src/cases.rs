//! The rows of the benchmark: which programs do what over which connections.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the two programs do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "workload", rename_all = "kebab-case")]
pub enum Workload {
    /// One request at a time per connection, answered with as many bytes.
    RequestResponse,
    /// One direction, measured from the connect.
    Stream,
    /// Connect, some round trips, close; one connection after another.
    Short { round_trips: u32 },
    /// The reader stops after some round trips, and the sender goes on until nothing more is taken.
    Stopped,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Programs {
    /// Event loops: non-blocking sockets and epoll.
    Nonblocking,
    Blocking,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cores {
    /// Client and server share one.
    Same,
    Two,
}

/// The path between client and server.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    Loopback,
    /// Loopback, to a port that the accelerator must leave alone.
    ExcludedPort,
    /// The server is in another network namespace and outside the cgroup, as if on another host.
    Veth,
}

#[derive(Clone, Debug, Serialize)]
pub struct Case {
    pub name: String,
    /// The heading above it.
    pub group: &'static str,
    #[serde(flatten)]
    pub workload: Workload,
    pub programs: Programs,
    /// Bytes per message.
    pub size: usize,
    pub connections: usize,
    pub cores: Cores,
    pub network: Network,
    /// The least share of the payload that an accelerator should redirect, or 0 where TCP is the better path.
    pub least_redirected: f64,
}

impl Workload {
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestResponse => "request-response",
            Self::Stream => "stream",
            Self::Short { .. } => "short",
            Self::Stopped => "stopped",
        }
    }

    /// Messages in one direction per operation.
    pub fn messages_each(self) -> f64 {
        match self {
            Self::Short { round_trips } => f64::from(round_trips),
            _ => 1.0,
        }
    }
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Streams with at least this mean message size are redirected.
const BULK: usize = 32 * KIB;

/// All rows, in display order.
pub fn all() -> Vec<Case> {
    let mut cases = Cases::default();
    cases.group("Request and response on one connection, event loops, two cores");
    for size in [1, 64, KIB, 16 * KIB, 64 * KIB, MIB] {
        cases.add(Workload::RequestResponse, size, |_| {});
    }
    cases.group("Streams from the moment of connection, event loops, two cores");
    for size in [64, KIB, 4 * KIB, 16 * KIB, 64 * KIB, MIB] {
        cases.add(Workload::Stream, size, |_| {});
    }
    cases.group("Short connections: connect, round trips, close; event loops, two cores");
    for round_trips in [1, 8] {
        cases.add(Workload::Short { round_trips }, 64, |_| {});
    }
    cases.group("Request and response on many connections, event loops, two cores");
    for size in [64, KIB] {
        for connections in [16, 256] {
            cases.add(Workload::RequestResponse, size, |case| {
                case.connections = connections
            });
        }
    }
    cases.group("Client and server on one core, event loops");
    for size in [64, KIB, 16 * KIB, 64 * KIB] {
        cases.add(Workload::RequestResponse, size, |case| case.cores = Cores::Same);
    }
    for size in [KIB, 64 * KIB, MIB] {
        cases.add(Workload::Stream, size, |case| case.cores = Cores::Same);
    }
    cases.group("Blocking programs, two cores; on TCP unless --admit any");
    let blocking = |case: &mut Case| case.programs = Programs::Blocking;
    cases.add(Workload::RequestResponse, 64, blocking);
    cases.add(Workload::RequestResponse, 16 * KIB, blocking);
    cases.add(Workload::Stream, KIB, blocking);
    cases.add(Workload::Stream, 64 * KIB, blocking);
    cases.add(Workload::Short { round_trips: 1 }, 64, blocking);
    cases.group("To a port that is left alone, event loops, two cores");
    let excluded = |case: &mut Case| case.network = Network::ExcludedPort;
    cases.add(Workload::RequestResponse, 64, excluded);
    cases.add(Workload::Short { round_trips: 1 }, 64, excluded);
    cases.group("To another network namespace over veth, event loops, two cores");
    let remote = |case: &mut Case| case.network = Network::Veth;
    cases.add(Workload::RequestResponse, 64, remote);
    cases.add(Workload::Stream, 64 * KIB, remote);
    cases.add(Workload::Short { round_trips: 1 }, 64, remote);
    cases.group("Behind a reader that has stopped, event loops, two cores");
    for size in [64, 64 * KIB] {
        cases.add(Workload::Stopped, size, |_| {});
    }
    cases.all
}

#[derive(Default)]
struct Cases {
    all: Vec<Case>,
    group: &'static str,
}

impl Cases {
    fn group(&mut self, group: &'static str) {
        self.group = group;
    }

    fn add(&mut self, workload: Workload, size: usize, change: impl FnOnce(&mut Case)) {
        let mut case = Case {
            name: String::new(),
            group: self.group,
            workload,
            programs: Programs::Nonblocking,
            size,
            connections: 1,
            cores: Cores::Two,
            network: Network::Loopback,
            least_redirected: 0.0,
        };
        change(&mut case);
        case.name = name(&case);
        case.least_redirected = least_redirected(&case);
        self.all.push(case);
    }
}

/// All but the warm-up messages, with many connections; part of a stream goes through TCP if its reader is slow.
fn least_redirected(case: &Case) -> f64 {
    if case.programs == Programs::Blocking || case.network != Network::Loopback {
        return 0.0;
    }
    match case.workload {
        Workload::RequestResponse if case.connections == 1 => 0.8,
        Workload::RequestResponse => 0.5,
        Workload::Stream if case.size >= BULK => 0.25,
        Workload::Stream | Workload::Short { .. } | Workload::Stopped => 0.0,
    }
}

/// Workload, message size, and deviations from the defaults.
fn name(case: &Case) -> String {
    let mut parts = vec![case.workload.name().to_owned(), bytes(case.size)];
    if let Workload::Short { round_trips } = case.workload {
        parts[1] = format!("{round_trips}");
    }
    if case.connections > 1 {
        parts.push(format!("{}-connections", case.connections));
    }
    if case.programs == Programs::Blocking {
        parts.push("blocking".to_owned());
    }
    if case.cores == Cores::Same {
        parts.push("same-core".to_owned());
    }
    match case.network {
        Network::Loopback => {}
        Network::ExcludedPort => parts.push("excluded-port".to_owned()),
        Network::Veth => parts.push("veth".to_owned()),
    }
    parts.join("/")
}

/// A size for people: 64B, 16KiB.
pub fn bytes(size: usize) -> String {
    match size {
        MIB.. => format!("{}MiB", size / MIB),
        KIB.. => format!("{}KiB", size / KIB),
        _ => format!("{size}B"),
    }
}

/// A text that occurs in the name of at least one row.
#[derive(Clone, Debug)]
pub struct Filter(String);

impl Filter {
    pub fn takes(&self, case: &Case) -> bool {
        case.name.contains(&self.0)
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let filter = Self(text.to_owned());
        if all().iter().any(|case| filter.takes(case)) {
            return Ok(filter);
        }
        Err("no row has that in its name; names are such as request-response/64B, stream/1KiB/same-core, short/8".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own() {
        let cases = all();
        let names: BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
        assert_eq!(names.len(), cases.len());
        for name in [
            "request-response/1B",
            "request-response/1KiB/256-connections",
            "stream/1MiB",
            "stream/64KiB/same-core",
            "short/8",
            "short/1/excluded-port",
            "stopped/64B",
        ] {
            assert!(names.contains(&name.to_owned()), "{name} is not in {names:?}");
        }
    }

    #[test]
    fn a_filter_takes_some_rows_or_is_refused() {
        let filter: Filter = "veth".parse().unwrap();
        let all = all();
        let taken: Vec<_> = all.iter().filter(|case| filter.takes(case)).collect();
        assert!(taken.len() == 3 && taken.iter().all(|case| case.network == Network::Veth));
        assert!("udp".parse::<Filter>().is_err());
    }
}
