//! Programs that a socket map would break are excluded before that happens, or noticed if they were not.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Arena, Tool, ToolReport, Traffic, json};

/// Starts an echo server of this kind in a process of its own, and returns its address.
fn serve(arena: &Arena, program: &Path, arguments: &[&str]) -> (Traffic, String) {
    let arguments = [&["serve"], arguments].concat();
    let mut server = Traffic::start(arena.command(program), &arguments);
    let address = server.wait_for_line("address=", 1);
    (server, address["address=".len()..].to_owned())
}

/// Runs a client with these options for 200 round trips.
fn dial_with(arena: &Arena, address: &str, options: &[&str]) {
    let arguments = [&["dial", address, "--count", "200", "--size", "100"], options].concat();
    arena.traffic(&arguments).finish();
}

/// Runs non-blocking clients, one after another.
fn dial(arena: &Arena, address: &str, clients: usize) {
    (0..clients).for_each(|_| dial_with(arena, address, &[]));
}

/// The tool's counters after clients with these options, one after another, of a server with those.
fn talk_to(server: &[&str], clients: &[&[&str]]) -> ToolReport {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let (_server, address) = serve(&arena, &Traffic::program(), server);
    for options in clients {
        dial_with(&arena, &address, options);
    }
    tool.stop()
}

/// As `talk_to`, for this number of non-blocking clients.
fn talk(server: &[&str], clients: usize) -> ToolReport {
    talk_to(server, &vec![&[] as &[&str]; clients])
}

/// A copy of the workloads under another name, which its processes then have.
struct Renamed(PathBuf);

impl Renamed {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sockredir-test-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        fs::copy(Traffic::program(), &path).unwrap();
        Self(path)
    }
}

impl Drop for Renamed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.parent().unwrap_or(&self.0));
    }
}

/// A thread that sleeps in recv on a mapped socket is woken with EAGAIN by a reset or a signal, so a server that may
/// block there must not be in the map, not even for its first connection.
#[test]
fn a_server_that_blocks_is_never_inserted() {
    let report = talk(&["--listener", "blocking", "--accepted", "blocking"], 3);
    assert_eq!(
        report.counter("refused_unknown_server"),
        1,
        "{}",
        report.transcript
    );
    assert!(
        report.counter("refused_blocking_server") >= 1,
        "{}",
        report.transcript
    );
    assert_eq!(
        report.counter("ends_inserted"),
        report.counter("ends_left"),
        "{}",
        report.transcript
    );
    assert!(report.counter("ends_inserted") <= 3, "{}", report.transcript);
    assert_eq!(report.counter("messages_redirected"), 0, "{}", report.transcript);
}

/// An event loop whose acceptor is a blocking thread: unknowable before its first connection, and known to all after it.
#[test]
fn a_server_that_accepts_in_a_thread_is_accelerated_from_its_second_connection_on() {
    let report = talk(&["--listener", "blocking", "--accepted", "nonblocking"], 3);
    assert_eq!(
        report.counter("refused_unknown_server"),
        1,
        "{}",
        report.transcript
    );
    assert_eq!(
        report.counter("admitted_request_response"),
        2,
        "{}",
        report.transcript
    );
}

/// Servers of one program for IPv4 and IPv6, of different programs, workers of one program, and one on the wildcard address:
/// what an address has shown is not attributed to another, nor forgotten when a scan finds them all.
#[test]
fn servers_that_share_a_port_are_told_apart() {
    const ROUNDS: u64 = 3;
    let arena = Arena::new();
    let tool = Tool::start(&arena, &["--adopt", "off"]);
    let servers = [
        ("127.0.0.1:8000", "nonblocking"),
        ("[::1]:8000", "nonblocking"),
        ("127.0.0.2:8000", "blocking"),
        ("127.0.0.3:8000", "nonblocking"),
        ("127.0.0.3:8000", "nonblocking"),
        ("0.0.0.0:8000", "blocking"),
    ]
    .map(|(address, accepted)| {
        let arguments = [
            "--address",
            address,
            "--listener",
            "blocking",
            "--accepted",
            accepted,
        ];
        serve(&arena, &Traffic::program(), &arguments).0
    });
    for _ in 0..ROUNDS {
        for address in [
            "127.0.0.1",
            "[::1]",
            "127.0.0.2",
            "127.0.0.3",
            "127.0.0.3",
            "127.0.0.4",
        ] {
            dial(&arena, &format!("{address}:8000"), 1);
        }
        // A scan looks up the listeners only if there is something to adopt.
        let mut older = arena.traffic(&["older", "--state", "turned"]);
        older.wait_for_line("waiting", 1);
        assert_eq!(json(&arena, &["adopt"])["adopted"], 1);
        older.finish();
    }
    drop(servers);
    let report = tool.stop();
    let count = |name| report.counter(name);
    assert_eq!(count("refused_unknown_server"), 5, "{}", report.transcript);
    assert_eq!(
        count("admitted_request_response"),
        4 * ROUNDS - 3,
        "{}",
        report.transcript
    );
    assert_eq!(
        count("refused_blocking_server") + count("refused_service"),
        2 * (ROUNDS - 1),
        "{}",
        report.transcript
    );
}

/// What a program has shown at one port is known there for its next listener too, and says nothing of another port.
#[test]
fn a_program_shows_at_each_port_whether_it_blocks() {
    const ENOUGH: usize = 10;
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    let serve = |port: &str, accepted| {
        let arguments = [
            "--address",
            port,
            "--listener",
            "blocking",
            "--accepted",
            accepted,
        ];
        serve(&arena, &Traffic::program(), &arguments)
    };
    for clients in [ENOUGH, 1] {
        let (server, address) = serve("127.0.0.1:8000", "nonblocking");
        dial(&arena, &address, clients);
        server.finish();
    }
    let (server, address) = serve("127.0.0.1:8001", "blocking");
    dial(&arena, &address, 1);
    server.finish();
    let report = tool.stop();
    let counted = |name| report.counter(name);
    assert_eq!(counted("refused_unknown_server"), 2, "{}", report.transcript);
    assert_eq!(
        counted("admitted_request_response"),
        ENOUGH as u64,
        "{}",
        report.transcript
    );
}

/// Listening sockets come and go, some of them at the same place in memory.
#[test]
fn a_server_is_not_taken_for_the_one_that_had_its_address_before() {
    const TURNS: u64 = 8;
    let arena = Arena::new();
    let tool = Tool::start(&arena, &[]);
    for accepted in ["nonblocking", "blocking"].repeat(TURNS as usize) {
        let arguments = ["--address", "127.0.0.1:8000", "--listener", "blocking"];
        let arguments = [&arguments[..], &["--accepted", accepted]].concat();
        let (server, address) = serve(&arena, &Traffic::program(), &arguments);
        dial(&arena, &address, 1);
        server.finish();
    }
    let report = tool.stop();
    assert_eq!(
        report.counter("refused_unknown_server"),
        2 * TURNS,
        "{}",
        report.transcript
    );
}

/// The listener is non-blocking, its accepted sockets block: detected at the first answer, and remembered.
#[test]
fn a_server_that_turns_its_sockets_to_blocking_is_kept_out_after_one_connection() {
    let report = talk(&["--listener", "nonblocking", "--accepted", "blocking"], 3);
    assert_eq!(report.counter("tcp_only_blocking"), 2, "{}", report.transcript);
    assert_eq!(
        report.counter("refused_blocking_server"),
        1,
        "{}",
        report.transcript
    );
    assert_eq!(report.counter("refused_service"), 1, "{}", report.transcript);
    assert_eq!(report.counter("messages_redirected"), 0, "{}", report.transcript);
}

/// As libraries do that have a timeout for connect only. It has left the map before it first waits in recv, so such clients
/// are harmless, and others of the same service are not excluded.
#[test]
fn a_client_that_turns_to_blocking_before_it_sends_keeps_nobody_off() {
    let turns: &[&str] = &["--turn", "connected"];
    let report = talk_to(&[], &[turns, turns, &[]]);
    let count = |name| report.counter(name);
    assert_eq!(count("tcp_only_blocking"), 2, "{}", report.transcript);
    assert_eq!(count("refused_turns_blocking"), 0, "{}", report.transcript);
    assert_eq!(count("admitted_request_response"), 1, "{}", report.transcript);
}

/// It could wait in recv while it is in the map, and so could the next one.
#[test]
fn clients_that_turn_to_blocking_later_are_kept_out_from_then_on() {
    let report = talk_to(&[], &[&["--turn", "answered"], &[]]);
    let count = |name| report.counter(name);
    assert_eq!(count("tcp_only_blocking"), 1, "{}", report.transcript);
    assert_eq!(count("refused_turns_blocking"), 1, "{}", report.transcript);
    assert_eq!(count("messages_redirected"), 0, "{}", report.transcript);
}

/// After a mapped socket took a part of a large send, io_uring resumes it at the wrong offset.
#[test]
fn programs_with_an_io_uring_stay_on_tcp() {
    let report = talk_to(&[], &[&["--io-uring"]]);
    assert_eq!(report.counter("refused_io_uring"), 1, "{}", report.transcript);
    assert_eq!(report.counter("ends_inserted"), 0, "{}", report.transcript);

    let report = talk_to(&["--io-uring"], &[&[], &[]]);
    assert!(report.counter("refused_io_uring") >= 1, "{}", report.transcript);
    assert_eq!(report.counter("messages_redirected"), 0, "{}", report.transcript);
}

#[test]
fn a_server_older_than_the_tool_is_known() {
    let arena = Arena::new();
    let (_server, address) = serve(&arena, &Traffic::program(), &[]);
    let tool = Tool::start(&arena, &[]);
    dial(&arena, &address, 1);
    let report = tool.stop();
    assert_eq!(
        report.counter("admitted_request_response"),
        1,
        "{}",
        report.transcript
    );
}

#[test]
fn programs_are_left_alone_by_name_at_either_end() {
    let arena = Arena::new();
    let server = Renamed::new("some-server");
    for excluded in ["some-server", "other,traffic"] {
        let tool = Tool::start(&arena, &["--exclude-programs", excluded]);
        let (_server, address) = serve(&arena, &server.0, &[]);
        dial(&arena, &address, 2);
        let report = tool.stop();
        assert!(report.counter("refused_program") >= 1, "{}", report.transcript);
        assert_eq!(report.counter("messages_redirected"), 0, "{}", report.transcript);
        assert_eq!(
            report.counter("ends_inserted"),
            report.counter("ends_left"),
            "{}",
            report.transcript
        );
    }
}

/// splice(2) reads TCP's own queue: on a mapped socket the program would wait for ever. A program wrongly taken as known loses
/// its first connection to a reset; it is reported, and its next ones work.
#[test]
fn a_trusted_program_that_splices_is_named_and_kept_off() {
    let arena = Arena::new();
    let relay = Renamed::new("some-relay");
    let mut tool = Tool::start(&arena, &[]);
    let (_server, address) = serve(&arena, &relay.0, &["--splice"]);
    let broken = arena.traffic(&["dial", &address, "--count", "50"]).wait();
    assert!(!broken.status.success(), "{}", broken.transcript);
    tool.wait_for_line("some-relay splices", 1);
    dial(&arena, &address, 2);
    let report = tool.end();
    assert_eq!(report.counter("resets_stranded"), 1, "{}", report.transcript);
    report.assert_above("refused_splices", 0);
}

/// The same without an option from the user: it is detected before anything can go wrong.
#[test]
fn a_program_that_splices_answers_from_its_first_connection_on() {
    let arena = Arena::new();
    let relay = Renamed::new("some-relay");
    let mut tool = Tool::start(&arena, &["--trust-programs", "none"]);
    let (_server, address) = serve(&arena, &relay.0, &["--splice"]);
    dial(&arena, &address, 3);
    tool.wait_for_line("some-relay splices", 1);
    let report = tool.end();
    assert_eq!(report.counter("resets_stranded"), 0, "{}", report.transcript);
}

/// The reason to exclude a program outlives the instance that found it: the next instance resets nothing to find it again.
#[test]
fn a_program_that_splices_is_known_to_the_next_instance() {
    let arena = Arena::new();
    let relay = Renamed::new("some-relay");
    let known = relay.0.with_file_name("known");
    let options = ["--known-programs", known.to_str().unwrap()];
    let mut tool = Tool::start(&arena, &options);
    let (_server, address) = serve(&arena, &relay.0, &["--splice"]);
    let broken = arena.traffic(&["dial", &address, "--count", "50"]).wait();
    assert!(!broken.status.success(), "{}", broken.transcript);
    tool.wait_for_line("some-relay splices", 1);
    tool.end();
    let tool = Tool::start(&arena, &options);
    dial(&arena, &address, 1);
    let report = tool.end();
    assert_eq!(report.counter("refused_splices"), 1, "{}", report.transcript);
}

#[test]
fn a_program_that_splices_works_if_it_is_left_alone() {
    let arena = Arena::new();
    let relay = Renamed::new("some-relay");
    let tool = Tool::start(&arena, &["--exclude-programs", "some-relay"]);
    let (_server, address) = serve(&arena, &relay.0, &["--splice"]);
    dial(&arena, &address, 2);
    let report = tool.stop();
    assert!(report.stderr.is_empty(), "{}", report.transcript);
}
