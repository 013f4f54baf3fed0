//! The cases of two network namespaces with connections between the same addresses and ports.

use std::fs;
use std::path::Path;

use super::workloads::judge;
use super::{Case, Trial, Verdict};
use crate::common::{Arena, Traffic};

pub const CASES: &[Case] = &[
    Case {
        name: "network namespaces",
        how: "two containers, the same loopback addresses and ports, 50,000 echoes each at the same time",
        judge: |trial| both(trial, true),
    },
    Case {
        name: "network namespaces, one server elsewhere",
        how: "as before, with the second server outside of the cgroup",
        judge: |trial| both(trial, false),
    },
];

/// Of the servers and of the clients, in each namespace.
const PORTS: [u16; 2] = [40_000, 40_001];
const ECHOES: &str = "50000";

/// Lets the kernel choose only this port in a namespace.
fn choose_port(arena: &Arena, port: u16) {
    let path = Path::new("/proc/sys/net/ipv4/ip_local_port_range");
    let written = arena.in_namespace(|| fs::write(path, format!("{port} {port}")));
    written.unwrap_or_else(|error| panic!("failed to set {}: {error}", path.display()));
}

fn start(place: &Arena, cgroup: &Path, arguments: &[&str]) -> Traffic {
    Traffic::start(place.command_in(cgroup, Traffic::program()), arguments)
}

fn both(trial: &mut Trial, is_second_covered: bool) -> Verdict {
    let arenas = [Arena::new(), Arena::new()];
    let [first, second] = &arenas;
    let running = trial.accelerator.start(first);
    let elsewhere = if is_second_covered { first } else { second };
    let cgroups = [first.cgroup(), elsewhere.cgroup()];

    let mut servers = Vec::new();
    let mut addresses = Vec::new();
    for (place, cgroup) in arenas.iter().zip(cgroups) {
        choose_port(place, PORTS[0]);
        let mut server = start(place, cgroup, &["serve"]);
        let address = server.wait_for_line("address=", 1);
        addresses.push(address.trim_start_matches("address=").to_owned());
        servers.push(server);
        choose_port(place, PORTS[1]);
    }
    let clients: Vec<_> = arenas
        .iter()
        .zip(["1", "2"])
        .zip(&addresses)
        .map(|((place, seed), address)| {
            let arguments = ["dial", address, "--count", ECHOES, "--size", "64", "--seed", seed];
            start(place, first.cgroup(), &arguments)
        })
        .collect();
    let reports: Vec<_> = clients.into_iter().map(Traffic::wait).collect();
    running.stop();
    drop(servers);
    let wrong: Vec<_> = ["the first", "the second"]
        .iter()
        .zip(&reports)
        .filter_map(|(which, report)| match judge(report) {
            Verdict::Wrong(what) => Some(format!("{which}: {what}")),
            Verdict::Fine(_) | Verdict::Unclear(_) => None,
        })
        .collect();
    if wrong.is_empty() {
        return Verdict::Fine(String::new());
    }
    Verdict::Wrong(wrong.join("; "))
}
