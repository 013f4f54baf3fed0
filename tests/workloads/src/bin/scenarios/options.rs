//! Socket options set before and after traffic: their effect, and what is read back.

use libc::{IPPROTO_TCP, MSG_DONTWAIT, MSG_PEEK, POLLIN, POLLOUT, POLLRDHUP, SOL_SOCKET};
use workloads::sys::{self, text};

use crate::halfclose::both_ways;
use crate::socket::Socket;
use crate::stage::{Pair, Scenario, Stage, background, pause, scenario};
use crate::vectors::all;

pub const SCENARIOS: &[Scenario] = &[
    scenario("options-read-back", read_back),
    scenario("options-read-back-fresh", read_back_fresh).cold(),
    scenario("options-late-buffers", late_buffers),
    scenario("options-late-small-buffers", late_small_buffers),
    scenario("options-linger", linger),
    scenario("options-keepalive", keepalive),
    scenario("options-user-timeout", user_timeout),
    scenario("options-quickack-nodelay", quickack_nodelay),
    scenario("options-notsent-lowat", notsent_lowat),
    scenario("options-after-bulk", after_bulk),
    scenario("options-ulp-early", ulp_early).cold(),
    scenario("options-ulp-late", ulp_late),
    scenario("options-repair-late", repair_late),
    scenario("options-md5", md5).cold(),
];

pub fn set(socket: Socket, level: i32, name: i32, value: i32, words: &str) {
    let outcome = sys::set_option(socket.fd(), level, name, value);
    let _ = socket.logged(&format!("{words} {value}"), outcome);
}

pub fn get(socket: Socket, level: i32, name: i32, words: &str) {
    let value = sys::option(socket.fd(), level, name);
    let value = value.map_or_else(|error| error.to_string(), |value| value.to_string());
    socket.log(format!("{words} is {value}"));
}

/// A connection whose accepted socket is prepared before there is traffic.
pub fn prepared(stage: &Stage, prepare: impl Fn(Socket)) -> Pair {
    let pair = stage.fresh();
    prepare(pair.client);
    prepare(pair.server);
    for _ in 0..20 {
        for (from, to) in [(pair.client, pair.server), (pair.server, pair.client)] {
            from.send_quietly(64);
            to.recv_quietly(64);
        }
    }
    pair
}

/// Options whose values involve neither ports nor times, as set and by default.
const READ_BACK: [(i32, i32, i32, &str); 12] = [
    (SOL_SOCKET, libc::SO_KEEPALIVE, 1, "SO_KEEPALIVE"),
    (SOL_SOCKET, libc::SO_OOBINLINE, 1, "SO_OOBINLINE"),
    (SOL_SOCKET, libc::SO_PRIORITY, 3, "SO_PRIORITY"),
    (SOL_SOCKET, libc::SO_RCVBUF, 50_000, "SO_RCVBUF"),
    (SOL_SOCKET, libc::SO_SNDBUF, 60_000, "SO_SNDBUF"),
    (SOL_SOCKET, libc::SO_REUSEADDR, 1, "SO_REUSEADDR"),
    (IPPROTO_TCP, libc::TCP_NODELAY, 1, "TCP_NODELAY"),
    (IPPROTO_TCP, libc::TCP_KEEPIDLE, 77, "TCP_KEEPIDLE"),
    (IPPROTO_TCP, libc::TCP_KEEPCNT, 5, "TCP_KEEPCNT"),
    (IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 12_345, "TCP_USER_TIMEOUT"),
    (IPPROTO_TCP, libc::TCP_LINGER2, 9, "TCP_LINGER2"),
    (IPPROTO_TCP, libc::TCP_SYNCNT, 4, "TCP_SYNCNT"),
];

fn set_and_get(socket: Socket) {
    for (level, name, value, words) in READ_BACK {
        // Buffers grow with traffic.
        if !words.ends_with("BUF") {
            get(socket, level, name, words);
        }
        set(socket, level, name, value, words);
        get(socket, level, name, words);
    }
    get(socket, SOL_SOCKET, libc::SO_RCVLOWAT, "SO_RCVLOWAT");
    get(socket, SOL_SOCKET, libc::SO_ERROR, "SO_ERROR");
    get(socket, IPPROTO_TCP, libc::TCP_ULP, "TCP_ULP");
}

fn read_back(stage: &Stage) {
    both_ways(stage, |one, other| {
        set_and_get(one);
        let _ = one.send(1000);
        let _ = other.recv(2000);
        let _ = other.send(1000);
        let _ = one.recv(2000);
        for (level, name, _, words) in READ_BACK {
            get(one, level, name, words);
        }
    });
}

fn read_back_fresh(stage: &Stage) {
    let pair = stage.fresh();
    set_and_get(pair.client);
    set_and_get(pair.server);
}

fn bulk(one: Socket, other: Socket, length: usize) {
    let reader = background(move || other.recv_all(length));
    one.send_all(length);
    reader.join();
    let _ = other.send(100);
    let _ = one.recv(200);
}

fn late_buffers(stage: &Stage) {
    both_ways(stage, |one, other| {
        set(one, SOL_SOCKET, libc::SO_SNDBUF, 300_000, "SO_SNDBUF");
        set(other, SOL_SOCKET, libc::SO_RCVBUF, 300_000, "SO_RCVBUF");
        bulk(one, other, 3_000_000);
    });
}

/// Shrinks the buffers to their minimum with more unread than fits: the unread data stays.
fn late_small_buffers(stage: &Stage) {
    both_ways(stage, |one, other| {
        for _ in 0..10 {
            one.send_quietly(2000);
        }
        other.wait_unread(20_000);
        set(one, SOL_SOCKET, libc::SO_SNDBUF, 1, "SO_SNDBUF");
        set(other, SOL_SOCKET, libc::SO_RCVBUF, 1, "SO_RCVBUF");
        other.fionread();
        other.recv_all(20_000);
        bulk(one, other, 50_000);
    });
}

/// close waits, up to the timeout, until the peer has everything; there is no need to wait here.
fn linger(stage: &Stage) {
    both_ways(stage, |one, other| {
        let outcome = sys::set_linger(one.fd(), 3);
        let _ = one.logged("SO_LINGER 3", outcome);
        let _ = one.send(10_000);
        one.close();
        other.recv_to_end();
    });
}

/// Keepalive probes of an idle connection disturb nothing.
fn keepalive(stage: &Stage) {
    let pair = stage.warm();
    for end in [pair.client, pair.server] {
        set(end, SOL_SOCKET, libc::SO_KEEPALIVE, 1, "SO_KEEPALIVE");
        set(end, IPPROTO_TCP, libc::TCP_KEEPIDLE, 1, "TCP_KEEPIDLE");
        set(end, IPPROTO_TCP, libc::TCP_KEEPINTVL, 1, "TCP_KEEPINTVL");
    }
    let _ = pair.client.send(100);
    // The probes come after a second, while data is unread.
    pause(1300);
    let _ = pair.server.recv(200);
    let _ = pair.server.send(100);
    let _ = pair.client.recv(200);
    pair.client.poll(POLLIN | POLLOUT | POLLRDHUP);
}

/// Data received but not read is no reason to give up.
fn user_timeout(stage: &Stage) {
    both_ways(stage, |one, other| {
        set(one, IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 100, "TCP_USER_TIMEOUT");
        let _ = one.send(1000);
        pause(300);
        one.poll(POLLIN | POLLOUT | POLLRDHUP);
        let _ = other.recv(2000);
        let _ = other.send(100);
        let _ = one.recv(200);
    });
}

fn quickack_nodelay(stage: &Stage) {
    both_ways(stage, |one, other| {
        for value in [1, 0] {
            set(one, IPPROTO_TCP, libc::TCP_NODELAY, value, "TCP_NODELAY");
            set(other, IPPROTO_TCP, libc::TCP_QUICKACK, value, "TCP_QUICKACK");
            for _ in 0..5 {
                one.send_quietly(10);
            }
            other.recv_all(50);
            let _ = other.send(100);
            let _ = one.recv(200);
        }
    });
}

/// Writable means that little is unsent.
fn notsent_lowat(stage: &Stage) {
    both_ways(stage, |one, other| {
        set(
            one,
            IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            16_384,
            "TCP_NOTSENT_LOWAT",
        );
        bulk(one, other, 1_000_000);
        one.poll(POLLOUT);
    });
}

/// Large messages to a reader that starts late, then small ones: options that the program has not set keep their values.
fn after_bulk(stage: &Stage) {
    const MESSAGE: usize = 65_536;
    const MESSAGES: usize = 200;
    const SMALL: usize = 300;
    both_ways(stage, |one, other| {
        let reader = background(move || {
            pause(50);
            other.recv_quietly(MESSAGES * MESSAGE);
        });
        for _ in 0..MESSAGES {
            let message = |left| sys::send(one.fd(), &one.next(left), 0);
            if let Err(error) = all(one, MESSAGE, message) {
                one.log(format!("send = {error}"));
            }
        }
        reader.join();
        for _ in 0..SMALL {
            one.send_quietly(100);
            other.recv_quietly(100);
        }
        // An end leaves when it acknowledges, which a receiver delays.
        pause(60);
        for (from, to) in [(other, one), (one, other)] {
            from.send_quietly(100);
            to.recv_quietly(100);
        }
        pause(60);
        get(one, IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, "TCP_NOTSENT_LOWAT");
    });
}

fn set_ulp(socket: Socket) {
    let outcome = sys::set_option(socket.fd(), IPPROTO_TCP, libc::TCP_ULP, *b"tls");
    let _ = socket.logged("TCP_ULP tls", outcome);
}

/// On its own it changes nothing that is sent; the kernel may lack it.
fn ulp_early(stage: &Stage) {
    let pair = prepared(stage, set_ulp);
    let _ = pair.client.send(100);
    let _ = pair.server.recv(200);
}

fn ulp_late(stage: &Stage) {
    both_ways(stage, |one, other| {
        set_ulp(one);
        for _ in 0..10 {
            one.send_quietly(1000);
            other.recv_quietly(1000);
            other.send_quietly(1000);
            one.recv_quietly(1000);
        }
        let _ = one.send(100);
        let _ = other.recv(200);
    });
}

/// A checkpoint tool reads the queues in repair mode, and the connection continues.
fn repair_late(stage: &Stage) {
    const RECEIVE_QUEUE: i32 = 1;
    const SEND_QUEUE: i32 = 2;
    both_ways(stage, |one, other| {
        let _ = other.send(300);
        one.wait_unread(300);
        set(one, IPPROTO_TCP, libc::TCP_REPAIR, 1, "TCP_REPAIR");
        for (queue, words) in [(RECEIVE_QUEUE, "receive"), (SEND_QUEUE, "send")] {
            set(
                one,
                IPPROTO_TCP,
                libc::TCP_REPAIR_QUEUE,
                queue,
                "TCP_REPAIR_QUEUE",
            );
            let mut bytes = [0; 1000];
            let outcome = sys::recv(one.fd(), &mut bytes, MSG_PEEK | MSG_DONTWAIT);
            let verdict = if queue == RECEIVE_QUEUE {
                one.compare(&bytes[..outcome.unwrap_or(0)])
            } else {
                String::new()
            };
            one.log(format!("the {words} queue has {}{verdict}", text(outcome)));
        }
        set(one, IPPROTO_TCP, libc::TCP_REPAIR, -1, "TCP_REPAIR");
        let _ = one.recv(1000);
        let _ = one.send(100);
        let _ = other.recv(200);
        let _ = other.send(100);
        let _ = one.recv(200);
    });
}

/// Signed segments.
fn md5(stage: &Stage) {
    let listener = stage.listener();
    let client = stage.socket();
    for socket in [listener, client] {
        let outcome = sys::sign(socket.fd(), stage.family, b"a key");
        let _ = socket.logged("TCP_MD5SIG", outcome);
    }
    let pair = stage.join(client, listener);
    for _ in 0..20 {
        pair.client.send_quietly(64);
        pair.server.recv_quietly(64);
        pair.server.send_quietly(64);
        pair.client.recv_quietly(64);
    }
    let _ = pair.client.send(100);
    let _ = pair.server.recv(200);
}
