//! Closing a connection: right after sending, with unread data, while the peer sends or waits.

use libc::{MSG_DONTWAIT, POLLIN, POLLOUT, POLLRDHUP, SIGPIPE};
use workloads::sys;

use crate::halfclose::{LARGE, both_ways, count_sigpipe, log_sigpipe};
use crate::stage::{Mode, Scenario, Stage, background, pause, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("close-after-send", close_after_send),
    scenario("close-after-large-send", close_after_large_send),
    scenario("close-unread", close_unread),
    scenario("close-unread-half-read", close_half_read),
    scenario("close-unread-then-send", close_unread_then_send),
    scenario("close-unread-after-answer", close_unread_after_answer),
    scenario("close-unread-large", close_unread_large),
    scenario("close-unread-first-message", close_unread_first).cold(),
    scenario("close-then-send-twice", close_then_send),
    scenario("close-while-sending", close_while_sending),
    scenario("close-reader-waits", close_while_reading),
    scenario("close-lingering", lingering),
    scenario("close-unread-signal", close_unread_signal).only(Mode::Blocking),
];

fn close_after_send(stage: &Stage) {
    both_ways(stage, |one, other| {
        for length in [100, 1, 10_000] {
            let _ = one.send(length);
        }
        one.close();
        pause(20);
        let _ = other.recv(50);
        other.recv_to_end();
        other.poll(POLLIN | POLLOUT | POLLRDHUP);
        other.so_error();
    });
}

/// What does not fit into the peer's buffer is sent after the close.
fn close_after_large_send(stage: &Stage) {
    both_ways(stage, |one, other| {
        one.send_all(1 << 20);
        one.close();
        pause(50);
        other.recv_to_end();
        other.close();
    });
}

/// A close discards what the peer has sent, and the peer gets an error.
fn close_unread(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = other.send(100);
        one.wait_unread(100);
        one.close();
        other.wait(POLLRDHUP);
        other.poll(POLLIN | POLLOUT | POLLRDHUP);
        let _ = other.recv(100);
        other.so_error();
        let _ = other.recv(100);
    });
}

fn close_half_read(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = other.send(100);
        let _ = one.recv(40);
        one.close();
        other.wait(POLLRDHUP);
        let _ = other.recv(100);
        let _ = other.recv(100);
    });
}

fn close_unread_then_send(stage: &Stage) {
    count_sigpipe();
    both_ways(stage, |one, other| {
        let _ = other.send(100);
        one.wait_unread(100);
        one.close();
        other.wait(POLLRDHUP);
        for _ in 0..3 {
            let _ = other.send(100);
            log_sigpipe();
        }
        let _ = other.recv(100);
    });
}

/// The peer still has an answer unread when it gets the error.
fn close_unread_after_answer(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = other.send(100);
        one.wait_unread(100);
        let _ = one.send(100);
        one.close();
        other.wait(POLLRDHUP);
        let _ = other.recv(60);
        let _ = other.recv(60);
        let _ = other.recv(60);
        let _ = other.recv(60);
    });
}

fn close_unread_large(stage: &Stage) {
    both_ways(stage, |one, other| {
        other.send_all(LARGE);
        one.wait(POLLIN);
        pause(20);
        one.close();
        other.wait(POLLRDHUP);
        let _ = other.recv(100);
        let _ = other.recv(100);
    });
}

/// A connection closed with its first message unread.
fn close_unread_first(stage: &Stage) {
    let pair = stage.fresh();
    let _ = pair.client.send(100);
    pair.server.wait(POLLIN);
    pair.server.close();
    pair.client.wait(POLLRDHUP);
    let _ = pair.client.recv(100);
    let _ = pair.client.recv(100);
}

/// The first message to a closed socket is answered with a reset.
fn close_then_send(stage: &Stage) {
    count_sigpipe();
    both_ways(stage, |one, other| {
        one.close();
        other.wait(POLLRDHUP);
        let _ = other.recv(100);
        for _ in 0..3 {
            let _ = other.send(100);
            pause(10);
            log_sigpipe();
        }
        other.poll(POLLIN | POLLOUT | POLLRDHUP);
        other.so_error();
        let _ = other.recv(100);
    });
}

/// A writer has waited for room, beyond the first TCP timers, when its peer closes.
fn close_while_sending(stage: &Stage) {
    count_sigpipe();
    let pair = stage.warm();
    let writer = background(move || pair.client.send_until_error(1 << 20));
    pause(500);
    pair.server.close();
    let _ = writer.join_soon();
    log_sigpipe();
    let _ = pair.client.send_with(100, MSG_DONTWAIT, "now");
    log_sigpipe();
    let _ = pair.client.recv(100);
}

fn close_while_reading(stage: &Stage) {
    both_ways(stage, |one, other| {
        let reader = background(move || {
            let _ = other.recv(100);
            let _ = other.recv(100);
            let _ = other.recv(100);
        });
        let _ = one.send(150);
        one.close();
        reader.join();
    });
}

/// SO_LINGER with a timeout: close waits until the data is sent, which is soon if someone reads.
fn lingering(stage: &Stage) {
    both_ways(stage, |one, other| {
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 2,
        };
        let _ = one.logged(
            "SO_LINGER 2 s",
            sys::set_option(one.fd(), libc::SOL_SOCKET, libc::SO_LINGER, linger),
        );
        let _ = one.send(10_000);
        one.close();
        other.recv_to_end();
        other.close();
    });
}

/// SIGPIPE kills a program that does not handle it.
fn close_unread_signal(stage: &Stage) {
    sys::default_action(SIGPIPE).expect("failed to set the action");
    let pair = stage.warm();
    let _ = pair.client.send(100);
    pair.server.wait_unread(100);
    pair.server.close();
    pair.client.wait(POLLRDHUP);
    for _ in 0..3 {
        let _ = pair.client.send(100);
    }
}
