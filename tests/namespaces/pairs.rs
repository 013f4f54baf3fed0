//! Connections between namespaces of this host, over any kind of network.

use std::thread;
use std::time::Duration;

use crate::common::{Arena, Network, Tool, ToolReport, Traffic, patience};
use crate::stage::{Bridge, SERVER, SERVICE, begin, dial, serve, tool};

const ECHOES: [&str; 4] = ["--count", "2000", "--size", "4096"];
/// A translation that expires after 15 seconds without a packet is gone by then, even if it was created a little later.
const FORGOTTEN: Duration = Duration::from_secs(20);
const PAYLOAD: u64 = 2 * 2000 * 4096;

/// The total bytes on the client's interface for echoes to an address.
fn carried(arena: &Arena, client: &Network, address: &str) -> u64 {
    let (received, sent) = client.bytes("eth0");
    let report = dial(arena, client, address, &ECHOES);
    assert_eq!(report.value("payload_bytes"), PAYLOAD);
    let (received_then, sent_then) = client.bytes("eth0");
    received_then - received + sent_then - sent
}

fn assert_bypassed(carried: u64, report: &ToolReport) {
    assert!(
        carried < PAYLOAD / 50,
        "the interface carried {carried} bytes: {}",
        report.transcript
    );
    assert_eq!(
        report.counter("admitted_request_response"),
        1,
        "{}",
        report.transcript
    );
}

/// Echoes over a bridge, to an address, under the tool.
fn over_a_bridge(listen: &str, dialled: &str, prepare: impl FnOnce(&Bridge)) {
    let arena = Arena::new();
    let bridge = Bridge::new();
    let (client, server) = (bridge.host(1), bridge.host(2));
    prepare(&bridge);
    let tool = tool(&arena, &[]);
    let _server = serve(&arena, &server, listen);
    let carried = carried(&arena, &client, dialled);
    assert_bypassed(carried, &tool.end());
}

#[test]
fn connections_over_veth_and_a_bridge_bypass_them() {
    over_a_bridge(SERVER, SERVER, |_| ());
}

#[test]
fn connections_over_ipv6_and_of_ipv4_clients_to_dual_stack_servers_bypass_the_bridge() {
    over_a_bridge("[fd00::2]:8000", "[fd00::2]:8000", |_| ());
    over_a_bridge("[::]:8000", SERVER, |_| ());
}

#[test]
fn connections_whose_addresses_are_translated_bypass_the_router() {
    over_a_bridge(SERVER, SERVICE, |bridge| bridge.translate(false));
    over_a_bridge(SERVER, SERVICE, |bridge| bridge.translate(true));
}

/// A reset takes the path of the closed end's other packets: out of its namespace, and translated.
#[test]
fn who_sends_to_another_namespace_is_told_that_nobody_reads() {
    for (dialled, translate) in [(SERVER, None), (SERVICE, Some(false)), (SERVICE, Some(true))] {
        let arena = Arena::new();
        let bridge = Bridge::new();
        let (client, server) = (bridge.host(1), bridge.host(2));
        if let Some(client_too) = translate {
            bridge.translate(client_too);
        }
        let tool = tool(&arena, &["--adopt", "off"]);
        // A namespace without a process cannot be found.
        let _stays = serve(&arena, &server, "10.0.0.2:9000");
        let start = |network: &Network, arguments: &[&str]| {
            let common = ["refuse", "--seed", "1", "--ending", "close", "--at"];
            let command = arena.command_at(network, arena.cgroup(), Traffic::program());
            Traffic::start(command, &[&common, arguments].concat())
        };
        let mut readers = start(&server, &[SERVER, "--group", "9"]);
        readers.wait_for_line(SERVER, 1);
        let senders = start(&client, &[dialled, "--count", "10"]);
        let told = senders.finish();
        readers.finish();
        let lines = told.stdout.iter().filter(|line| line.starts_with("told="));
        let times = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
        let latest = times.max().unwrap();
        let report = tool.end();
        assert!(
            u128::from(latest) < patience(Duration::from_secs(10)).as_millis(),
            "{dialled}: the last sender was told after {latest} ms: {}",
            report.transcript
        );
        report.assert_above("resets_unread", 4);
    }
}

#[test]
fn connections_over_macvlan_bypass_it() {
    let arena = Arena::new();
    let (lower, client, server) = (Network::new(), Network::new(), Network::new());
    lower.run("ip link add lower type veth peer name other");
    lower.run("ip link set other up");
    lower.run("ip link set lower up");
    for (number, host) in [(1, &client), (2, &server)] {
        let there = host.path();
        lower.run(&format!(
            "ip link add link lower name eth0 netns {there} type macvlan mode bridge"
        ));
        host.run(&format!("ip address add 10.0.0.{number}/24 dev eth0"));
        host.run("ip link set eth0 up");
    }
    let tool = tool(&arena, &[]);
    let _server = serve(&arena, &server, SERVER);
    let carried = carried(&arena, &client, SERVER);
    assert_bypassed(carried, &tool.end());
}

/// By default a connection that leaves its namespace is left alone, even if only the server's end can tell: a host that
/// publishes a container's port translates after the route over loopback was chosen.
#[test]
fn the_scope_loopback_takes_no_connection_that_leaves_its_namespace() {
    let arena = Arena::new();
    let bridge = Bridge::new();
    let (client, server) = (bridge.host(1), bridge.host(2));
    bridge.router.set("ipv4/conf/all/route_localnet", "1");
    bridge.router.filter(
        "table ip published { chain output { type nat hook output priority -100;
            ip daddr 127.0.0.1 tcp dport 80 dnat to 10.0.0.2:8000
        }
        chain postrouting { type nat hook postrouting priority srcnat;
            oifname != lo masquerade
        } }",
    );
    let tool = Tool::start(&arena, &[]);
    let _server = serve(&arena, &server, SERVER);
    dial(&arena, &client, SERVER, &["--count", "50"]);
    dial(&arena, &bridge.router, "127.0.0.1:80", &["--count", "50"]);
    let report = tool.end();
    assert_eq!(report.counter("bytes_redirected"), 0, "{}", report.transcript);
    assert_eq!(report.counter("refused_not_local"), 2, "{}", report.transcript);
    assert_eq!(report.counter("tcp_only_no_mate"), 1, "{}", report.transcript);
}

/// Behind the translation the server has a port of its own, which only its end knows.
#[test]
fn a_port_behind_a_translation_is_excluded_at_its_own_end() {
    let arena = Arena::new();
    let bridge = Bridge::new();
    let (client, server) = (bridge.host(1), bridge.host(2));
    bridge.translate(false);
    let tool = tool(&arena, &["--exclude-ports", "8000"]);
    let _server = serve(&arena, &server, SERVER);
    dial(&arena, &client, SERVICE, &["--count", "50"]);
    let report = tool.end();
    assert_eq!(report.counter("refused_port"), 1, "{}", report.transcript);
    assert_eq!(report.counter("bytes_redirected"), 0, "{}", report.transcript);
}

/// The address translator forgets a connection that looks idle; later packets are no longer translated, and the
/// connection is lost. An accelerated connection must not look idle while it is in use.
#[test]
fn a_translation_lasts_as_long_as_the_accelerated_connection_is_used() {
    let arena = Arena::new();
    let bridge = Bridge::new();
    let (client, server) = (bridge.host(1), bridge.host(2));
    bridge.translate(true);
    bridge
        .router
        .set("netfilter/nf_conntrack_tcp_timeout_established", "15");
    let tool = tool(&arena, &[]);
    let _server = serve(&arena, &server, SERVER);
    let busy = begin(&arena, &client, SERVICE, &["--count", "300", "--pause", "100"]);
    thread::sleep(FORGOTTEN);
    let entries = bridge.router.run("conntrack -L -p tcp --state ESTABLISHED");
    assert!(
        entries.contains("dport=80"),
        "the connection was forgotten: {entries}"
    );
    busy.finish();
    let report = tool.end();
    assert_eq!(
        report.counter("admitted_request_response"),
        1,
        "{}",
        report.transcript
    );
    report.assert_above("messages_refresh", 1);
    report.assert_above("messages_redirected", 500);
}
