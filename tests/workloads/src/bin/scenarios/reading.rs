//! Options that change what recv and poll return: the low-water mark, the peek offset, control messages.

use libc::{IPPROTO_TCP, MSG_DONTWAIT, MSG_PEEK, POLLIN, POLLRDHUP, SHUT_WR, SO_RCVLOWAT, SOL_SOCKET};
use workloads::sys::{self, text};

use crate::connect::wait_for_delivery;
use crate::halfclose::both_ways;
use crate::options::{get, prepared, set};
use crate::socket::Socket;
use crate::stage::{Mode, Scenario, Stage, background, log, pause, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("options-rcvlowat-early", rcvlowat_early).cold(),
    scenario("options-rcvlowat-late", rcvlowat_late),
    scenario("options-rcvlowat-late-with-traffic", rcvlowat_with_traffic),
    scenario("options-rcvlowat-unread", rcvlowat_unread),
    scenario("options-rcvlowat-recv-waits", rcvlowat_recv_waits).only(Mode::Blocking),
    scenario("options-peek-off-early", peek_off_early).cold(),
    scenario("options-peek-off-late", peek_off_late),
    scenario("options-peek-off-late-with-traffic", peek_off_with_traffic),
    scenario("options-timestamp-early", timestamp_early).cold(),
    scenario("options-timestamp-late", timestamp_late),
    scenario("options-inq-early", inq_early).cold(),
    scenario("options-inq-late", inq_late),
];

/// poll reports nothing below the mark, and readable at the mark and at the end of the stream.
fn around_the_mark(reader: Socket, writer: Socket) {
    for _ in 0..2 {
        let _ = writer.send(400);
        wait_for_delivery(writer);
        reader.poll(POLLIN);
        let _ = writer.send(600);
        wait_for_delivery(writer);
        reader.poll(POLLIN);
        // A non-blocking recv takes what there is.
        let _ = reader.recv_now(700);
        reader.poll(POLLIN);
        let _ = reader.recv_now(700);
    }
    let _ = writer.send(100);
    wait_for_delivery(writer);
    writer.shutdown(SHUT_WR);
    reader.wait(POLLRDHUP);
    reader.poll(POLLIN);
    let _ = reader.recv_now(700);
    let _ = reader.recv_now(700);
}

fn set_mark(socket: Socket) {
    set(socket, SOL_SOCKET, SO_RCVLOWAT, 1000, "SO_RCVLOWAT");
    get(socket, SOL_SOCKET, SO_RCVLOWAT, "SO_RCVLOWAT");
}

/// Set before the program reads or writes: on the accepted socket, the listener, and the client.
fn rcvlowat_early(stage: &Stage) {
    let pair = stage.fresh();
    set_mark(pair.server);
    around_the_mark(pair.server, pair.client);
    let listener = stage.listener();
    set_mark(listener);
    let pair = stage.join(stage.socket(), listener);
    get(pair.server, SOL_SOCKET, SO_RCVLOWAT, "SO_RCVLOWAT");
    around_the_mark(pair.server, pair.client);
    let client = stage.socket();
    set_mark(client);
    let pair = stage.join(client, stage.listener());
    around_the_mark(pair.client, pair.server);
}

fn rcvlowat_late(stage: &Stage) {
    both_ways(stage, |one, other| {
        set_mark(one);
        around_the_mark(one, other);
    });
}

/// The option is followed by some traffic that the reader consumes as it arrives.
fn rcvlowat_with_traffic(stage: &Stage) {
    both_ways(stage, |one, other| {
        set_mark(one);
        for _ in 0..4 {
            let _ = other.send(64);
            wait_for_delivery(other);
            let _ = one.recv_now(64);
            let _ = one.send(64);
            let _ = other.recv(64);
        }
        around_the_mark(one, other);
    });
}

/// Lowering the mark below the unread bytes makes the socket readable again; raising it above does not.
fn rcvlowat_unread(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = other.send(500);
        one.wait_unread(500);
        for mark in [501, 500, 1] {
            set(one, SOL_SOCKET, SO_RCVLOWAT, mark, "SO_RCVLOWAT");
            one.poll(POLLIN);
        }
        let _ = one.recv(1000);
    });
}

/// A blocking recv waits for as many bytes as the mark demands.
fn rcvlowat_recv_waits(stage: &Stage) {
    both_ways(stage, |one, other| {
        set_mark(one);
        let reader = background(move || one.recv(2000));
        let _ = other.send(400);
        reader.wait_asleep();
        log(format!("the reader waits: {}", !reader.is_finished()));
        let _ = other.send(700);
        let _ = reader.join();
        other.shutdown(SHUT_WR);
        one.recv_to_end();
    });
}

/// The offset moves the window: the bytes show which part of the stream was seen.
fn peek(socket: Socket, stream: &[u8], length: usize) {
    let mut bytes = vec![0; length];
    let outcome = sys::recv(socket.fd(), &mut bytes, MSG_PEEK | MSG_DONTWAIT);
    let count = outcome.unwrap_or(0);
    let place = stream
        .windows(count.max(1))
        .position(|window| window == &bytes[..count.max(1)]);
    let place = place.map_or_else(|| "no place".into(), |place| place.to_string());
    socket.log(format!("peek {length} = {} at {place}", text(outcome)));
}

fn with_peek_offset(reader: Socket, writer: Socket) {
    let stream = writer.next(600);
    let _ = writer.send(300);
    let _ = writer.send(300);
    reader.wait_unread(600);
    peek(reader, &stream, 100);
    peek(reader, &stream, 300);
    get(reader, SOL_SOCKET, SO_PEEK_OFF, "SO_PEEK_OFF");
    let _ = reader.recv(250);
    get(reader, SOL_SOCKET, SO_PEEK_OFF, "SO_PEEK_OFF");
    peek(reader, &stream, 1000);
    peek(reader, &stream, 1000);
    let _ = reader.recv(1000);
}

/// The kernel's SO_PEEK_OFF, which the libc crate has for some architectures only.
const SO_PEEK_OFF: i32 = 42;

fn peek_off_early(stage: &Stage) {
    let pair = stage.fresh();
    set(pair.server, SOL_SOCKET, SO_PEEK_OFF, 0, "SO_PEEK_OFF");
    with_peek_offset(pair.server, pair.client);
    let client = stage.socket();
    set(client, SOL_SOCKET, SO_PEEK_OFF, 0, "SO_PEEK_OFF");
    let pair = stage.join(client, stage.listener());
    with_peek_offset(pair.client, pair.server);
}

fn peek_off_late(stage: &Stage) {
    both_ways(stage, |one, other| {
        set(one, SOL_SOCKET, SO_PEEK_OFF, 0, "SO_PEEK_OFF");
        with_peek_offset(one, other);
    });
}

fn peek_off_with_traffic(stage: &Stage) {
    both_ways(stage, |one, other| {
        set(one, SOL_SOCKET, SO_PEEK_OFF, 0, "SO_PEEK_OFF");
        for _ in 0..4 {
            let _ = other.send(64);
            let _ = one.recv(64);
            let _ = one.send(64);
            let _ = other.recv(64);
        }
        with_peek_offset(one, other);
    });
}

/// The control messages of one message, by type and size; with `value` for those that hold a number.
fn recv_control(reader: Socket, length: usize) {
    let mut bytes = vec![0; length];
    reader.wait_if_nonblocking(POLLIN);
    let (outcome, flags, controls) = sys::recv_control(reader.fd(), &mut bytes, 0);
    let count = outcome.unwrap_or(0);
    let verdict = reader.compare(&bytes[..count]);
    reader.received(count);
    let mut words: Vec<_> = controls
        .iter()
        .map(|(level, kind, data)| match data.as_slice() {
            [a, b, c, d] => format!("{level}/{kind} says {}", i32::from_ne_bytes([*a, *b, *c, *d])),
            _ => format!("{level}/{kind} of {} bytes", data.len()),
        })
        .collect();
    words.sort();
    let result = text(outcome);
    reader.log(format!(
        "recvmsg {length} = {result}{verdict}, flags {flags}, control {words:?}"
    ));
}

/// The sizes and types of control messages; timestamps are not compared.
fn with_control(reader: Socket, writer: Socket) {
    for _ in 0..2 {
        let _ = writer.send(100);
        let _ = writer.send(100);
        reader.wait_unread(200);
        recv_control(reader, 50);
        recv_control(reader, 1000);
        let _ = reader.send(64);
        let _ = writer.recv(64);
    }
    writer.shutdown(SHUT_WR);
    recv_control(reader, 100);
}

fn ask_for_timestamps(socket: Socket) {
    set(socket, SOL_SOCKET, libc::SO_TIMESTAMPNS, 1, "SO_TIMESTAMPNS");
    // The kernel starts to take timestamps some time after the first socket asks for them.
    pause(100);
}

fn timestamp_early(stage: &Stage) {
    let pair = prepared(stage, ask_for_timestamps);
    with_control(pair.server, pair.client);
}

fn timestamp_late(stage: &Stage) {
    both_ways(stage, |one, other| {
        ask_for_timestamps(one);
        with_control(one, other);
    });
}

fn ask_for_inq(socket: Socket) {
    set(socket, IPPROTO_TCP, libc::TCP_INQ, 1, "TCP_INQ");
}

fn inq_early(stage: &Stage) {
    let pair = prepared(stage, ask_for_inq);
    with_control(pair.server, pair.client);
}

fn inq_late(stage: &Stage) {
    both_ways(stage, |one, other| {
        ask_for_inq(one);
        with_control(one, other);
    });
}
