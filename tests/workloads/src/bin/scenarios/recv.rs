//! Ways to receive: peeking, waiting for everything, truncation, pieces, timeouts, bad addresses.

use libc::{MSG_DONTWAIT, MSG_ERRQUEUE, MSG_PEEK, MSG_TRUNC, MSG_WAITALL};
use workloads::sys::{self, Outcome, text};

use crate::connect::with_early_bytes;
use crate::socket::Socket;
use crate::stage::{Mode, Scenario, Stage, background, log, pause, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("recv-peek", peek),
    scenario("recv-peek-waits", peek_waits),
    scenario("recv-waitall-second-message-late", waitall),
    scenario("recv-waitall-both-there", waitall_both_there),
    scenario("recv-waitall-large", waitall_large),
    scenario("recv-waitall-end", waitall_end),
    scenario("recv-waitall-peek", waitall_peek),
    scenario("recv-dontwait", dontwait),
    scenario("recv-trunc-buffer", trunc_buffer),
    scenario("recv-trunc-null", trunc_null),
    scenario("recv-zero-length", zero_length),
    scenario("recv-send-zero-length", send_zero_length),
    scenario("recv-errqueue-empty", errqueue),
    scenario("recv-pieces", pieces),
    scenario("recv-readv", readv),
    scenario("recv-writev", writev),
    scenario("recv-recvmsg", recvmsg),
    scenario("recv-read-write", read_write),
    scenario("recv-many-messages", many_messages),
    scenario("recv-large-message", large_message),
    scenario("recv-timeout", timeout).only(Mode::Blocking),
    scenario("recv-timeout-waitall", timeout_waitall).only(Mode::Blocking),
    scenario("recv-bad-address", bad_address),
    scenario("recv-send-bad-address", send_bad_address),
    scenario("recv-send-partly-bad-address", send_partly_bad_address),
    scenario("recv-before-first-message", before_first_message).cold(),
    scenario("recv-sent-before-accept", sent_before_accept).cold(),
];

/// Peeked bytes are received again.
fn peek(stage: &Stage) {
    let pair = stage.warm();
    let _ = pair.client.send(100);
    let _ = pair.client.send(100);
    pair.server.wait_unread(200);
    let _ = pair.server.recv_with(50, MSG_PEEK, "PEEK");
    let _ = pair.server.recv_with(150, MSG_PEEK, "PEEK");
    let _ = pair.server.recv(150);
    let _ = pair.server.recv_with(100, MSG_PEEK, "PEEK");
    let _ = pair.server.recv(100);
    let _ = pair.server.recv_with(100, MSG_PEEK | MSG_DONTWAIT, "PEEK now");
}

/// A reader that blocks in a peek.
fn peek_waits(stage: &Stage) {
    let pair = stage.warm();
    let server = pair.server;
    let reader = background(move || {
        server.wait_if_nonblocking(libc::POLLIN);
        server.recv_with(100, MSG_PEEK, "PEEK")
    });
    let _ = pair.client.send(50);
    let _ = reader.join();
    let _ = server.recv(100);
}

/// Two messages, the second of which arrives while the reader waits.
fn waitall(stage: &Stage) {
    let pair = stage.warm();
    let _ = pair.client.send(100);
    let server = pair.server;
    server.wait_unread(100);
    let reader = background(move || server.recv_with(200, MSG_WAITALL, "WAITALL"));
    let _ = pair.client.send(100);
    let _ = reader.join();
}

fn waitall_both_there(stage: &Stage) {
    let pair = stage.warm();
    let _ = pair.client.send(100);
    let _ = pair.client.send(100);
    pair.server.wait_unread(200);
    let _ = pair.server.recv_with(150, MSG_WAITALL, "WAITALL");
    let _ = pair.server.recv_with(50, MSG_WAITALL, "WAITALL");
}

/// One message longer than a socket's buffers.
fn waitall_large(stage: &Stage) {
    const LENGTH: usize = 4 << 20;
    let pair = stage.warm();
    let client = pair.client;
    let writer = background(move || client.send_all(LENGTH));
    if stage.is_blocking() {
        let mut buffer = vec![0; LENGTH];
        let count = sys::recv(pair.server.fd(), &mut buffer, MSG_WAITALL).unwrap_or(0);
        let verdict = pair.server.compare(&buffer[..count]);
        pair.server.received(count);
        log(format!("recv WAITALL receives all: {}{verdict}", count == LENGTH));
        pair.server.recv_quietly(LENGTH - count);
    } else {
        pair.server.recv_all(LENGTH);
    }
    writer.join();
}

/// The stream ends before everything is there.
fn waitall_end(stage: &Stage) {
    let pair = stage.warm();
    let _ = pair.client.send(100);
    let server = pair.server;
    server.wait_unread(100);
    let reader = background(move || server.recv_with(200, MSG_WAITALL, "WAITALL"));
    pair.client.shutdown(libc::SHUT_WR);
    let _ = reader.join();
    let _ = server.recv_with(200, MSG_WAITALL, "WAITALL");
}

fn waitall_peek(stage: &Stage) {
    let pair = stage.warm();
    let _ = pair.client.send(100);
    let server = pair.server;
    server.wait_unread(100);
    let reader = background(move || server.recv_with(200, MSG_WAITALL | MSG_PEEK, "WAITALL PEEK"));
    let _ = pair.client.send(100);
    let _ = reader.join();
    server.recv_all(200);
}

fn dontwait(stage: &Stage) {
    let pair = stage.warm();
    let _ = pair.server.recv_now(10);
    let _ = pair.client.send(10);
    pair.server.wait_unread(10);
    let _ = pair.server.recv_now(10);
    let _ = pair.server.recv_now(10);
}

/// Bytes discarded although there is a buffer for them.
fn trunc_buffer(stage: &Stage) {
    let pair = stage.warm();
    let _ = pair.client.send(100);
    pair.server.wait_unread(100);
    let mut buffer = [0; 50];
    let outcome = sys::recv(pair.server.fd(), &mut buffer, MSG_TRUNC);
    let filled = if buffer == [0; 50] { "untouched" } else { "filled" };
    log(format!("recv 50 TRUNC = {}, buffer {filled}", text(outcome)));
    pair.server.received(outcome.unwrap_or(0));
    let _ = pair.server.recv(100);
}

/// Bytes discarded without a buffer.
fn trunc_null(stage: &Stage) {
    let pair = stage.warm();
    let _ = pair.client.send(100);
    pair.server.wait_unread(100);
    let outcome = sys::recv_nowhere(pair.server.fd(), 50, MSG_TRUNC);
    let _ = pair.server.logged("recv 50 TRUNC without a buffer", outcome);
    pair.server.received(outcome.unwrap_or(0));
    let _ = pair.server.recv(100);
}

/// A zero-length recv waits for data, and takes none.
fn zero_length(stage: &Stage) {
    let pair = stage.warm();
    let server = pair.server;
    let _ = server.recv_now(0);
    let _ = server.recv_with(0, MSG_PEEK | MSG_DONTWAIT, "PEEK now");
    let reader = background(move || server.recv(0));
    let _ = pair.client.send(10);
    let _ = reader.join();
    server.wait_unread(10);
    let _ = server.recv_now(0);
    let _ = server.recv_with(0, MSG_PEEK | MSG_DONTWAIT, "PEEK now");
    let _ = server.recv(10);
    pair.client.shutdown(libc::SHUT_WR);
    server.wait(libc::POLLRDHUP);
    let _ = server.recv(0);
}

/// A zero-length send is no message.
fn send_zero_length(stage: &Stage) {
    let pair = stage.warm();
    let _ = pair.client.send(0);
    pause(20);
    pair.server.poll(libc::POLLIN);
    let _ = pair.server.recv_now(10);
    let _ = pair.client.send(10);
    let _ = pair.client.send(0);
    let _ = pair.server.recv(10);
    let _ = pair.server.recv_now(10);
}

fn errqueue(stage: &Stage) {
    let pair = stage.warm();
    let _ = pair.server.recv_with(10, MSG_ERRQUEUE, "ERRQUEUE");
    let _ = pair.client.send(10);
    pair.server.wait_unread(10);
    let _ = pair.server.recv_with(10, MSG_ERRQUEUE, "ERRQUEUE");
    let _ = pair.client.recv_with(10, MSG_ERRQUEUE, "ERRQUEUE");
    let _ = pair.server.recv(10);
}

/// Reads that end within messages and at their boundaries.
fn pieces(stage: &Stage) {
    let pair = stage.warm();
    for length in [1000, 100] {
        let _ = pair.client.send(length);
    }
    pair.server.wait_unread(1100);
    for length in [1, 10, 989, 50, 100] {
        let _ = pair.server.recv(length);
    }
    let _ = pair.server.recv_now(1);
}

fn vectors(lengths: &[usize]) -> Vec<Vec<u8>> {
    lengths.iter().map(|length| vec![0; *length]).collect()
}

/// Logs a call that has filled these pieces.
fn filled(server: Socket, call: &str, pieces: &[Vec<u8>], outcome: Outcome) {
    let mut bytes = pieces.concat();
    bytes.truncate(outcome.unwrap_or(0));
    let verdict = server.compare(&bytes);
    server.received(bytes.len());
    server.log(format!("{call} = {}{verdict}", text(outcome)));
}

fn readv(stage: &Stage) {
    let pair = stage.warm();
    for length in [100, 200, 300] {
        let _ = pair.client.send(length);
    }
    pair.server.wait_unread(600);
    for lengths in [[50, 100, 200], [10, 0, 90], [1000, 1000, 1000]] {
        let mut pieces = vectors(&lengths);
        let outcome = sys::readv(pair.server.fd(), &mut pieces);
        filled(pair.server, &format!("readv {lengths:?}"), &pieces, outcome);
    }
}

fn writev(stage: &Stage) {
    let pair = stage.warm();
    let bytes = pair.client.next(600);
    let mut pieces = vec![bytes[..100].to_vec(), Vec::new(), bytes[100..].to_vec()];
    let outcome = pair.client.sent(sys::writev(pair.client.fd(), &mut pieces));
    let _ = pair.client.logged("writev [100, 0, 500]", outcome);
    let _ = pair.server.recv(1000);
}

fn recvmsg(stage: &Stage) {
    let pair = stage.warm();
    for length in [100, 200] {
        let _ = pair.client.send(length);
    }
    pair.server.wait_unread(300);
    for (lengths, flags) in [
        ([50, 100], MSG_PEEK),
        ([50, 100], 0),
        ([0, 50], 0),
        ([200, 200], 0),
    ] {
        let mut pieces = vectors(&lengths);
        let (outcome, message) = sys::recvmsg(pair.server.fd(), &mut pieces, flags);
        let answer = format!(
            "flags {:#x}, {} bytes of control, {} of name",
            message.flags, message.control, message.name
        );
        if flags == MSG_PEEK {
            let _ = pair.server.logged(&format!("recvmsg {lengths:?} PEEK"), outcome);
        } else {
            filled(pair.server, &format!("recvmsg {lengths:?}"), &pieces, outcome);
        }
        log(answer);
    }
}

fn read_write(stage: &Stage) {
    let pair = stage.warm();
    let outcome = pair
        .client
        .sent(sys::write(pair.client.fd(), &pair.client.next(100)));
    let _ = pair.client.logged("write 100", outcome);
    pair.server.wait_unread(100);
    for length in [0, 30, 100] {
        let mut pieces = vectors(&[length]);
        let outcome = sys::read(pair.server.fd(), &mut pieces[0]);
        filled(pair.server, &format!("read {length}"), &pieces, outcome);
    }
}

/// One-way messages, all unread at once, some of which went through TCP.
fn many_messages(stage: &Stage) {
    let pair = stage.warm();
    for _ in 0..100 {
        pair.client.send_quietly(50);
    }
    pair.server.wait_unread(5000);
    pair.server.fionread();
    for length in [77, 1, 2000, 10_000] {
        let _ = pair.server.recv(length);
    }
    let _ = pair.server.recv_now(1);
}

fn large_message(stage: &Stage) {
    let pair = stage.warm();
    let _ = pair.client.send(50_000);
    pair.server.wait_unread(50_000);
    for length in [1, 32_767, 10_000, 100_000] {
        let _ = pair.server.recv(length);
    }
}

/// SO_RCVTIMEO ends a recv without data, and has no effect with data.
fn timeout(stage: &Stage) {
    let pair = stage.warm();
    let server = pair.server;
    let _ = server.logged(
        "SO_RCVTIMEO 50 ms",
        sys::set_timeout(server.fd(), libc::SO_RCVTIMEO, 50),
    );
    let _ = server.recv(10);
    let _ = pair.client.send(5);
    let _ = server.recv(10);
    let _ = server.recv(10);
    let _ = server.logged(
        "no SO_RCVTIMEO",
        sys::set_timeout(server.fd(), libc::SO_RCVTIMEO, 0),
    );
    let reader = background(move || server.recv(10));
    let _ = pair.client.send(5);
    let _ = reader.join();
}

fn timeout_waitall(stage: &Stage) {
    let pair = stage.warm();
    let server = pair.server;
    let _ = server.logged(
        "SO_RCVTIMEO 100 ms",
        sys::set_timeout(server.fd(), libc::SO_RCVTIMEO, 100),
    );
    let _ = pair.client.send(5);
    server.wait_unread(5);
    let _ = server.recv_with(10, MSG_WAITALL, "WAITALL");
}

/// A bad address loses no data.
fn bad_address(stage: &Stage) {
    let pair = stage.warm();
    let _ = pair.client.send(100);
    pair.server.wait_unread(100);
    let outcome = sys::recv_nowhere(pair.server.fd(), 50, 0);
    let _ = pair.server.logged("recv 50 without a buffer", outcome);
    let _ = pair.server.recv(100);
}

fn send_bad_address(stage: &Stage) {
    let pair = stage.warm();
    let outcome = sys::send_nothing(pair.client.fd(), 50);
    let _ = pair.client.logged("send 50 without a buffer", outcome);
    pause(20);
    let _ = pair.server.recv_now(100);
    let _ = pair.client.send(10);
    let _ = pair.server.recv(100);
}

/// A buffer whose first page alone is mapped: what arrives is what send reported.
fn send_partly_bad_address(stage: &Stage) {
    let pair = stage.warm();
    let mut page = sys::Page::new().expect("failed to map memory");
    page.bytes().copy_from_slice(&pair.client.next(sys::PAGE));
    let outcome = pair.client.sent(page.send_beyond(pair.client.fd(), 100));
    let _ = pair
        .client
        .logged("send of a page and 100 bytes that may not be read", outcome);
    pause(20);
    let _ = pair.server.recv_now(2 * sys::PAGE);
    let _ = pair.client.send(10);
    let _ = pair.server.recv(100);
}

/// The first recv of a connection is already waiting when the first message arrives.
fn before_first_message(stage: &Stage) {
    let pair = stage.fresh();
    for (from, to) in [(pair.client, pair.server), (pair.server, pair.client)] {
        let reader = background(move || to.recv(100));
        let _ = from.send(50);
        let _ = reader.join();
    }
}

/// Bytes that arrived before the connection was accepted, and after.
fn sent_before_accept(stage: &Stage) {
    let (client, server) = with_early_bytes(stage);
    let _ = client.send(100);
    pause(20);
    server.poll(libc::POLLIN);
    let _ = server.recv_with(150, MSG_PEEK, "PEEK");
    let _ = server.recv(150);
    let _ = server.recv(150);
}
