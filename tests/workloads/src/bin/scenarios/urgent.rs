//! Urgent data: out of band and inline, its mark, its events, its signal.

use libc::{MSG_DONTWAIT, MSG_OOB, POLLIN, POLLPRI, SHUT_WR, SO_OOBINLINE, SOL_SOCKET};
use workloads::sys::{self, text};

use crate::connect::wait_for_delivery;
use crate::halfclose::both_ways;
use crate::socket::Socket;
use crate::stage::{Scenario, Stage, log, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("urgent-apart", apart),
    scenario("urgent-apart-fresh", apart_fresh).cold(),
    scenario("urgent-inline", inline),
    scenario("urgent-inline-fresh", inline_fresh).cold(),
    scenario("urgent-not-taken", not_taken),
    scenario("urgent-signal", signal),
    scenario("urgent-none", none),
];

/// Asks if the read position is at the urgent mark.
const SIOCATMARK: libc::c_ulong = 0x8905;

fn log_mark(socket: Socket) {
    let mark = sys::ioctl(socket.fd(), SIOCATMARK).map(|value| value as usize);
    socket.log(format!("SIOCATMARK = {}", text(mark)));
}

/// Urgent bytes are not part of the counted streams.
fn send_urgent(socket: Socket, byte: u8) {
    let _ = socket.logged("send 1 OOB", sys::send(socket.fd(), &[byte], MSG_OOB));
}

fn recv_urgent(socket: Socket) {
    let mut byte = [0; 4];
    let outcome = sys::recv(socket.fd(), &mut byte, MSG_OOB | MSG_DONTWAIT);
    socket.log(format!("recv OOB = {}, byte {}", text(outcome), byte[0]));
}

/// Everything a plain recv returns, byte by byte where it is not the stream; the reader stops at the mark.
fn recv_bytes(socket: Socket, length: usize) {
    let mut bytes = vec![0; length];
    let outcome = sys::recv(socket.fd(), &mut bytes, MSG_DONTWAIT);
    let bytes = &bytes[..outcome.unwrap_or(0)];
    socket.log(format!("recv {length} = {} {bytes:?}", text(outcome)));
}

fn send_bytes(socket: Socket, bytes: &[u8]) {
    let outcome = sys::send(socket.fd(), bytes, 0);
    let _ = socket.logged(&format!("send {}", bytes.len()), outcome);
}

/// Data, an urgent byte, data: the urgent byte is read with MSG_OOB.
fn taken_apart(one: Socket, other: Socket) {
    for _ in 0..2 {
        send_bytes(one, b"abc");
        send_urgent(one, b'!');
        wait_for_delivery(one);
        other.poll(POLLIN | POLLPRI);
        send_bytes(one, b"def");
        wait_for_delivery(one);
        log_mark(other);
        recv_urgent(other);
        recv_urgent(other);
        other.poll(POLLIN | POLLPRI);
        recv_bytes(other, 10);
        log_mark(other);
        recv_bytes(other, 10);
        log_mark(other);
        recv_bytes(other, 10);
    }
    one.shutdown(SHUT_WR);
    other.wait(libc::POLLRDHUP);
    recv_bytes(other, 10);
}

fn apart(stage: &Stage) {
    both_ways(stage, taken_apart);
}

fn apart_fresh(stage: &Stage) {
    let pair = stage.fresh();
    taken_apart(pair.client, pair.server);
    let pair = stage.fresh();
    taken_apart(pair.server, pair.client);
}

/// Read in its place in the stream; a reader stops before it.
fn taken_inline(one: Socket, other: Socket) {
    let outcome = sys::set_option(other.fd(), SOL_SOCKET, SO_OOBINLINE, 1_i32);
    let _ = other.logged("SO_OOBINLINE 1", outcome);
    for _ in 0..2 {
        send_bytes(one, b"abc");
        send_urgent(one, b'!');
        send_bytes(one, b"def");
        wait_for_delivery(one);
        other.wait(POLLIN);
        other.poll(POLLIN | POLLPRI);
        recv_urgent(other);
        recv_bytes(other, 10);
        log_mark(other);
        recv_bytes(other, 10);
        log_mark(other);
        recv_bytes(other, 10);
    }
}

fn inline(stage: &Stage) {
    both_ways(stage, taken_inline);
}

fn inline_fresh(stage: &Stage) {
    let pair = stage.fresh();
    taken_inline(pair.client, pair.server);
    let pair = stage.fresh();
    taken_inline(pair.server, pair.client);
}

/// A program that is unaware of urgent data never sees the byte.
fn not_taken(stage: &Stage) {
    both_ways(stage, |one, other| {
        for _ in 0..3 {
            send_urgent(one, b'!');
            send_bytes(one, b"abc");
            wait_for_delivery(one);
            other.wait(POLLIN);
            recv_bytes(other, 10);
            recv_bytes(other, 10);
            send_bytes(other, b"yes");
            one.wait(POLLIN);
            recv_bytes(one, 10);
        }
    });
}

/// SIGURG is sent to the owner of the socket.
fn signal(stage: &Stage) {
    both_ways(stage, |one, other| {
        sys::count_signal(libc::SIGURG, 0).expect("failed to install a handler");
        sys::fcntl(other.fd(), libc::F_SETOWN, std::process::id() as i32).expect("failed to set the owner");
        sys::signals_caught();
        send_urgent(one, b'!');
        wait_for_delivery(one);
        log(format!("SIGURG comes: {}", sys::signals_caught() > 0));
        recv_urgent(other);
    });
}

/// Reads urgent data where there is none.
fn none(stage: &Stage) {
    both_ways(stage, |one, other| {
        recv_urgent(one);
        log_mark(one);
        let _ = other.send(100);
        one.wait_unread(100);
        recv_urgent(one);
        log_mark(one);
        one.poll(POLLIN | POLLPRI);
        let _ = one.recv(200);
    });
}
