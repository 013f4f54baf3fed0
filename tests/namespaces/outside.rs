//! Connections whose peer is not on a host of ours, but in a namespace whose programs the tool does not cover.

use crate::common::{Arena, Network, Traffic, work};
use crate::stage::{Bridge, SERVER, dial, serve, serve_in, tool};

/// How many connections are refused between two that are tried, once a service is known to be elsewhere.
const SAMPLE: u64 = 64;

/// A client, and room for a server, in namespaces.
struct Place {
    client: Network,
    there: Network,
    _bridge: Bridge,
    arena: Arena,
}

impl Place {
    fn new() -> Self {
        let arena = Arena::new();
        let bridge = Bridge::new();
        let (client, there) = (bridge.host(1), bridge.host(2));
        Self {
            client,
            there,
            _bridge: bridge,
            arena,
        }
    }

    /// A server outside the tool's coverage.
    fn serve_outside(&self) -> Traffic {
        serve_in(&self.arena, self.arena.outside(), &self.there, SERVER)
    }

    /// The microseconds that a client took.
    fn dial(&self, arguments: &[&str]) -> u64 {
        dial(&self.arena, &self.client, SERVER, arguments).value("microseconds")
    }
}

#[test]
fn a_connection_to_elsewhere_leaves_the_map_at_its_first_acknowledgement() {
    let place = Place::new();
    let _server = place.serve_outside();
    let tool = tool(&place.arena, &[]);
    place.dial(&["--count", "500"]);
    place.dial(&["--count", "500", "--size", "200000"]);
    let report = tool.end();
    assert_eq!(report.counter("ends_inserted"), 2, "{}", report.transcript);
    assert_eq!(report.counter("tcp_only_no_mate"), 2, "{}", report.transcript);
    assert_eq!(report.counter("ends_left"), 2, "{}", report.transcript);
    let messages = report.counter("messages_observed") + report.counter("messages_tcp_only");
    assert!(messages < 20, "{}", report.transcript);
}

#[test]
fn a_service_elsewhere_is_only_sampled_until_it_is_here() {
    let place = Place::new();
    let tool = tool(&place.arena, &[]);
    let elsewhere = place.serve_outside();
    place.dial(&["--count", "1", "--rounds", "640"]);
    elsewhere.finish();
    let _here = serve(&place.arena, &place.there, SERVER);
    place.dial(&["--count", "20", "--rounds", "640"]);
    let report = tool.end();
    let tried = report.counter("tcp_only_no_mate");
    assert!(
        tried < 640 / SAMPLE + 10,
        "{tried} were tried: {}",
        report.transcript
    );
    report.assert_above("refused_service", 500);
    report.assert_above("admitted_request_response", 640 - 4 * SAMPLE);
}

/// Prints what the tool costs connections that it cannot accelerate: the time of a client in the cgroup relative to one
/// outside of it.
#[test]
fn the_cost_of_connections_to_elsewhere_is_told() {
    let place = Place::new();
    place.client.set("ipv4/ip_local_port_range", "1024 65535");
    place.client.set("ipv4/tcp_tw_reuse", "1");
    let _server = place.serve_outside();
    let tool = tool(&place.arena, &[]);
    // This measures the remembered result, not how it is learnt.
    place.dial(&["--count", "1", "--rounds", "20"]);
    for (what, arguments) in [
        ("one connection, 1 KiB", ["--count", "5000", "--size", "1024"]),
        ("one connection, 256 KiB", ["--count", "400", "--size", "262144"]),
        ("short connections", ["--count", "1", "--rounds", "1500"]),
    ] {
        let mut ratios: Vec<f64> = (0..work(9)).map(|_| ratio(&place, &arguments)).collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "figure: {what}: {:.3} of plain TCP's time ({:.3} to {:.3})",
            ratios[ratios.len() / 2],
            ratios[0],
            ratios[ratios.len() - 1]
        );
    }
    let report = tool.end();
    assert_eq!(report.counter("bytes_redirected"), 0, "{}", report.transcript);
}

fn ratio(place: &Place, arguments: &[&str]) -> f64 {
    let plain = || {
        let command = place
            .arena
            .command_at(&place.client, place.arena.outside(), Traffic::program());
        let client = Traffic::start(command, &[&["dial", SERVER][..], arguments].concat());
        client.finish().value("microseconds")
    };
    let before = plain();
    let under = place.dial(arguments);
    under as f64 * 2.0 / (before + plain()) as f64
}
