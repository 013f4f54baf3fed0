//! Two different connections are never joined, however alike they are made; a single connection set up in an unusual way is
//! joined correctly or not at all.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Arena, Network, Process, ToolReport, Traffic, patience};
use crate::relay::{Forger, Relay};
use crate::stage::{Bridge, SERVER, begin, dial, serve, tool};

const STEP: Duration = Duration::from_millis(10);

/// Two networks with the same addresses: 3,000 connections with the same ports at the same time, with every byte compared.
#[test]
fn equal_addresses_in_two_namespaces_stay_two() {
    let arena = Arena::new();
    let tool = tool(&arena, &[]);
    let places = [(); 2].map(|()| {
        let bridge = Bridge::new();
        let (client, server) = (bridge.host(1), bridge.host(2));
        let server = serve(&arena, &server, SERVER);
        (bridge, client, server)
    });
    let clients = ["1", "2"].map(|seed| {
        let place = if seed == "1" { &places[0] } else { &places[1] };
        let arguments = ["--connections", "100", "--rounds", "15", "--count", "10"];
        let alike = ["--size", "300", "--source", "10.0.0.1:20000", "--seed", seed];
        begin(&arena, &place.1, SERVER, &[arguments, alike].concat())
    });
    for client in clients {
        assert_eq!(client.finish().value("messages"), 15_000);
    }
    let report = tool.end();
    let admitted = report.counter("admitted_request_response");
    let twins = report.counter("refused_twin");
    assert_eq!(admitted + twins, 3000, "{}", report.transcript);
    report.assert_above("messages_redirected", 15_000);
}

/// A man in the middle can give two connections matching sequence numbers. What it relays must keep going through it, as it
/// may alter the data, count it, or keep it.
#[test]
fn what_a_relay_in_user_space_passes_on_goes_on_passing_through_it() {
    let arena = Arena::new();
    let (client, server) = (Network::new(), Network::new());
    let relay = Relay::between(&client, &server, Duration::ZERO);
    let tool = tool(&arena, &[]);
    let _server = serve(&arena, &server, SERVER);
    let report = dial(&arena, &client, SERVER, &["--count", "200", "--connections", "5"]);
    let payload = report.value("payload_bytes");
    let carried = relay.carried();
    let report = tool.end();
    assert!(
        carried > payload,
        "the relay carried {carried} of {payload} bytes: {}",
        report.transcript
    );
    assert_eq!(report.counter("refused_foreign"), 5, "{}", report.transcript);
    assert_eq!(report.counter("tcp_only_no_mate"), 5, "{}", report.transcript);
    assert_eq!(report.counter("bytes_redirected"), 0, "{}", report.transcript);
}

/// A user who is root in its own namespaces picks the sequence numbers of both ends: a second connection with the same ones
/// is refused, and the first stays as it is.
#[test]
fn a_second_connection_with_the_same_sequence_numbers_is_refused() {
    let arena = Arena::new();
    let tool = tool(&arena, &[]);
    let users = [(); 2].map(|()| User::new(&arena));
    let forgers = [&users[0], &users[1]].map(|user| Forger::before(&user.network, 4711));
    let arguments = ["--sequence", "77", "--source", "10.0.0.1:5000", "--count", "1"];
    let clients = [&users[0], &users[1]].map(|user| user.dial(&arena, &arguments));
    let deadline = Instant::now() + patience(Duration::from_secs(10));
    while !forgers.iter().all(Forger::is_established) {
        assert!(Instant::now() < deadline, "a connection was not established");
        thread::sleep(STEP);
    }
    drop(clients);
    let report = tool.end();
    assert_eq!(report.counter("refused_twin"), 1, "{}", report.transcript);
    assert_eq!(report.counter("ends_inserted"), 1, "{}", report.transcript);
}

/// As above, but with accepting servers: each connection gets its own numbers from the other end, unless two with the
/// same addresses are accepted within 64 ns, the clock step of the kernel's sequence numbers.
#[test]
fn connections_whose_first_sequence_number_is_set_are_joined_rightly() {
    let arena = Arena::new();
    let tool = tool(&arena, &[]);
    let places = [(); 2].map(|()| {
        let bridge = Bridge::new();
        let (user, server) = (User::new(&arena), bridge.host(2));
        bridge.join(1, &user.network);
        let server = serve(&arena, &server, SERVER);
        (bridge, user, server)
    });
    let arguments = ["--sequence", "77", "--connections", "50", "--count", "20"];
    let clients = [&places[0].1, &places[1].1].map(|user| user.dial(&arena, &arguments));
    for client in clients {
        client.finish();
    }
    let report = tool.end();
    let admitted = report.counter("admitted_request_response");
    assert!(admitted > 80, "{}", report.transcript);
    assert_eq!(
        admitted + report.counter("refused_twin"),
        100,
        "{}",
        report.transcript
    );
}

/// In repair mode a socket is established without its peer, with numbers that its program picks.
#[test]
fn connections_that_are_restored_stay_on_tcp() {
    let arena = Arena::new();
    let tool = tool(&arena, &[]);
    let user = User::new(&arena);
    user.network.run("ip address add 10.0.0.2/32 dev lo");
    user.dial(&arena, &["--restored", "--count", "0", "--connections", "5"])
        .finish();
    let report = tool.end();
    assert_eq!(report.counter("refused_special"), 5, "{}", report.transcript);
    assert_eq!(report.counter("ends_inserted"), 0, "{}", report.transcript);
}

/// A user who is root in a user and a network namespace, like the programs of an unprivileged container.
struct User {
    holder: Process,
    network: Network,
}

impl User {
    fn new(arena: &Arena) -> Self {
        let mut command = arena.command("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-c"]);
        command.arg("ip link set lo up && echo made && exec sleep 600");
        let mut holder = Process::start(command);
        holder.wait_for_line("made", 1, Duration::from_secs(10));
        let network = Network::of(holder.pid());
        Self { holder, network }
    }

    fn dial(&self, arena: &Arena, arguments: &[&str]) -> Traffic {
        let mut command = arena.command("nsenter");
        command.args(["--user", "--net", "--preserve-credentials", "--target"]);
        command.arg(self.holder.pid().to_string()).arg(Traffic::program());
        Traffic::start(command, &[&["dial", SERVER][..], arguments].concat())
    }
}

/// Echoes between two prepared hosts, and the tool's report.
fn echoes(
    prepare: impl FnOnce(&Network, &Network),
    server_arguments: &[&str],
    arguments: &[&str],
) -> ToolReport {
    let arena = Arena::new();
    let bridge = Bridge::new();
    let (client, server) = (bridge.host(1), bridge.host(2));
    prepare(&client, &server);
    let tool = tool(&arena, &[]);
    let command = arena.command_at(&server, arena.cgroup(), Traffic::program());
    let mut server = Traffic::start(
        command,
        &[&["serve", "--address", SERVER][..], server_arguments].concat(),
    );
    server.wait_for_line("address=", 1);
    dial(&arena, &client, SERVER, &[&["--count", "50"], arguments].concat());
    tool.end()
}

#[test]
fn connections_from_syn_cookies_are_joined_rightly() {
    let cookies = |_: &Network, server: &Network| server.set("ipv4/tcp_syncookies", "2");
    let report = echoes(cookies, &[], &["--rounds", "10"]);
    assert_eq!(
        report.counter("admitted_request_response"),
        10,
        "{}",
        report.transcript
    );
}

/// The accepted end is established before the connecting one, so it finds no record of that.
#[test]
fn connections_with_data_in_the_syn_stay_on_tcp() {
    let fast = |client: &Network, server: &Network| {
        client.set("ipv4/tcp_fastopen", "1");
        server.set("ipv4/tcp_fastopen", "2");
    };
    let report = echoes(fast, &["--fast-open"], &["--fast-open", "--rounds", "3"]);
    // The first connection obtains the fast-open cookie.
    assert_eq!(report.counter("refused_unpaired"), 2, "{}", report.transcript);
    assert_eq!(report.counter("tcp_only_no_mate"), 2, "{}", report.transcript);
    assert_eq!(
        report.counter("admitted_request_response"),
        1,
        "{}",
        report.transcript
    );
}

/// Neither end of such a connection was accepted.
#[test]
fn connections_that_both_ends_open_stay_on_tcp() {
    let arena = Arena::new();
    let hosts = [(); 2].map(|()| Network::new());
    // Each SYN is in flight when the other one is sent.
    let _relay = Relay::between(&hosts[0], &hosts[1], Duration::from_millis(300));
    let tool = tool(&arena, &[]);
    let one = ["--source", "10.0.0.1:5000", "--count", "0"];
    let two = ["--source", "10.0.0.2:5000", "--count", "0"];
    let ends = [
        begin(&arena, &hosts[0], "10.0.0.2:5000", &one),
        begin(&arena, &hosts[1], "10.0.0.1:5000", &two),
    ];
    for end in ends {
        end.finish();
    }
    let report = tool.end();
    assert_eq!(report.counter("refused_unpaired"), 2, "{}", report.transcript);
    assert_eq!(report.counter("ends_inserted"), 0, "{}", report.transcript);
}

/// A SYN proxy answers for the server with a sequence number of its own, and rewrites those of every packet.
#[test]
fn connections_whose_sequence_numbers_are_rewritten_stay_on_tcp() {
    const RULES: &str = "table ip guard {
        chain first { type filter hook prerouting priority raw; tcp dport 8000 tcp flags syn notrack
        }
        chain forward { type filter hook forward priority filter;
            tcp dport 8000 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
            ct state invalid drop
        }
    }";
    let arena = Arena::new();
    let bridge = Bridge::new();
    let (client, server) = (bridge.host(1), Network::new());
    let router = &bridge.router;
    router.run(&format!(
        "ip link add far type veth peer name eth0 netns {}",
        server.path()
    ));
    router.run("ip address add 10.1.0.254/24 dev far");
    router.run("ip link set far up");
    server.run("ip address add 10.1.0.2/24 dev eth0");
    server.run("ip link set eth0 up");
    server.run("ip route add default via 10.1.0.254");
    router.filter(RULES);
    router.set("netfilter/nf_conntrack_tcp_loose", "0");
    let tool = tool(&arena, &[]);
    let _server = serve(&arena, &server, "10.1.0.2:8000");
    dial(&arena, &client, "10.1.0.2:8000", &["--count", "50"]);
    let report = tool.end();
    assert_eq!(report.counter("refused_unpaired"), 1, "{}", report.transcript);
    assert_eq!(report.counter("tcp_only_no_mate"), 1, "{}", report.transcript);
    assert_eq!(report.counter("bytes_redirected"), 0, "{}", report.transcript);
}
