//! One direction ends: answers before, during and long after; the effect of shutdown on either end.

use libc::{MSG_NOSIGNAL, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, SHUT_RD, SHUT_RDWR, SHUT_WR, SIGPIPE};
use workloads::sys;

use crate::socket::Socket;
use crate::stage::{Scenario, Stage, background, log, pause, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("halfclose-answer-before", answer_before),
    scenario("halfclose-answer-during", answer_during),
    scenario("halfclose-answer-after", answer_after),
    scenario("halfclose-answer-long-after", answer_long_after),
    scenario("halfclose-conversation-of-one", many_answers),
    scenario("halfclose-request-unread", request_unread),
    scenario("halfclose-reader-waits-when-it-shuts", shuts_while_reading),
    scenario("halfclose-both-at-once", both_at_once),
    scenario("halfclose-first-message", first_message).cold(),
    scenario("shutdown-then-send", then_send),
    scenario("shutdown-twice", twice),
    scenario("shutdown-read", read),
    scenario("shutdown-read-unread", read_unread),
    scenario("shutdown-both", both),
    scenario("shutdown-while-reading", while_reading),
];

pub const LARGE: usize = 100_000;

/// Runs once for each end, on separate connections. Both are warmed up first: what a program does on one connection may
/// keep its later ones on TCP.
pub fn both_ways(stage: &Stage, work: impl Fn(Socket, Socket)) {
    let [first, second] = [stage.warm(), stage.warm()];
    log("-- the client");
    work(first.client, first.server);
    log("-- the server");
    work(second.server, second.client);
}

/// Counts SIGPIPE, whose default action would kill a program without std's default.
pub fn count_sigpipe() {
    sys::count_signal(SIGPIPE, 0).expect("failed to set a handler");
}

pub fn log_sigpipe() {
    log(format!("SIGPIPE {} times", sys::signals_caught()));
}

fn answer_before(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send(100);
        let _ = other.recv(100);
        let _ = other.send(LARGE);
        one.shutdown(SHUT_WR);
        let _ = other.recv(100);
        one.recv_all(LARGE);
        other.close();
        let _ = one.recv(100);
    });
}

/// An answer longer than the buffers: its sender is waiting when the direction of the requests ends.
fn answer_during(stage: &Stage) {
    const LENGTH: usize = 12 << 20;
    both_ways(stage, |one, other| {
        let _ = one.send(100);
        let answerer = background(move || {
            let _ = other.recv(100);
            other.send_all(LENGTH);
            let _ = other.recv(100);
            other.close();
        });
        one.shutdown(SHUT_WR);
        pause(20);
        one.recv_to_end();
        answerer.join();
    });
}

fn answer_after(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send(100);
        one.shutdown(SHUT_WR);
        let _ = other.recv(200);
        let _ = other.recv(200);
        let _ = other.send(100);
        let _ = one.recv(200);
        other.send_all(LARGE);
        other.shutdown(SHUT_WR);
        one.recv_to_end();
    });
}

/// The connection has been idle until all timers have expired.
fn answer_long_after(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send(100);
        one.shutdown(SHUT_WR);
        other.recv_to_end();
        pause(300);
        other.send_all(LARGE);
        pause(300);
        let _ = other.send(10);
        other.close();
        one.recv_to_end();
    });
}

/// One end sends a hundred more messages, and the peer reads each.
fn many_answers(stage: &Stage) {
    both_ways(stage, |one, other| {
        one.shutdown(SHUT_WR);
        for _ in 0..100 {
            other.send_quietly(100);
            one.recv_quietly(100);
        }
        let _ = other.recv(10);
        other.close();
        one.recv_to_end();
    });
}

fn request_unread(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send(100);
        one.shutdown(SHUT_WR);
        other.wait(POLLRDHUP);
        let _ = other.send(100);
        let _ = one.recv(100);
        let _ = other.recv(60);
        let _ = other.send(100);
        let _ = one.recv(100);
        let _ = other.recv(60);
        let _ = other.recv(60);
    });
}

/// One thread waits for the answer while another ends the direction of the requests.
fn shuts_while_reading(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send(100);
        let reader = background(move || one.recv(100));
        one.shutdown(SHUT_WR);
        pause(20);
        let _ = other.recv(200);
        let _ = other.recv(200);
        let _ = other.send(100);
        let _ = reader.join();
        other.close();
        one.recv_to_end();
    });
}

fn both_at_once(stage: &Stage) {
    let pair = stage.warm();
    for end in [pair.client, pair.server] {
        let _ = end.send(100);
        end.shutdown(SHUT_WR);
    }
    for end in [pair.client, pair.server] {
        end.wait(POLLHUP);
        end.poll(POLLIN | POLLOUT | POLLRDHUP);
        let _ = end.recv(200);
        let _ = end.recv(200);
        end.close();
    }
}

/// The first message of a connection is also its last.
fn first_message(stage: &Stage) {
    let pair = stage.fresh();
    let _ = pair.client.send(100);
    pair.client.shutdown(SHUT_WR);
    pair.server.recv_to_end();
    pair.server.send_all(LARGE);
    pair.server.close();
    pair.client.recv_to_end();
}

fn then_send(stage: &Stage) {
    count_sigpipe();
    both_ways(stage, |one, other| {
        one.shutdown(SHUT_WR);
        let _ = one.send(100);
        log_sigpipe();
        let _ = one.send_with(100, MSG_NOSIGNAL, "NOSIGNAL");
        log_sigpipe();
        let _ = one.send_with(0, 0, "");
        log_sigpipe();
        one.so_error();
        let _ = other.recv(100);
        let _ = other.recv(100);
        other.poll(POLLIN | POLLOUT | POLLRDHUP);
        let _ = other.send(100);
        let _ = one.recv(100);
    });
}

fn twice(stage: &Stage) {
    both_ways(stage, |one, other| {
        one.shutdown(SHUT_WR);
        one.shutdown(SHUT_WR);
        other.shutdown(SHUT_WR);
        one.wait(POLLHUP);
        other.wait(POLLHUP);
        one.shutdown(SHUT_WR);
        other.shutdown(SHUT_RDWR);
        other.shutdown(SHUT_RD);
    });
}

/// After SHUT_RD an end can still read, and its peer does not notice.
fn read(stage: &Stage) {
    both_ways(stage, |one, other| {
        one.shutdown(SHUT_RD);
        one.poll(POLLIN | POLLOUT | POLLRDHUP);
        let _ = one.recv(100);
        other.poll(POLLIN | POLLOUT | POLLRDHUP);
        let _ = other.send(100);
        pause(20);
        one.poll(POLLIN | POLLOUT | POLLRDHUP);
        let _ = one.recv(60);
        let _ = one.recv(60);
        let _ = one.recv(60);
        let _ = one.send(100);
        let _ = other.recv(100);
        one.close();
        let _ = other.recv(100);
    });
}

fn read_unread(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = other.send(100);
        one.wait_unread(100);
        one.shutdown(SHUT_RD);
        let _ = one.recv(60);
        let _ = one.recv(60);
        let _ = one.recv(60);
    });
}

fn both(stage: &Stage) {
    count_sigpipe();
    both_ways(stage, |one, other| {
        let _ = other.send(100);
        one.wait_unread(100);
        one.shutdown(SHUT_RDWR);
        other.wait(POLLRDHUP);
        for end in [one, other] {
            end.poll(POLLIN | POLLOUT | POLLRDHUP);
        }
        let _ = one.recv(60);
        let _ = one.recv(60);
        let _ = one.recv(60);
        let _ = one.send(10);
        log_sigpipe();
        let _ = other.recv(60);
        other.close();
    });
}

/// What a reading thread sees when another thread shuts the socket down.
fn while_reading(stage: &Stage) {
    for how in [SHUT_RD, SHUT_WR, SHUT_RDWR] {
        both_ways(stage, |one, other| {
            let reader = background(move || one.recv(100));
            one.shutdown(how);
            if how == SHUT_WR {
                // The direction being read continues.
                pause(20);
                let _ = other.send(100);
            }
            let _ = reader.join();
            let _ = one.recv_now(100);
        });
    }
}
