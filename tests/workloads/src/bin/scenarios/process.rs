//! One socket in several processes: inherited by fork and exec, passed on, closed by one of them.

use std::fs;

use libc::{POLLIN, POLLOUT, POLLRDHUP, SHUT_WR, SIGKILL};
use workloads::sys::{self, text};

use crate::connect::answered_end;
use crate::halfclose::both_ways;
use crate::socket::Socket;
use crate::stage::{Scenario, Stage, eventually, log, pause, scenario};
use crate::vectors::all;

pub const SCENARIOS: &[Scenario] = &[
    scenario("process-both-use", both_use),
    scenario("process-both-use-bulk", both_use_bulk),
    scenario("process-child-serves", child_serves),
    scenario("process-child-serves-fresh", child_serves_fresh).cold(),
    scenario("process-close-in-one", close_in_one),
    scenario("process-shutdown-in-one", shutdown_in_one),
    scenario("process-last-holder-ends", last_holder_ends),
    scenario("process-last-holder-killed", last_holder_killed),
    scenario("process-duplicate", duplicate),
    scenario("process-hand-over", hand_over),
    scenario("process-hand-over-unread", hand_over_unread),
    scenario("process-hand-over-fresh", hand_over_fresh).cold(),
    scenario("process-hand-over-outside", hand_over_outside),
    scenario("process-on-the-way", on_the_way),
    scenario("process-exec", exec),
];

const EVENTS: i16 = POLLIN | POLLOUT | POLLRDHUP;

fn fork(work: impl FnOnce()) -> i32 {
    sys::fork(work).expect("failed to fork")
}

fn join(child: i32) {
    log(format!(
        "the child ends with {}",
        text(sys::wait_for_child(child))
    ));
}

/// Runs a closure in a child, and waits for its exit.
fn in_child(work: impl FnOnce()) {
    join(fork(work));
}

/// The same socket, with both of its streams counted from this point.
fn from_here(socket: Socket) -> Socket {
    Socket::new(socket.name, socket.fd(), socket.mode())
}

/// Parent and child send and receive in turn; the bytes follow the order of the calls.
fn both_use(stage: &Stage) {
    both_ways(stage, |one, other| {
        for _ in 0..2 {
            in_child(|| {
                let _ = one.send(100);
            });
            let _ = one.sent(Ok(100));
            let _ = one.send(50);
            other.recv_all(150);
            let _ = other.send(100);
            one.wait_unread(100);
            in_child(|| {
                let _ = one.recv(30);
            });
            one.received(30);
            let _ = one.recv(100);
        }
    });
}

/// The child writes while the parent reads, and so does the peer.
fn both_use_bulk(stage: &Stage) {
    const LENGTH: usize = 4 << 20;
    let pair = stage.warm();
    let write = |end: Socket| {
        let piece = |left: usize| sys::send(end.fd(), &end.next(left.min(1 << 17)), 0);
        all(end, LENGTH, piece).expect("failed to send");
    };
    let children = [
        fork(|| write(pair.client)),
        fork(|| write(pair.server)),
        fork(|| pair.server.recv_quietly(LENGTH)),
    ];
    pair.client.recv_all(LENGTH);
    children.into_iter().for_each(join);
    pair.server.received(LENGTH);
    let _ = pair.server.recv_now(1);
    let _ = pair.client.recv_now(1);
}

fn served_by_child(client: Socket, server: Socket) {
    let child = fork(|| {
        for _ in 0..20 {
            server.recv_quietly(64);
            server.send_quietly(64);
        }
    });
    for _ in 0..20 {
        client.send_quietly(64);
        client.recv_quietly(64);
    }
    join(child);
    // This process still holds the socket.
    client.poll(EVENTS);
    let _ = client.recv_now(1);
    server.close();
    let _ = client.recv(1);
}

fn child_serves(stage: &Stage) {
    let pair = stage.warm();
    served_by_child(pair.client, pair.server);
}

fn child_serves_fresh(stage: &Stage) {
    let pair = stage.fresh();
    served_by_child(pair.client, pair.server);
}

/// A socket closed by one of its two holders still works.
fn close_in_one(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = other.send(100);
        one.wait_unread(100);
        in_child(|| one.close());
        pause(10);
        other.poll(EVENTS);
        let _ = one.recv(200);
        let _ = one.send(100);
        let _ = other.recv(200);
        let _ = other.send(100);
        let _ = one.recv(200);
        one.close();
        let _ = other.recv(200);
    });
}

/// A connection shut down by one of its two holders is shut down for both.
fn shutdown_in_one(stage: &Stage) {
    both_ways(stage, |one, other| {
        in_child(|| one.shutdown(SHUT_WR));
        let _ = other.recv(200);
        let _ = one.send_with(100, libc::MSG_NOSIGNAL, "NOSIGNAL");
        let _ = other.send(100);
        let _ = one.recv(200);
    });
}

/// The child holds the only descriptor, and ends without closing it.
fn last_holder_ends(stage: &Stage) {
    both_ways(stage, |one, other| {
        let child = fork(|| {
            let _ = one.recv(100);
            let _ = one.send(100);
        });
        sys::close(one.fd()).expect("failed to close a socket");
        other.send_quietly(100);
        join(child);
        let _ = other.recv(200);
        let _ = other.recv(200);
    });
}

fn last_holder_killed(stage: &Stage) {
    both_ways(stage, |one, other| {
        let child = fork(|| {
            one.send_quietly(100);
            // Until it is killed.
            loop {
                pause(1000);
            }
        });
        sys::close(one.fd()).expect("failed to close a socket");
        other.wait_unread(100);
        other.poll(EVENTS);
        sys::kill(child, SIGKILL).expect("failed to kill the child");
        join(child);
        other.wait(POLLRDHUP);
        other.poll(EVENTS);
        let _ = other.recv(200);
        let _ = other.recv(200);
    });
}

/// A duplicated descriptor refers to the same socket.
fn duplicate(stage: &Stage) {
    both_ways(stage, |one, other| {
        let fd = sys::duplicate(one.fd()).expect("failed to duplicate a descriptor");
        let _ = other.send(100);
        one.wait_unread(100);
        one.close();
        let one = Socket::new(one.name, fd, one.mode());
        // The first descriptor counts the streams.
        let mut bytes = [0; 200];
        let _ = one.logged("recv 200", sys::recv(fd, &mut bytes, 0));
        let other = from_here(other);
        let _ = one.send(100);
        let _ = other.recv(200);
        let _ = other.send(100);
        let _ = one.recv(200);
        one.close();
        let _ = other.recv(200);
    });
}

/// A child forked before the connection exists, which receives one end over a Unix socket and serves it.
struct Heir {
    child: i32,
    over: i32,
}

/// Rounds answered by the heir.
const ROUNDS: usize = 20;

fn heir(stage: &Stage, begin: fn(), unread: usize) -> Heir {
    let [mine, its] = sys::unix_pair().expect("failed to make a pair of Unix sockets");
    let mode = stage.mode;
    let child = fork(|| {
        begin();
        let fd = sys::recv_descriptor(its).expect("failed to receive a descriptor");
        let server = Socket::new("server", fd, mode);
        if unread > 0 {
            server.recv_all(unread);
        }
        for _ in 0..ROUNDS {
            server.recv_quietly(64);
            server.send_quietly(64);
        }
        sys::close(fd).expect("failed to close a socket");
    });
    Heir { child, over: mine }
}

impl Heir {
    /// Passes the server's end on, closes it here, and talks to the heir.
    fn inherits(self, client: Socket, server: Socket) {
        sys::send_descriptor(self.over, server.fd()).expect("failed to send a descriptor");
        sys::close(server.fd()).expect("failed to close a socket");
        for _ in 0..ROUNDS {
            client.send_quietly(64);
            client.recv_quietly(64);
        }
        let _ = client.recv(1);
        join(self.child);
    }
}

fn hand_over(stage: &Stage) {
    let heir = heir(stage, || (), 0);
    let pair = stage.warm();
    heir.inherits(from_here(pair.client), pair.server);
}

fn hand_over_fresh(stage: &Stage) {
    let heir = heir(stage, || (), 0);
    let pair = stage.fresh();
    heir.inherits(pair.client, pair.server);
}

fn hand_over_unread(stage: &Stage) {
    let heir = heir(stage, || (), 3000);
    let pair = stage.warm();
    let client = from_here(pair.client);
    for _ in 0..3 {
        let _ = client.send(1000);
    }
    pair.server.wait_unread(3000);
    heir.inherits(client, pair.server);
}

/// The heir runs in another cgroup if the test provides one.
fn hand_over_outside(stage: &Stage) {
    fn leave() {
        if let Some(procs) = std::env::var_os("SCENARIOS_OUTSIDE") {
            fs::write(procs, "0").expect("failed to move into the other cgroup");
        }
    }
    let heir = heir(stage, leave, 0);
    let pair = stage.warm();
    heir.inherits(from_here(pair.client), pair.server);
}

/// Data and the end of the stream arrive while the descriptor is in flight between processes.
fn on_the_way(stage: &Stage) {
    let pair = stage.warm();
    let (client, server) = (pair.client, pair.server);
    let [from, to] = sys::unix_pair().expect("failed to make a pair of Unix sockets");
    sys::send_descriptor(from, server.fd()).expect("failed to send a descriptor");
    server.close();
    let client = from_here(client);
    let _ = client.send(100);
    let _ = client.send(100);
    client.shutdown(SHUT_WR);
    let fd = sys::recv_descriptor(to).expect("failed to receive a descriptor");
    let server = Socket::new("server", fd, stage.mode);
    answered_end(client, server);
}

/// A program that has the socket as its standard input and output.
fn exec(stage: &Stage) {
    both_ways(stage, |one, other| {
        let bytes = other.next(100);
        let _ = other.send(100);
        one.wait_unread(100);
        let child = fork(|| {
            sys::duplicate_as(one.fd(), 0).expect("failed to be the standard input");
            sys::duplicate_as(one.fd(), 1).expect("failed to be the standard output");
            let arguments = [c"sh", c"-c", c"exec head -c 100"];
            panic!("{}", sys::execute(c"/bin/sh", &arguments));
        });
        join(child);
        let _ = one.logged("close", sys::close(one.fd()));
        let mut answer = vec![0; 200];
        other.wait_if_nonblocking(POLLIN);
        let result = sys::recv(other.fd(), &mut answer, 0);
        answer.truncate(result.unwrap_or(0));
        let _ = other.logged("recv 200", result);
        log(format!("the same bytes: {}", answer == bytes));
        log(format!(
            "the end comes: {}",
            eventually(|| sys::recv(other.fd(), &mut [0], libc::MSG_DONTWAIT) == Ok(0))
        ));
    });
}
