//! What an instance reports about itself and its flows: the types behind `--json`, described in docs/reference.md.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::counters::Counters;

/// Changes when a member changes its name or meaning, not when one is added.
pub const FORMAT: u32 = 1;

/// The answer to `status`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    pub format: u32,
    pub instance: Instance,
    /// Flows that have a record, by state. Ends that have left the socket map have none.
    pub flows: FlowsByState,
    /// How full the datapath's maps are.
    pub maps: Maps,
    /// Redirected or received data that has not been read yet, over all ends in the socket map.
    pub queues: Queues,
    pub adoption: Adoption,
    /// Since the start, in the order of `enum counter`.
    pub counters: Counters,
    /// Since the previous `status`, if there was one.
    pub since_last: Option<Since>,
}

/// A running `sockredir run`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Instance {
    pub version: String,
    pub pid: u32,
    /// The folders of the cgroups it covers.
    pub cgroups: Vec<PathBuf>,
    /// Unix time, in seconds.
    pub started_at: u64,
    pub uptime_seconds: f64,
    /// The release of the kernel.
    pub kernel: String,
    /// It was told to stop and is draining its flows.
    pub stopping: bool,
    /// `nonblocking` or `any`.
    pub admit: String,
    /// `loopback` or `host`.
    pub scope: String,
    /// Only connections whose ends belong to one user, or are in one cgroup.
    pub same_user: bool,
    pub same_cgroup: bool,
    /// Lists as on the command line, or `all` and `none`.
    pub ports: String,
    pub exclude_ports: String,
    pub exclude_programs: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct FlowsByState {
    pub observed: u64,
    pub admitted: u64,
    pub draining: u64,
    /// Decided for TCP, with an end still in the socket map.
    pub tcp_only: u64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Maps {
    pub ends: Fill,
    pub flows: Fill,
    pub services: Fill,
    pub listeners: Fill,
    pub programs: Fill,
}

/// Entries of a map, and its capacity.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Fill {
    pub used: u64,
    pub most: u64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Queues {
    pub bytes: u64,
    /// Ends with unread data.
    pub ends: u64,
}

/// The scans for established connections to adopt.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Adoption {
    /// `start`, `auto` or `off`.
    pub mode: String,
    pub scans: u64,
    /// CPU time of all scans and of the last one, in seconds.
    pub scan_seconds: f64,
    pub last_scan_seconds: f64,
    /// Other network namespaces with connections to adopt that the last scan could not enter.
    pub shut_namespaces: u32,
}

/// The answer to `adopt`: the scans, their CPU time, and how many connections they adopted.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Adopted {
    pub format: u32,
    pub scans: u64,
    pub seconds: f64,
    pub adopted: u64,
    /// Why there was no scan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Since {
    pub seconds: f64,
    pub counters: Counters,
}

/// The answer to `flows`: every TCP connection of the instance's cgroups at one moment.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Flows {
    pub format: u32,
    pub cgroups: Vec<PathBuf>,
    /// `loopback` or `host`.
    pub scope: String,
    pub flows: Vec<Flow>,
    pub listeners: Vec<Listener>,
}

/// A connection, followed or not.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Flow {
    pub state: FlowState,
    /// The counter that explains the state.
    pub reason: String,
    pub client: End,
    pub server: End,
    pub to_server: Direction,
    pub to_client: Direction,
    /// Since it was established; unknown if it is not followed.
    pub age_seconds: Option<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowState {
    Admitted,
    Observed,
    Draining,
    /// Never followed, or no longer.
    TcpOnly,
}

/// One end, as its socket sees it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct End {
    pub address: IpAddr,
    pub port: u16,
    /// The cookie of its network namespace; unknown if the socket was not seen: outside the cgroup, on another host, or
    /// not yet accepted.
    pub netns: Option<u64>,
    /// The processes that hold the socket; empty if unknown, or if the asker may not see them.
    pub processes: Vec<Process>,
    /// Its program currently uses it as a blocking socket.
    pub blocking: Option<bool>,
}

#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Process {
    pub pid: u32,
    /// The real user.
    pub uid: u32,
    pub name: String,
}

/// What one end sends to its peer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Direction {
    pub redirected: Amount,
    /// Sent through TCP while the sender was in the socket map.
    pub tcp: Amount,
    /// Sent through TCP since the connection was established.
    pub tcp_bytes_ever: u64,
    /// Bytes in the receiver's queue now, and the highest level seen at a redirect.
    pub queue_bytes: u64,
    pub queue_peak_bytes: u64,
    /// The `messages_*` counter of the last message, if there was one.
    pub last_message: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Amount {
    pub bytes: u64,
    pub messages: u64,
}

/// A port that a program of the cgroup listens on.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Listener {
    pub address: IpAddr,
    pub port: u16,
    pub netns: u64,
    pub processes: Vec<Process>,
    /// The listener's own mode; the mode of its accepted sockets is known once the first is accepted.
    pub blocking: bool,
    /// The `refused_*` counter of all its connections, if there is one.
    pub refused: Option<String>,
}

impl Instance {
    pub fn ports_in_words(&self) -> String {
        match (self.ports.as_str(), self.exclude_ports.as_str()) {
            ("all", "none") => "all ports".to_owned(),
            ("all", excluded) => format!("all ports but {excluded}"),
            (ports, "none") => format!("ports {ports}"),
            (ports, excluded) => format!("ports {ports} but {excluded}"),
        }
    }

    /// Which connections it covers, in words.
    pub fn connections_in_words(&self) -> String {
        let place = match self.scope.as_str() {
            "host" => "within this host",
            _ => "over loopback",
        };
        let trust = match (self.same_user, self.same_cgroup) {
            (false, false) => "",
            (true, false) => " of one user",
            (false, true) => " within one cgroup",
            (true, true) => " of one user within one cgroup",
        };
        format!("connections {place}{trust}")
    }

    /// Which programs it admits, in words.
    pub fn policy(&self) -> String {
        let programs = match self.admit.as_str() {
            "any" => "non-blocking and blocking programs",
            _ => "non-blocking programs",
        };
        let mut text = format!(
            "{}, {programs}, {}",
            self.connections_in_words(),
            self.ports_in_words()
        );
        if !self.exclude_programs.is_empty() {
            text += &format!(", not {}", self.exclude_programs.join(", "));
        }
        text
    }
}

impl FlowState {
    pub const ALL: [Self; 4] = [Self::Admitted, Self::Observed, Self::Draining, Self::TcpOnly];

    pub fn name(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Observed => "observed",
            Self::Draining => "draining",
            Self::TcpOnly => "tcp-only",
        }
    }
}

impl Direction {
    /// By either path, since the connection was established.
    pub fn bytes(&self) -> u64 {
        self.redirected.bytes + self.tcp_bytes_ever
    }
}

/// As in `127.0.0.1:80` and `[::1]:80`.
impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(out)
    }
}

/// As in `nginx[80]`.
impl fmt::Display for Process {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}[{}]", self.name, self.pid)
    }
}

impl fmt::Display for FlowState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}
