//! What a program learns about its socket and its connection, which traffic must not change.

use std::fs;

use libc::{IPPROTO_TCP, SHUT_WR, SOL_SOCKET};
use workloads::sys::{self, Family, Outcome, text};

use crate::halfclose::both_ways;
use crate::socket::Socket;
use crate::stage::{Pair, Scenario, Stage, eventually, log, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("identity-names", names),
    scenario("identity-cookie", cookie),
    scenario("identity-kind", kind),
    scenario("identity-link", link),
    scenario("identity-credentials", credentials),
    scenario("identity-state", state),
    scenario("identity-state-of-closing", state_of_closing),
    scenario("identity-state-after-reset", state_after_reset),
    scenario("identity-outq", outq),
    scenario("identity-listed", listed),
    scenario("identity-listed-unread", listed_unread),
    scenario("identity-info", info),
];

fn traffic(pair: Pair) {
    for (from, to) in [(pair.client, pair.server), (pair.server, pair.client)] {
        from.send_quietly(5000);
        to.recv_quietly(5000);
    }
}

fn names(stage: &Stage) {
    let pair = stage.fresh();
    let Pair { client, server, .. } = pair;
    let [own, peer] = sys::names(client.fd());
    let of_server = sys::names(server.fd());
    log(format!(
        "the ends agree: {}",
        of_server == [peer.clone(), own.clone()]
    ));
    pair.warm_up();
    traffic(pair);
    let is_same = || {
        [client, server].map(|end| sys::names(end.fd())) == [[own.clone(), peer.clone()], of_server.clone()]
    };
    log(format!("the same after traffic: {}", is_same()));
    client.shutdown(SHUT_WR);
    let _ = server.recv(10);
    log(format!("the same when half-closed: {}", is_same()));
    server.close();
    let _ = client.recv(10);
    let [own_now, peer_now] = sys::names(client.fd());
    log(format!("the own name is the same: {}", own_now == own));
    log(format!("the peer: {:?}", peer_now.err()));
}

fn cookie_of(socket: Socket) -> Outcome<Vec<u8>> {
    sys::option_bytes(socket.fd(), SOL_SOCKET, libc::SO_COOKIE, 8)
}

fn cookie(stage: &Stage) {
    let pair = stage.fresh();
    let cookies = || [pair.client, pair.server].map(cookie_of);
    let before = cookies();
    log(format!(
        "two cookies: {}",
        before[0].is_ok() && before[0] != before[1]
    ));
    pair.warm_up();
    log(format!("the same when warm: {}", cookies() == before));
    traffic(pair);
    log(format!("the same after traffic: {}", cookies() == before));
}

fn kind(stage: &Stage) {
    let pair = stage.warm();
    let domain = match stage.family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    for end in [pair.client, pair.server] {
        let option = |name| sys::option(end.fd(), SOL_SOCKET, name);
        end.log(format!("its domain: {}", option(libc::SO_DOMAIN) == Ok(domain)));
        end.log(format!("TCP: {}", option(libc::SO_PROTOCOL) == Ok(IPPROTO_TCP)));
        end.log(format!(
            "a stream: {}",
            option(libc::SO_TYPE) == Ok(libc::SOCK_STREAM)
        ));
        end.log(format!("listening: {:?}", option(libc::SO_ACCEPTCONN)));
    }
}

fn inode(socket: Socket) -> Option<String> {
    let link = fs::read_link(format!("/proc/self/fd/{}", socket.fd())).ok()?;
    let link = link.to_str()?;
    Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
}

fn link(stage: &Stage) {
    let pair = stage.fresh();
    let before = inode(pair.client);
    log(format!("a link to a socket: {}", before.is_some()));
    pair.warm_up();
    traffic(pair);
    log(format!(
        "the same after traffic: {}",
        inode(pair.client) == before
    ));
}

/// TCP has no peer credentials.
fn credentials(stage: &Stage) {
    let pair = stage.warm();
    let of_peer = sys::option_bytes(pair.client.fd(), SOL_SOCKET, libc::SO_PEERCRED, 12);
    log(format!("SO_PEERCRED = {of_peer:?}"));
}

/// The state in TCP_INFO.
fn tcp_state(socket: Socket) -> String {
    const NAMES: [&str; 12] = [
        "none",
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
    ];
    match sys::option_bytes(socket.fd(), IPPROTO_TCP, libc::TCP_INFO, 1) {
        Ok(bytes) => NAMES[usize::from(bytes[0]) % NAMES.len()].to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Waits for a state and logs the actual one.
fn becomes(socket: Socket, name: &str) {
    eventually(|| tcp_state(socket) == name);
    socket.log(format!("is {}", tcp_state(socket)));
}

fn state(stage: &Stage) {
    let listener = stage.listener();
    listener.log(format!("is {}", tcp_state(listener)));
    let client = stage.socket();
    client.log(format!("is {}", tcp_state(client)));
    let pair = stage.join(client, listener);
    let server = pair.server;
    becomes(client, "ESTABLISHED");
    becomes(server, "ESTABLISHED");
    pair.warm_up();
    traffic(pair);
    becomes(client, "ESTABLISHED");
    client.shutdown(SHUT_WR);
    becomes(client, "FIN_WAIT2");
    becomes(server, "CLOSE_WAIT");
    let _ = server.recv(10);
    let _ = server.send(1000);
    becomes(server, "CLOSE_WAIT");
    let _ = client.recv(1000);
    server.close();
    becomes(client, "CLOSE");
    let _ = client.recv(10);
}

/// Ends that shut down with unread data.
fn state_of_closing(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send(1000);
        one.shutdown(SHUT_WR);
        becomes(one, "FIN_WAIT2");
        becomes(other, "CLOSE_WAIT");
        other.shutdown(SHUT_WR);
        becomes(one, "CLOSE");
        becomes(other, "CLOSE");
        other.recv_to_end();
        let _ = one.recv(10);
    });
}

fn state_after_reset(stage: &Stage) {
    both_ways(stage, |one, other| {
        one.reset();
        becomes(other, "CLOSE");
        let _ = other.recv(10);
        let _ = other.recv(10);
    });
}

/// The unacknowledged bytes, of which there are few when the reader is fast.
fn outq(stage: &Stage) {
    both_ways(stage, |one, other| {
        let unsent = |name, request| {
            let is_nothing = eventually(|| sys::ioctl(one.fd(), request) == Ok(0));
            one.log(format!("{name} becomes 0: {is_nothing}"));
        };
        let _ = one.send(3000);
        unsent("SIOCOUTQ", libc::TIOCOUTQ);
        unsent("SIOCOUTQNSD", SIOCOUTQNSD);
        let _ = other.recv(5000);
        one.shutdown(SHUT_WR);
        unsent("SIOCOUTQ", libc::TIOCOUTQ);
    });
}

/// Counts bytes that have not been sent at all; the libc crate lacks it.
const SIOCOUTQNSD: libc::c_ulong = 0x894B;

/// A socket's state and unread bytes in the kernel's list of connections.
fn line_of(stage: &Stage, socket: Socket) -> Option<(String, String)> {
    let list = match stage.family {
        Family::V4 => "/proc/self/net/tcp",
        Family::V6 => "/proc/self/net/tcp6",
    };
    let inode = inode(socket)?;
    let text = fs::read_to_string(list).ok()?;
    let columns = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|columns| columns.get(9) == Some(&inode.as_str()))?;
    let unread = columns.get(4)?.split(':').nth(1)?;
    let unread = u32::from_str_radix(unread, 16).ok()?;
    Some((format!("state {}", columns.get(3)?), format!("{unread} unread")))
}

fn log_line(stage: &Stage, socket: Socket) {
    let line = line_of(stage, socket);
    let line = line.map_or_else(
        || "nothing".into(),
        |(state, unread)| format!("{state}, {unread}"),
    );
    socket.log(format!("is listed with {line}"));
}

fn listed(stage: &Stage) {
    let pair = stage.warm();
    traffic(pair);
    for end in [pair.client, pair.server] {
        log_line(stage, end);
    }
    pair.client.shutdown(SHUT_WR);
    let _ = pair.server.recv(10);
    becomes(pair.client, "FIN_WAIT2");
    for end in [pair.client, pair.server] {
        let state = line_of(stage, end).map_or_else(|| "nothing".into(), |(state, _)| state);
        end.log(format!("is listed with {state}"));
    }
}

fn listed_unread(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send(1000);
        other.wait_unread(1000);
        log_line(stage, other);
        let _ = other.recv(2000);
        log_line(stage, other);
    });
}

/// TCP_INFO's counts of bytes sent, acknowledged, received and not yet sent.
fn info(stage: &Stage) {
    both_ways(stage, |one, other| {
        let before = sys::tcp_bytes_sent(one.fd());
        let _ = one.send(3000);
        let _ = other.recv(5000);
        let more = match (before, sys::tcp_bytes_sent(one.fd())) {
            (Ok(before), Ok(after)) => Ok((after - before) as usize),
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        one.log(format!("tcpi_bytes_sent grows by {}", text(more)));
    });
}
