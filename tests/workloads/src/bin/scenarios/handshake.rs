//! Other ways to set up a connection: deferred accept, MPTCP at one end or both, data in the SYN.

use libc::{IPPROTO_TCP, MSG_FASTOPEN, POLLIN, POLLOUT, SHUT_WR};
use workloads::sys::{self, Family, Outcome};

use crate::connect::talk;
use crate::socket::Socket;
use crate::stage::{Pair, Scenario, Stage, background, log, pause, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("connect-deferred", deferred).cold(),
    scenario("connect-deferred-two-messages", deferred_two_messages).cold(),
    scenario("connect-deferred-half-closed", deferred_half_closed).cold(),
    scenario("connect-mptcp-both", mptcp_both).cold(),
    scenario("connect-mptcp-client", mptcp_client).cold(),
    scenario("connect-mptcp-server", mptcp_server).cold(),
    scenario("connect-fastopen-send", fastopen_send).cold(),
    scenario("connect-fastopen-two-messages", fastopen_two_messages).cold(),
    scenario("connect-fastopen-connect", fastopen_connect).cold(),
    scenario("connect-fastopen-server-only", fastopen_server_only).cold(),
    scenario("connect-fastopen-not-asked-for", fastopen_not_asked_for).cold(),
];

fn defer(listener: Socket) {
    let outcome = sys::set_option(listener.fd(), IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 5_i32);
    let _ = listener.logged("TCP_DEFER_ACCEPT 5", outcome);
}

/// The listener has nothing to accept until the client has sent something.
fn deferred(stage: &Stage) {
    let listener = stage.listener();
    defer(listener);
    let client = stage.socket();
    stage.connect(client, listener).expect("failed to connect");
    pause(20);
    listener.poll(POLLIN);
    let _ = client.send(100);
    let server = stage.accept(listener);
    server.poll(POLLIN);
    let _ = server.recv(200);
    talk(stage.pair(client, server));
}

/// The server's socket is created by the first message, which went through TCP; the second may take another path.
fn deferred_two_messages(stage: &Stage) {
    let listener = stage.listener();
    defer(listener);
    let client = stage.socket();
    stage.connect(client, listener).expect("failed to connect");
    let _ = client.send(100);
    let _ = client.send(100);
    let server = stage.accept(listener);
    server.recv_all(200);
    talk(stage.pair(client, server));
}

fn deferred_half_closed(stage: &Stage) {
    let listener = stage.listener();
    defer(listener);
    let client = stage.socket();
    stage.connect(client, listener).expect("failed to connect");
    let _ = client.send(100);
    client.shutdown(SHUT_WR);
    let server = stage.accept(listener);
    server.recv_to_end();
    let _ = server.send(100);
    server.close();
    client.recv_to_end();
}

/// An MPTCP socket, if the kernel supports it.
fn mptcp(stage: &Stage, name: &'static str) -> Outcome<Socket> {
    let domain = match stage.family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let fd = sys::stream_socket(domain, stage.flags(), libc::IPPROTO_MPTCP)?;
    Ok(Socket::new(name, fd, stage.mode))
}

fn mptcp_listener(stage: &Stage) -> Outcome<Socket> {
    let listener = mptcp(stage, "listener")?;
    sys::bind(listener.fd(), stage.family.loopback(0))?;
    sys::listen(listener.fd(), 16)?;
    Ok(listener)
}

fn over_mptcp(stage: &Stage, client: Outcome<Socket>, listener: Outcome<Socket>) {
    match (client, listener) {
        (Ok(client), Ok(listener)) => {
            let pair = stage.join(client, listener);
            talk_and_stream(pair);
        }
        (Err(error), _) | (_, Err(error)) => log(format!("MPTCP = {error}")),
    }
}

fn talk_and_stream(pair: Pair) {
    const LENGTH: usize = 2_000_000;
    for (from, to) in [(pair.client, pair.server), (pair.server, pair.client)] {
        let reader = background(move || to.recv_all(LENGTH));
        from.send_all(LENGTH);
        reader.join();
    }
    talk(pair);
}

fn mptcp_both(stage: &Stage) {
    over_mptcp(stage, mptcp(stage, "client"), mptcp_listener(stage));
}

/// The listener only speaks plain TCP.
fn mptcp_client(stage: &Stage) {
    over_mptcp(stage, mptcp(stage, "client"), Ok(stage.listener()));
}

fn mptcp_server(stage: &Stage) {
    over_mptcp(stage, Ok(stage.socket()), mptcp_listener(stage));
}

/// Enables data in the SYN, unless the network namespace is the host's. False where it cannot be enabled.
fn allow_fastopen() -> bool {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    if namespace("self") == namespace("1") {
        log("not in a network namespace of its own");
        return false;
    }
    let result = std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3");
    if let Err(error) = &result {
        log(format!("tcp_fastopen: {error}"));
    }
    result.is_ok()
}

fn set_fastopen(socket: Socket, name: i32, value: i32, words: &str) {
    let outcome = sys::set_option(socket.fd(), IPPROTO_TCP, name, value);
    let _ = socket.logged(&format!("{words} {value}"), outcome);
}

/// Disables cookies, so that the first connection behaves like every other.
fn without_cookies(socket: Socket) {
    set_fastopen(socket, libc::TCP_FASTOPEN_NO_COOKIE, 1, "TCP_FASTOPEN_NO_COOKIE");
}

fn fastopen_listener(stage: &Stage) -> Socket {
    let listener = stage.listener();
    set_fastopen(listener, libc::TCP_FASTOPEN, 5, "TCP_FASTOPEN");
    without_cookies(listener);
    listener
}

/// A client whose first message is in its SYN.
fn fastopen_client(stage: &Stage, listener: Socket) -> Socket {
    let client = stage.socket();
    without_cookies(client);
    let address = sys::names(listener.fd())[0]
        .clone()
        .expect("a listener has a name");
    let outcome = sys::send_to(client.fd(), &client.next(100), MSG_FASTOPEN, &address);
    let _ = client.logged("sendto 100 FASTOPEN", client.sent(outcome));
    if outcome.is_err() {
        client.wait(POLLOUT);
        let _ = client.send(100);
    }
    client
}

/// The server has the data before the client has the SYN-ACK.
fn fastopen_send(stage: &Stage) {
    if !allow_fastopen() {
        return;
    }
    for _ in 0..2 {
        let listener = fastopen_listener(stage);
        let client = fastopen_client(stage, listener);
        let server = stage.accept(listener);
        let _ = server.recv(200);
        talk(stage.pair(client, server));
    }
}

/// As with deferred accept.
fn fastopen_two_messages(stage: &Stage) {
    if !allow_fastopen() {
        return;
    }
    let listener = fastopen_listener(stage);
    let client = fastopen_client(stage, listener);
    let _ = client.send(100);
    let server = stage.accept(listener);
    server.recv_all(200);
    talk(stage.pair(client, server));
}

fn fastopen_connect(stage: &Stage) {
    if !allow_fastopen() {
        return;
    }
    for _ in 0..2 {
        let listener = fastopen_listener(stage);
        let client = stage.socket();
        without_cookies(client);
        set_fastopen(client, libc::TCP_FASTOPEN_CONNECT, 1, "TCP_FASTOPEN_CONNECT");
        let port = sys::port(listener.fd()).expect("a listener has a port");
        let _ = client.logged("connect", sys::connect(client.fd(), stage.family.loopback(port)));
        let _ = client.send_with(100, 0, "");
        let server = stage.accept(listener);
        let _ = server.recv(200);
        talk(stage.pair(client, server));
    }
}

/// The client does not use it.
fn fastopen_server_only(stage: &Stage) {
    if !allow_fastopen() {
        return;
    }
    let listener = fastopen_listener(stage);
    talk(stage.join(stage.socket(), listener));
}

/// The listener does not use it: the data follows the handshake.
fn fastopen_not_asked_for(stage: &Stage) {
    if !allow_fastopen() {
        return;
    }
    let listener = stage.listener();
    let client = fastopen_client(stage, listener);
    let server = stage.accept(listener);
    let _ = server.recv(200);
    talk(stage.pair(client, server));
}
