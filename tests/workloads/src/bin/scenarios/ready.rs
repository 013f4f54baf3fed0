//! What select and poll report in every state of a connection, what wakes them, and what the ioctls count.

use libc::{POLLIN, POLLOUT, POLLPRI, POLLRDHUP, SHUT_RDWR, SHUT_WR};
use workloads::sys;

use crate::connect::with_early_bytes;
use crate::socket::Socket;
use crate::stage::{Pair, Scenario, Stage, background, eventually, log, pause, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("ready-poll-states", poll_states),
    scenario("ready-select-states", select_states),
    scenario("ready-poll-wakes", poll_wakes),
    scenario("ready-fionread", fionread),
    scenario("ready-fionread-before-first-read", fionread_first).cold(),
    scenario("ready-fionread-sent-before-accept", fionread_before_accept).cold(),
    scenario("ready-outq", outq),
];

fn polls(pair: Pair, when: &str) {
    log(format!("-- {when}"));
    for end in [pair.client, pair.server] {
        end.poll(POLLIN | POLLOUT | POLLPRI | POLLRDHUP);
    }
}

fn selects(pair: Pair, when: &str) {
    log(format!("-- {when}"));
    for end in [pair.client, pair.server] {
        let sets = sys::select(end.fd());
        end.log(match sets {
            Ok([read, write, except]) => format!("select: read {read}, write {write}, except {except}"),
            Err(error) => format!("select: {error}"),
        });
    }
}

/// Takes a connection through all of its states, from warm to reset.
fn states(stage: &Stage, look: fn(Pair, &str)) {
    let pair = stage.warm();
    look(pair, "idle");
    let _ = pair.client.send(100);
    pair.server.wait(POLLIN);
    look(pair, "a message is unread");
    let _ = pair.server.recv(50);
    look(pair, "half of it is read");
    let _ = pair.server.recv(100);
    look(pair, "all of it is read");
    let _ = pair.server.send(100);
    pair.client.shutdown(SHUT_WR);
    pair.server.wait(POLLRDHUP);
    pair.client.wait(POLLIN);
    look(pair, "the client has shut down, an answer is unread");
    let _ = pair.server.recv(10);
    let _ = pair.client.recv(100);
    look(pair, "all is read");
    pair.server.shutdown(SHUT_WR);
    pair.client.wait(POLLRDHUP);
    look(pair, "both have shut down");
    let pair = stage.warm();
    let _ = pair.server.send(100);
    pair.client.wait(POLLIN);
    pair.server.reset();
    pair.client.wait(libc::POLLERR);
    look(pair, "reset with a message unread");
    let _ = pair.client.recv(100);
    let _ = pair.client.recv(100);
    look(pair, "reset and read");
    let _ = pair.client.recv(100);
    look(pair, "reset and read to the end");
}

fn poll_states(stage: &Stage) {
    states(stage, polls);
}

fn select_states(stage: &Stage) {
    // select fails outright on a closed descriptor; the client covers these states.
    states(stage, selects);
}

/// Everything that wakes a waiting thread: a message, the end of the stream, a reset.
pub fn each_wake(stage: &Stage, wait: fn(Socket)) {
    for what in ["message", "end", "own shutdown", "reset"] {
        log(format!("-- {what}"));
        let pair = stage.warm();
        let server = pair.server;
        let waiter = background(move || wait(server));
        match what {
            "message" => drop(pair.client.send(100)),
            "end" => pair.client.shutdown(SHUT_WR),
            "own shutdown" => server.shutdown(SHUT_RDWR),
            _ => pair.client.reset(),
        }
        waiter.join();
        let _ = server.recv(100);
    }
}

fn poll_wakes(stage: &Stage) {
    each_wake(stage, |server| {
        let _ = sys::poll(server.fd(), POLLIN | POLLRDHUP, -1);
        // A thread that wakes early enough sees less than one that looks later.
        pause(20);
        server.poll(POLLIN | POLLRDHUP);
    });
}

fn fionread(stage: &Stage) {
    let pair = stage.warm();
    pair.server.fionread();
    for _ in 0..3 {
        let _ = pair.client.send(100);
    }
    eventually(|| sys::ioctl(pair.server.fd(), libc::FIONREAD) == Ok(300));
    pair.server.fionread();
    let _ = pair.server.recv(150);
    pair.server.fionread();
    let _ = pair.server.recv_with(100, libc::MSG_PEEK, "PEEK");
    pair.server.fionread();
    let _ = pair.server.recv(100);
    pair.client.shutdown(SHUT_WR);
    pair.server.wait(POLLRDHUP);
    pair.server.fionread();
    let _ = pair.server.recv(100);
    pair.server.fionread();
    let _ = pair.server.recv(100);
    pair.server.fionread();
}

fn fionread_first(stage: &Stage) {
    let pair = stage.fresh();
    let _ = pair.client.send(100);
    pair.server.wait(POLLIN);
    pause(5);
    pair.server.fionread();
    let _ = pair.server.recv(60);
    pair.server.fionread();
}

fn fionread_before_accept(stage: &Stage) {
    let (client, server) = with_early_bytes(stage);
    server.fionread();
    let _ = client.send(100);
    pause(20);
    server.fionread();
    let _ = server.recv(60);
    server.fionread();
}

/// The bytes not yet acknowledged, which must drop to 0 once everything is received.
fn outq(stage: &Stage) {
    let pair = stage.warm();
    let _ = pair.client.send(100);
    let _ = pair.server.recv(100);
    let settled = eventually(|| sys::ioctl(pair.client.fd(), libc::TIOCOUTQ) == Ok(0));
    log(format!("SIOCOUTQ becomes 0: {settled}"));
    let _ = pair.client.send(100);
    let settled = eventually(|| sys::ioctl(pair.client.fd(), libc::TIOCOUTQ) == Ok(0));
    log(format!("SIOCOUTQ becomes 0 with the message unread: {settled}"));
}
