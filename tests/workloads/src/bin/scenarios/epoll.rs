//! What epoll reports for everything that can arrive, in every order and every notification mode.

use std::os::fd::RawFd;

use libc::{EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, POLLIN, POLLRDHUP, SHUT_WR};
use workloads::sys;

use crate::ready::each_wake;
use crate::socket::{Socket, events_text};
use crate::stage::{Pair, Scenario, Stage, log, pause, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("epoll-wakes", epoll_wakes),
    scenario("epoll-data-then-add", data_then_add),
    scenario("epoll-add-then-data", add_then_data),
    scenario("epoll-data-then-end", data_then_end),
    scenario("epoll-data-and-end-at-once", data_and_end),
    scenario("epoll-end-then-add", end_then_add),
    scenario("epoll-two-messages-two-edges", two_edges),
    scenario("epoll-two-messages-one-edge", one_edge),
    scenario("epoll-short-read-then-more", short_read_then_more),
    scenario("epoll-short-read-without-more", short_read),
    scenario("epoll-add-again", add_again),
    scenario("epoll-both-shut", both_shut),
    scenario("epoll-reset-unread", reset_unread),
    scenario("epoll-reset-then-add", reset_then_add),
    scenario("epoll-output-edge", output_edge),
    scenario("epoll-exclusive-pair", exclusive_pair),
    scenario("epoll-of-epoll", nested),
    scenario("epoll-before-first-message", before_first_message).cold(),
];

const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;
const RDHUP: u32 = libc::EPOLLRDHUP as u32;
const EDGE: u32 = libc::EPOLLET as u32;
const ONE_SHOT: u32 = libc::EPOLLONESHOT as u32;
const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;

/// An epoll instance whose every call writes a line.
#[derive(Clone, Copy)]
struct Epoll(RawFd);

impl Epoll {
    fn new() -> Self {
        Self(sys::epoll_create().expect("failed to make an epoll instance"))
    }

    fn with(socket: Socket, events: u32) -> Self {
        let epoll = Self::new();
        epoll.control(EPOLL_CTL_ADD, socket, events);
        epoll
    }

    fn control(self, operation: i32, socket: Socket, events: u32) {
        if let Err(error) = sys::epoll_control(self.0, operation, socket.fd(), events) {
            log(format!("epoll_ctl = {error}"));
        }
    }

    /// Logs the pending events without waiting, so anything expected must have arrived.
    fn look(self) {
        self.wait(0);
    }

    fn wait(self, milliseconds: i32) {
        log(match sys::epoll_wait(self.0, milliseconds) {
            Ok(Some(events)) => format!("epoll = {}", events_text(events)),
            Ok(None) => "epoll = nothing".into(),
            Err(error) => format!("epoll = {error}"),
        });
    }

    /// Logs the pending events, and if they are still pending when asked again.
    fn look_twice(self) {
        self.look();
        self.look();
    }
}

/// Every notification mode, each on a connection of its own.
fn each_kind(stage: &Stage, work: impl Fn(Pair, u32)) {
    let kinds = [
        ("level", 0),
        ("edge", EDGE),
        ("one-shot", ONE_SHOT),
        ("edge one-shot", EDGE | ONE_SHOT),
    ];
    for (name, flags) in kinds {
        log(format!("-- {name}"));
        work(stage.warm(), IN | OUT | RDHUP | flags);
    }
    for (name, flags) in [("exclusive", EXCLUSIVE), ("exclusive edge", EXCLUSIVE | EDGE)] {
        log(format!("-- {name}"));
        // The kernel rejects RDHUP together with EXCLUSIVE.
        work(stage.warm(), IN | OUT | flags);
    }
}

fn epoll_wakes(stage: &Stage) {
    each_wake(stage, |server| {
        let epoll = Epoll::with(server, IN | RDHUP | EDGE);
        if let Ok(Some(events)) = sys::epoll_wait(epoll.0, -1) {
            log(if events & IN != 0 {
                "woken with IN"
            } else {
                "woken without IN"
            });
        }
    });
}

fn data_then_add(stage: &Stage) {
    each_kind(stage, |pair, events| {
        let _ = pair.client.send(100);
        pair.server.wait(POLLIN);
        let epoll = Epoll::with(pair.server, events);
        epoll.look_twice();
        let _ = pair.server.recv(100);
        epoll.look_twice();
    });
}

fn add_then_data(stage: &Stage) {
    each_kind(stage, |pair, events| {
        let epoll = Epoll::with(pair.server, events);
        epoll.look_twice();
        let _ = pair.client.send(100);
        pair.server.wait(POLLIN);
        epoll.look_twice();
        let _ = pair.server.recv(100);
        epoll.look_twice();
        let _ = pair.client.send(100);
        pair.server.wait(POLLIN);
        epoll.look_twice();
    });
}

fn data_then_end(stage: &Stage) {
    each_kind(stage, |pair, events| {
        let epoll = Epoll::with(pair.server, events);
        epoll.look();
        let _ = pair.client.send(100);
        pair.server.wait(POLLIN);
        epoll.look_twice();
        pair.client.shutdown(SHUT_WR);
        pair.server.wait(POLLRDHUP);
        epoll.look_twice();
        let _ = pair.server.recv(100);
        epoll.look_twice();
        let _ = pair.server.recv(100);
        epoll.look_twice();
    });
}

fn data_and_end(stage: &Stage) {
    each_kind(stage, |pair, events| {
        let epoll = Epoll::with(pair.server, events);
        epoll.look();
        let _ = pair.client.send(100);
        pair.client.close();
        pair.server.wait(POLLRDHUP);
        pair.server.wait(POLLIN);
        epoll.look_twice();
        let _ = pair.server.recv(50);
        epoll.look_twice();
        let _ = pair.server.recv(100);
        let _ = pair.server.recv(100);
        epoll.look_twice();
    });
}

fn end_then_add(stage: &Stage) {
    each_kind(stage, |pair, events| {
        let _ = pair.client.send(100);
        pair.client.shutdown(SHUT_WR);
        pair.server.wait(POLLRDHUP);
        pair.server.wait(POLLIN);
        let epoll = Epoll::with(pair.server, events);
        epoll.look_twice();
        let _ = pair.server.recv(100);
        epoll.look_twice();
    });
}

/// Two messages without a read in between.
fn two_edges(stage: &Stage) {
    each_kind(stage, |pair, events| {
        let epoll = Epoll::with(pair.server, events);
        epoll.look();
        for (length, unread) in [(100, 100), (200, 300)] {
            let _ = pair.client.send(length);
            pair.server.wait_unread(unread);
            epoll.look_twice();
        }
        let _ = pair.server.recv(1000);
        epoll.look();
    });
}

fn one_edge(stage: &Stage) {
    each_kind(stage, |pair, events| {
        let epoll = Epoll::with(pair.server, events);
        epoll.look();
        for length in [100, 200] {
            let _ = pair.client.send(length);
        }
        pair.server.wait_unread(300);
        epoll.look_twice();
        let _ = pair.server.recv(100);
        epoll.look_twice();
        let _ = pair.server.recv(1000);
        epoll.look();
    });
}

fn short_read_then_more(stage: &Stage) {
    each_kind(stage, |pair, events| {
        let epoll = Epoll::with(pair.server, events);
        let _ = pair.client.send(100);
        pair.server.wait(POLLIN);
        epoll.look();
        let _ = pair.server.recv(1000);
        epoll.look();
        let _ = pair.client.send(100);
        pair.server.wait(POLLIN);
        epoll.look_twice();
        let _ = pair.server.recv(60);
        epoll.look();
        let _ = pair.client.send(100);
        pair.server.wait_unread(140);
        epoll.look_twice();
        let _ = pair.server.recv(1000);
        epoll.look();
    });
}

/// The rest of a partly read message is not reported again.
fn short_read(stage: &Stage) {
    each_kind(stage, |pair, events| {
        let epoll = Epoll::with(pair.server, events);
        let _ = pair.client.send(100);
        pair.server.wait(POLLIN);
        epoll.look();
        let _ = pair.server.recv(40);
        epoll.look();
        pause(20);
        epoll.look();
    });
}

/// Adding or rearming a socket reports what is already there.
fn add_again(stage: &Stage) {
    each_kind(stage, |pair, events| {
        let epoll = Epoll::with(pair.server, events);
        let _ = pair.client.send(100);
        pair.server.wait(POLLIN);
        epoll.look();
        // Rejected together with EXCLUSIVE.
        epoll.control(EPOLL_CTL_MOD, pair.server, events);
        epoll.look_twice();
        epoll.control(EPOLL_CTL_DEL, pair.server, 0);
        epoll.look();
        epoll.control(EPOLL_CTL_ADD, pair.server, events);
        epoll.look_twice();
        let _ = pair.server.recv(100);
        epoll.look();
    });
}

fn both_shut(stage: &Stage) {
    each_kind(stage, |pair, events| {
        let epoll = Epoll::with(pair.server, events);
        epoll.look();
        pair.server.shutdown(SHUT_WR);
        pair.client.wait(POLLRDHUP);
        epoll.look_twice();
        pair.client.shutdown(SHUT_WR);
        pair.server.wait(libc::POLLHUP);
        epoll.look_twice();
        let _ = pair.server.recv(100);
        epoll.look_twice();
    });
}

fn reset_unread(stage: &Stage) {
    each_kind(stage, |pair, events| {
        let epoll = Epoll::with(pair.server, events);
        let _ = pair.client.send(100);
        pair.server.wait(POLLIN);
        epoll.look();
        pair.client.reset();
        pair.server.wait(libc::POLLERR);
        epoll.look_twice();
        let _ = pair.server.recv(100);
        epoll.look();
        let _ = pair.server.recv(100);
        epoll.look();
        let _ = pair.server.recv(100);
        epoll.look();
    });
}

fn reset_then_add(stage: &Stage) {
    each_kind(stage, |pair, events| {
        pair.client.reset();
        pair.server.wait(libc::POLLERR);
        let epoll = Epoll::with(pair.server, events);
        epoll.look_twice();
        pair.server.so_error();
        epoll.look_twice();
    });
}

/// An edge-triggered sender learns once that it may send, and its own sends are no edges.
fn output_edge(stage: &Stage) {
    let pair = stage.warm();
    let epoll = Epoll::with(pair.client, OUT | EDGE);
    epoll.look_twice();
    let _ = pair.client.send(100);
    epoll.look();
    let _ = pair.server.recv(100);
    pause(60);
    epoll.look();
    let _ = pair.server.send(100);
    pair.client.wait(POLLIN);
    epoll.look();
}

/// Two instances share one socket.
fn exclusive_pair(stage: &Stage) {
    let pair = stage.warm();
    let epolls = [EXCLUSIVE, EXCLUSIVE].map(|flags| Epoll::with(pair.server, IN | flags));
    let _ = pair.client.send(100);
    pair.server.wait(POLLIN);
    epolls.iter().for_each(|epoll| epoll.look_twice());
    let _ = pair.server.recv(100);
    epolls.iter().for_each(|epoll| epoll.look());
}

/// A nested instance, for which each message is an edge.
fn nested(stage: &Stage) {
    let pair = stage.warm();
    let inner = Epoll::with(pair.server, IN);
    let outer = Epoll::new();
    if let Err(error) = sys::epoll_control(outer.0, EPOLL_CTL_ADD, inner.0, IN | EDGE) {
        log(format!("epoll_ctl = {error}"));
    }
    for _ in 0..2 {
        outer.look();
        let _ = pair.client.send(100);
        pair.server.wait(POLLIN);
        outer.look_twice();
        inner.look();
        let _ = pair.server.recv(100);
        inner.look();
    }
}

/// Edges of a connection's first messages, in both directions.
fn before_first_message(stage: &Stage) {
    for flags in [0, EDGE] {
        let pair = stage.fresh();
        for (from, to) in [(pair.client, pair.server), (pair.server, pair.client)] {
            let epoll = Epoll::with(to, IN | OUT | RDHUP | flags);
            epoll.look_twice();
            let _ = from.send(100);
            to.wait(POLLIN);
            epoll.look_twice();
            let _ = to.recv(40);
            let _ = from.send(100);
            to.wait(POLLIN);
            pause(5);
            epoll.look_twice();
            let _ = to.recv(1000);
            epoll.look();
        }
    }
}
