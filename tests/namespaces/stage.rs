//! Owns the environment of the tests: namespaces on a router's bridge, the servers in them, and the results of a run.

use std::path::Path;

use crate::common::{Arena, Network, Tool, Traffic, TrafficReport};

/// The address of most tests' server.
pub const SERVER: &str = "10.0.0.2:8000";
/// The address of a service, which is on no interface.
pub const SERVICE: &str = "10.99.0.1:80";

/// Translates the service's address to the server's, before routing.
const TO_SERVER: &str = "table ip service { chain prerouting { type nat hook prerouting priority dstnat;
    ip daddr 10.99.0.1 tcp dport 80 dnat to 10.0.0.2:8000
} }";
/// Translates the client's address to the router's.
const FROM_ROUTER: &str = "table ip source { chain postrouting { type nat hook postrouting priority srcnat;
    ip saddr 10.0.0.0/24 masquerade
} }";

/// A router with a bridge, 10.0.0.254, to which the hosts are connected by veth.
pub struct Bridge {
    pub router: Network,
}

impl Bridge {
    pub fn new() -> Self {
        let router = Network::new();
        router.run("ip link add bridge type bridge");
        router.run("ip address add 10.0.0.254/24 dev bridge");
        router.run("ip -6 address add fd00::fe/64 dev bridge nodad");
        router.run("ip link set bridge up");
        router.set("ipv4/ip_forward", "1");
        Self { router }
    }

    /// A host at 10.0.0.`number` and fd00::`number`, which reaches other addresses through the router.
    pub fn host(&self, number: u8) -> Network {
        let host = Network::new();
        self.join(number, &host);
        host
    }

    /// As `host`, with an existing namespace.
    pub fn join(&self, number: u8, host: &Network) {
        let port = format!("port{number}");
        self.router.run(&format!(
            "ip link add {port} type veth peer name eth0 netns {}",
            host.path()
        ));
        self.router.run(&format!("ip link set {port} master bridge up"));
        host.run(&format!("ip address add 10.0.0.{number}/24 dev eth0"));
        host.run(&format!("ip -6 address add fd00::{number}/64 dev eth0 nodad"));
        host.run("ip link set eth0 up");
        host.run("ip route add default via 10.0.0.254");
    }

    /// True if a host with this number is connected.
    pub fn has_port(&self, number: u8) -> bool {
        self.router
            .run("ip -brief link")
            .contains(&format!("port{number}@"))
    }

    /// The router translates the service's address, and optionally the client's.
    pub fn translate(&self, client_too: bool) {
        self.router.filter(TO_SERVER);
        if client_too {
            self.router.filter(FROM_ROUTER);
        }
    }
}

/// An echo server in a namespace, in the cgroup of the arena's programs.
pub fn serve(arena: &Arena, network: &Network, address: &str) -> Traffic {
    serve_in(arena, arena.cgroup(), network, address)
}

/// As `serve`, in a given cgroup.
pub fn serve_in(arena: &Arena, cgroup: &Path, network: &Network, address: &str) -> Traffic {
    let command = arena.command_at(network, cgroup, Traffic::program());
    let mut server = Traffic::start(command, &["serve", "--address", address]);
    server.wait_for_line("address=", 1);
    server
}

/// Starts a client in a namespace.
pub fn begin(arena: &Arena, network: &Network, address: &str, arguments: &[&str]) -> Traffic {
    let command = arena.command_at(network, arena.cgroup(), Traffic::program());
    Traffic::start(command, &[&["dial", address][..], arguments].concat())
}

/// Runs a client in a namespace to completion; it must succeed.
pub fn dial(arena: &Arena, network: &Network, address: &str, arguments: &[&str]) -> TrafficReport {
    begin(arena, network, address, arguments).finish()
}

/// The tool with `--scope host`.
pub fn tool(arena: &Arena, arguments: &[&str]) -> Tool {
    Tool::start(arena, &[&["--scope", "host"][..], arguments].concat())
}
