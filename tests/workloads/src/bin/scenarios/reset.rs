//! Resets at every moment: while the peer reads, writes, waits, or has unread data; and refused connections.

use libc::{MSG_NOSIGNAL, MSG_PEEK, POLLERR, POLLIN, POLLOUT, POLLRDHUP, SHUT_RD, SHUT_WR};
use workloads::sys;

use crate::halfclose::{both_ways, count_sigpipe, log_sigpipe};
use crate::socket::Socket;
use crate::stage::{Scenario, Stage, background, log, pause, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("reset-while-reading", while_reading),
    scenario("reset-while-writing", while_writing),
    scenario("reset-while-polling", while_polling),
    scenario("reset-unread", unread),
    scenario("reset-unread-large", unread_large),
    scenario("reset-unread-peek", unread_peek),
    scenario("reset-own-unread", own_unread),
    scenario("reset-so-error", so_error),
    scenario("reset-so-error-after-read", so_error_after_read),
    scenario("reset-then-send", then_send),
    scenario("reset-then-send-nosignal", then_send_nosignal),
    scenario("reset-then-send-then-read", then_send_then_read),
    scenario("reset-then-shutdown", then_shutdown),
    scenario("reset-after-shutdown", after_shutdown),
    scenario("reset-after-their-shutdown", after_their_shutdown),
    scenario("reset-sent-before", sent_before),
    scenario("reset-first-message", first_message).cold(),
    scenario("reset-connect-refused", refused).cold(),
    scenario("reset-connect-again", connect_again).cold(),
    scenario("reset-before-accept", before_accept).cold(),
    scenario("reset-by-disconnect", by_disconnect),
];

fn ends(end: Socket) {
    end.poll(POLLIN | POLLOUT | POLLRDHUP);
    for _ in 0..3 {
        let _ = end.recv_now(100);
    }
}

fn while_reading(stage: &Stage) {
    both_ways(stage, |one, other| {
        let reader = background(move || other.recv(100));
        one.reset();
        let _ = reader.join();
        ends(other);
    });
}

fn while_writing(stage: &Stage) {
    count_sigpipe();
    both_ways(stage, |one, other| {
        let writer = background(move || other.send_until_error(1 << 20));
        one.reset();
        writer.join();
        log_sigpipe();
        let _ = other.send(100);
        log_sigpipe();
        ends(other);
    });
}

fn while_polling(stage: &Stage) {
    both_ways(stage, |one, other| {
        let waiter = background(move || sys::poll(other.fd(), POLLIN, -1));
        one.reset();
        log(format!("poll ends well: {}", waiter.join().is_ok()));
        ends(other);
    });
}

/// Data that arrived before the reset is still read, then the error.
fn unread(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send(150);
        other.wait_unread(150);
        one.reset();
        other.wait(POLLERR);
        other.fionread();
        ends(other);
        let _ = other.recv_now(100);
    });
}

fn unread_large(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send(50_000);
        other.wait_unread(50_000);
        one.reset();
        other.wait(POLLERR);
        other.recv_to_end();
        other.recv_to_end();
    });
}

fn unread_peek(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send(100);
        other.wait_unread(100);
        one.reset();
        other.wait(POLLERR);
        let _ = other.recv_with(100, MSG_PEEK, "PEEK");
        let _ = other.recv(100);
        let _ = other.recv_with(100, MSG_PEEK, "PEEK");
        let _ = other.recv(100);
    });
}

/// The end that resets discards what it has not read.
fn own_unread(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = other.send(100);
        one.wait_unread(100);
        one.reset();
        other.wait(POLLERR);
        ends(other);
    });
}

fn so_error(stage: &Stage) {
    count_sigpipe();
    both_ways(stage, |one, other| {
        one.reset();
        other.wait(POLLERR);
        other.so_error();
        other.so_error();
        ends(other);
        let _ = other.send(100);
        log_sigpipe();
    });
}

fn so_error_after_read(stage: &Stage) {
    both_ways(stage, |one, other| {
        one.reset();
        other.wait(POLLERR);
        let _ = other.recv(100);
        other.so_error();
        let _ = other.recv(100);
    });
}

fn then_send(stage: &Stage) {
    count_sigpipe();
    both_ways(stage, |one, other| {
        one.reset();
        other.wait(POLLERR);
        for _ in 0..3 {
            let _ = other.send(100);
            log_sigpipe();
        }
        ends(other);
    });
}

fn then_send_nosignal(stage: &Stage) {
    count_sigpipe();
    both_ways(stage, |one, other| {
        one.reset();
        other.wait(POLLERR);
        for _ in 0..2 {
            let _ = other.send_with(100, MSG_NOSIGNAL, "NOSIGNAL");
        }
        log_sigpipe();
    });
}

/// The error is reported once, to the first call that asks.
fn then_send_then_read(stage: &Stage) {
    count_sigpipe();
    both_ways(stage, |one, other| {
        let _ = one.send(100);
        other.wait_unread(100);
        one.reset();
        other.wait(POLLERR);
        let _ = other.send(100);
        let _ = other.recv(60);
        let _ = other.recv(60);
        let _ = other.recv(60);
        let _ = other.send(100);
        log_sigpipe();
    });
}

fn then_shutdown(stage: &Stage) {
    both_ways(stage, |one, other| {
        one.reset();
        other.wait(POLLERR);
        other.shutdown(SHUT_WR);
        other.shutdown(SHUT_RD);
        ends(other);
        other.so_error();
        other.close();
    });
}

fn after_shutdown(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send(100);
        one.shutdown(SHUT_WR);
        other.wait(POLLRDHUP);
        one.reset();
        other.wait(POLLERR);
        ends(other);
    });
}

fn after_their_shutdown(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = other.send(100);
        other.shutdown(SHUT_WR);
        one.wait(POLLRDHUP);
        one.reset();
        other.wait(POLLERR);
        ends(other);
    });
}

/// Both directions have unread bytes.
fn sent_before(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send(100);
        let _ = other.send(100);
        one.wait_unread(100);
        other.wait_unread(100);
        one.reset();
        other.wait(POLLERR);
        ends(other);
    });
}

fn first_message(stage: &Stage) {
    for is_client in [true, false] {
        let pair = stage.fresh();
        let (one, other) = if is_client {
            (pair.client, pair.server)
        } else {
            (pair.server, pair.client)
        };
        let _ = one.send(100);
        other.wait(POLLIN);
        one.reset();
        other.wait(POLLERR);
        ends(other);
    }
}

/// The listener is gone.
fn refused(stage: &Stage) {
    let client = stage.socket();
    let listener = stage.listener();
    let port = sys::port(listener.fd()).expect("a listener has a port");
    listener.close();
    let _ = client.logged("connect", stage.connect_to(client, port));
    client.poll(POLLIN | POLLOUT | POLLRDHUP);
    client.so_error();
    let _ = client.recv_now(10);
    let _ = client.send_with(10, MSG_NOSIGNAL, "NOSIGNAL");
}

/// A refused socket connects elsewhere and works.
fn connect_again(stage: &Stage) {
    let client = stage.socket();
    let gone = stage.listener();
    let port = sys::port(gone.fd()).expect("a listener has a port");
    gone.close();
    let _ = client.logged("connect", stage.connect_to(client, port));
    let listener = stage.listener();
    // A non-blocking socket reports the first attempt's failure once more.
    if client.logged("connect", stage.connect(client, listener)).is_err() {
        let _ = client.logged("connect", stage.connect(client, listener));
    }
    let server = stage.accept(listener);
    let pair = stage.pair(client, server);
    pair.warm_up();
    let _ = pair.client.send(100);
    let _ = pair.server.recv(100);
}

/// The client has already reset when it is accepted.
fn before_accept(stage: &Stage) {
    let listener = stage.listener();
    let client = stage.socket();
    let _ = client.logged("connect", stage.connect(client, listener));
    let _ = client.send(100);
    client.reset();
    pause(20);
    let server = stage.accept(listener);
    ends(server);
}

/// A connection dissolved by connect to AF_UNSPEC, whose socket is then used again.
fn by_disconnect(stage: &Stage) {
    let pair = stage.warm();
    let _ = pair.client.send(100);
    pair.server.wait_unread(100);
    let _ = pair
        .client
        .logged("disconnect", sys::disconnect(pair.client.fd()));
    pair.server.wait(POLLERR | POLLRDHUP);
    ends(pair.server);
    pair.client.poll(POLLIN | POLLOUT | POLLRDHUP);
    let _ = pair.client.recv_now(100);
    let client = Socket::new("client", pair.client.fd(), stage.mode);
    let pair = stage.join(client, stage.listener());
    for _ in 0..20 {
        pair.client.send_quietly(100);
        pair.server.recv_quietly(100);
        pair.server.send_quietly(100);
        pair.client.recv_quietly(100);
    }
    pair.client.close();
    pair.server.recv_to_end();
}
