//! Owns what the tests run between: namespaces on a bridge of a router, the servers in them, and what was seen of a run.

use std::path::Path;

use crate::common::{Arena, Network, Tool, Traffic, TrafficReport};

/// Where the server of most tests listens.
pub const SERVER: &str = "10.0.0.2:8000";
/// The address of a service, which no interface has.
pub const SERVICE: &str = "10.99.0.1:80";

/// Translation of the service's address to the server's, before the route is chosen.
const TO_SERVER: &str = "table ip service { chain prerouting { type nat hook prerouting priority dstnat;
    ip daddr 10.99.0.1 tcp dport 80 dnat to 10.0.0.2:8000
} }";
/// And of the client's to the router's.
const FROM_ROUTER: &str = "table ip source { chain postrouting { type nat hook postrouting priority srcnat;
    ip saddr 10.0.0.0/24 masquerade
} }";

/// A router with a bridge, 10.0.0.254, to which the hosts are joined by veth.
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

    /// A host at 10.0.0.`number` and fd00::`number`, which reaches other addresses by the router.
    pub fn host(&self, number: u8) -> Network {
        let host = Network::new();
        self.join(number, &host);
        host
    }

    /// As `host`, with a namespace that is there.
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

    /// Whether a host of this number is joined.
    pub fn has_port(&self, number: u8) -> bool {
        self.router
            .run("ip -brief link")
            .contains(&format!("port{number}@"))
    }

    /// The router translates the address of the service, and that of the client where that is wanted.
    pub fn translate(&self, client_too: bool) {
        self.router.filter(TO_SERVER);
        if client_too {
            self.router.filter(FROM_ROUTER);
        }
    }
}

/// An echo server in a namespace, as the arena's programs are.
pub fn serve(arena: &Arena, network: &Network, address: &str) -> Traffic {
    serve_in(arena, arena.cgroup(), network, address)
}

/// As `serve`, in a cgroup.
pub fn serve_in(arena: &Arena, cgroup: &Path, network: &Network, address: &str) -> Traffic {
    let command = arena.command_at(network, cgroup, Traffic::program());
    let mut server = Traffic::start(command, &["serve", "--address", address]);
    server.wait_for_line("address=", 1);
    server
}

/// A client in a namespace that has begun.
pub fn begin(arena: &Arena, network: &Network, address: &str, arguments: &[&str]) -> Traffic {
    let command = arena.command_at(network, arena.cgroup(), Traffic::program());
    Traffic::start(command, &[&["dial", address][..], arguments].concat())
}

/// A client in a namespace, to its end, which must be a success.
pub fn dial(arena: &Arena, network: &Network, address: &str, arguments: &[&str]) -> TrafficReport {
    begin(arena, network, address, arguments).finish()
}

/// The tool with `--scope host`.
pub fn tool(arena: &Arena, arguments: &[&str]) -> Tool {
    Tool::start(arena, &[&["--scope", "host"][..], arguments].concat())
}
