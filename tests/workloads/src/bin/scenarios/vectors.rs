//! Other ways to move bytes: files and pipes, several pieces or messages at once, corked messages, no copies.

use libc::{MSG_DONTWAIT, MSG_MORE, POLLIN, POLLOUT, SHUT_WR};
use workloads::sys::{self, AGAIN, Outcome, text};

use crate::halfclose::both_ways;
use crate::socket::Socket;
use crate::stage::{Background, Mode, Scenario, Stage, background, log, pause, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("vectors-sendfile", sendfile),
    scenario("vectors-sendfile-large", sendfile_large),
    scenario("vectors-sendfile-fresh", sendfile_fresh).cold(),
    scenario("vectors-sendfile-and-send", sendfile_and_send),
    scenario("vectors-splice-in", splice_in),
    scenario("vectors-splice-out", splice_out),
    scenario("vectors-splice-out-fresh", splice_out_fresh).cold(),
    scenario("vectors-splice-out-waits", splice_out_waits),
    scenario("vectors-splice-out-end", splice_out_end),
    scenario("vectors-tee", tee),
    scenario("vectors-writev-readv", writev_readv),
    scenario("vectors-writev-large", writev_large),
    scenario("vectors-many-messages", many_messages),
    scenario("vectors-many-messages-fresh", many_messages_fresh).cold(),
    scenario("vectors-more", more),
    scenario("vectors-more-then-end", more_then_end),
    scenario("vectors-cork", cork),
    scenario("vectors-cork-then-end", cork_then_end),
];

/// Repeats a call until this many bytes of the stream were taken; a non-blocking program waits for room.
pub fn all(socket: Socket, length: usize, call: impl Fn(usize) -> Outcome) -> Outcome {
    let mut done = 0;
    while done < length {
        match socket.sent(call(length - done)) {
            Ok(0) => break,
            Ok(count) => done += count,
            // A blocking socket never returns it.
            Err(AGAIN) if socket.mode() == Mode::NonBlocking => socket.wait(POLLOUT),
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Sends the next bytes of the stream from a file.
fn send_file(socket: Socket, length: usize) {
    let file = sys::file(&socket.next(length)).expect("failed to make a file");
    let outcome = all(socket, length, |left| sys::sendfile(socket.fd(), file, left));
    let _ = socket.logged(&format!("sendfile {length}"), outcome);
    sys::close(file).expect("failed to close a file");
}

fn sendfile(stage: &Stage) {
    both_ways(stage, |one, other| {
        for length in [1, 1000, 5000, 40_000] {
            send_file(one, length);
            other.recv_all(length);
            let _ = other.send(100);
            let _ = one.recv(200);
        }
    });
}

fn sendfile_large(stage: &Stage) {
    const LENGTH: usize = 8 << 20;
    both_ways(stage, |one, other| {
        let reader = background(move || other.recv_all(LENGTH));
        send_file(one, LENGTH);
        reader.join();
        let _ = other.recv_now(1);
    });
}

fn sendfile_fresh(stage: &Stage) {
    let pair = stage.fresh();
    send_file(pair.client, 40_000);
    pair.server.recv_all(40_000);
    send_file(pair.server, 40_000);
    pair.client.recv_all(40_000);
}

/// A header with send, a body with sendfile.
fn sendfile_and_send(stage: &Stage) {
    both_ways(stage, |one, other| {
        for _ in 0..10 {
            let _ = other.send(100);
            let _ = one.recv(200);
            let _ = one.send_with(300, MSG_MORE, "MORE");
            send_file(one, 20_000);
            other.recv_all(20_300);
        }
    });
}

/// From a file into a pipe, and on into the socket.
fn splice_in(stage: &Stage) {
    both_ways(stage, |one, other| {
        let [from, to] = sys::pipe().expect("failed to make a pipe");
        for length in [1000, 30_000] {
            let file = sys::file(&one.next(length)).expect("failed to make a file");
            // What remains in the pipe is offered again if the socket takes only a part.
            let outcome = all(one, length, |left| {
                if sys::ioctl(from, libc::FIONREAD) == Ok(0) {
                    sys::splice(file, to, left, 0)?;
                }
                sys::splice(from, one.fd(), left, libc::SPLICE_F_MORE)
            });
            let _ = one.logged(&format!("splice {length}"), outcome);
            let _ = one.send(10);
            other.recv_all(length + 10);
        }
    });
}

/// Splices once into a pipe, in a thread because it may block: the result, and what came out of the pipe.
fn splice_once(socket: Socket, length: usize) -> Background<Outcome> {
    background(move || {
        let [from, to] = sys::pipe().expect("failed to make a pipe");
        let outcome = sys::splice(socket.fd(), to, length, 0);
        let mut bytes = vec![0; length];
        let count = sys::read(from, &mut bytes).unwrap_or(0);
        let verdict = socket.compare(&bytes[..count]);
        socket.log(format!(
            "splice {length} = {}, {count} in the pipe{verdict}",
            text(outcome)
        ));
        socket.received(count);
        outcome
    })
}

/// Splices what is there; a call that blocks despite available data returns at the end of the stream.
fn spliced(one: Socket, other: Socket) {
    let _ = one.send(1000);
    other.wait_unread(1000);
    other.poll(POLLIN);
    let first = splice_once(other, 400);
    pause(10);
    first.wait_asleep();
    log(format!("splice waits: {}", !first.is_finished()));
    one.shutdown(SHUT_WR);
    let _ = first.join();
    other.recv_to_end();
}

fn splice_out(stage: &Stage) {
    both_ways(stage, spliced);
}

fn splice_out_fresh(stage: &Stage) {
    let pair = stage.fresh();
    spliced(pair.client, pair.server);
    let pair = stage.fresh();
    spliced(pair.server, pair.client);
}

/// The data arrives while splice waits, or, in non-blocking mode, before poll reports it.
fn splice_out_waits(stage: &Stage) {
    both_ways(stage, |one, other| {
        let waiting = splice_once(other, 400);
        let _ = one.send(400);
        if stage.is_blocking() {
            pause(50);
            one.shutdown(SHUT_WR);
            let _ = waiting.join();
        } else {
            let _ = waiting.join();
            other.wait(POLLIN);
            let _ = splice_once(other, 400).join();
            one.shutdown(SHUT_WR);
        }
        other.recv_to_end();
    });
}

/// A splice copy loop like a proxy's: all bytes, then the end.
fn splice_out_end(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send(1000);
        one.shutdown(SHUT_WR);
        other.wait(libc::POLLRDHUP);
        for _ in 0..3 {
            let _ = splice_once(other, 600).join();
        }
        other.recv_to_end();
    });
}

/// tee sends a pipe's content over two connections, as a proxy does to a log and a backend.
fn tee(stage: &Stage) {
    let pair = stage.warm();
    let other_pair = stage.fresh();
    let [from, to] = sys::pipe().expect("failed to make a pipe");
    let [copy_from, copy_to] = sys::pipe().expect("failed to make a pipe");
    let bytes = pair.client.next(1000);
    log(format!("write = {}", text(sys::write(to, &bytes))));
    log(format!("tee = {}", text(sys::tee(from, copy_to, 1000))));
    for (pipe, from, to) in [
        (from, pair.client, pair.server),
        (copy_from, other_pair.server, other_pair.client),
    ] {
        let outcome = all(from, 1000, |left| sys::splice(pipe, from.fd(), left, 0));
        let _ = from.logged("splice 1000", outcome);
        let mut seen = vec![0; 1000];
        to.wait_unread(1000);
        let _ = to.logged("recv 1000", sys::recv(to.fd(), &mut seen, 0));
        log(format!("the same bytes: {}", seen == bytes));
    }
}

/// Cuts bytes into pieces of these sizes.
fn pieces(bytes: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut rest = bytes;
    let mut cut = |size: &usize| {
        let (piece, tail) = rest.split_at(*size);
        rest = tail;
        piece.to_vec()
    };
    sizes.iter().map(&mut cut).collect()
}

fn writev(socket: Socket, sizes: &[usize]) {
    let mut parts = pieces(&socket.next(sizes.iter().sum()), sizes);
    let outcome = socket.sent(sys::writev(socket.fd(), &mut parts));
    let _ = socket.logged(&format!("writev {sizes:?}"), outcome);
}

fn readv(socket: Socket, sizes: &[usize]) {
    let mut parts: Vec<_> = sizes.iter().map(|size| vec![0; *size]).collect();
    let outcome = sys::readv(socket.fd(), &mut parts);
    let mut bytes = parts.concat();
    bytes.truncate(outcome.unwrap_or(0));
    let verdict = socket.compare(&bytes);
    socket.log(format!("readv {sizes:?} = {}{verdict}", text(outcome)));
    socket.received(bytes.len());
}

fn writev_readv(stage: &Stage) {
    both_ways(stage, |one, other| {
        writev(one, &[1, 0, 99, 900]);
        other.wait_unread(1000);
        readv(other, &[400, 0, 400]);
        readv(other, &[100, 400]);
        writev(one, &[10; 100]);
        writev(one, &[30; 10]);
        other.wait_unread(1300);
        readv(other, &[7; 150]);
        readv(other, &[1000]);
        let _ = other.send(100);
        let _ = one.recv(200);
    });
}

fn writev_large(stage: &Stage) {
    both_ways(stage, |one, other| {
        writev(one, &[500; 60]);
        other.wait_unread(30_000);
        readv(other, &[700; 20]);
        readv(other, &[900; 20]);
        let _ = other.recv_now(1);
    });
}

/// sendmmsg with these sizes, then recvmmsg with those.
fn exchange(one: Socket, other: Socket, sizes: &[usize], into: &[usize]) {
    let total: usize = sizes.iter().sum();
    let sent = sys::send_messages(one.fd(), &mut pieces(&one.next(total), sizes));
    let _ = one.sent(
        sent.as_ref()
            .map(|sent| sent.iter().sum())
            .map_err(|error| *error),
    );
    one.log(format!("sendmmsg {sizes:?} = {sent:?}"));
    other.wait_unread(total);
    let mut parts: Vec<_> = into.iter().map(|size| vec![0; *size]).collect();
    let lengths = sys::recv_messages(other.fd(), &mut parts, MSG_DONTWAIT);
    let mut bytes = Vec::new();
    for (part, length) in parts.iter().zip(lengths.as_deref().unwrap_or_default()) {
        bytes.extend_from_slice(&part[..*length]);
    }
    let verdict = other.compare(&bytes);
    other.log(format!("recvmmsg {into:?} = {lengths:?}{verdict}"));
    other.received(bytes.len());
}

fn messages(one: Socket, other: Socket) {
    exchange(one, other, &[100, 100, 100], &[100, 100, 100, 100]);
    exchange(one, other, &[100, 200, 300], &[150, 150, 500]);
    exchange(one, other, &[10; 20], &[1000, 1000]);
    exchange(one, other, &[1000], &[10; 20]);
    let _ = other.recv(2000);
    exchange(one, other, &[20_000, 20_000], &[30_000, 30_000]);
    let _ = other.recv_now(1);
}

fn many_messages(stage: &Stage) {
    both_ways(stage, messages);
}

fn many_messages_fresh(stage: &Stage) {
    let pair = stage.fresh();
    messages(pair.client, pair.server);
}

/// What MSG_MORE holds back is sent with what follows.
fn more(stage: &Stage) {
    both_ways(stage, |one, other| {
        for _ in 0..4 {
            let _ = one.send_with(100, MSG_MORE, "MORE");
            let _ = one.send_with(200, MSG_MORE, "MORE");
            let _ = one.send(300);
            other.recv_all(600);
            let _ = other.send(100);
            let _ = one.recv(200);
        }
    });
}

fn more_then_end(stage: &Stage) {
    both_ways(stage, |one, other| {
        let _ = one.send_with(100, MSG_MORE, "MORE");
        one.shutdown(SHUT_WR);
        other.recv_to_end();
        let _ = other.send_with(100, MSG_MORE, "MORE");
        other.close();
        one.recv_to_end();
    });
}

fn set_cork(socket: Socket, is_set: bool) {
    let value = i32::from(is_set);
    let outcome = sys::set_option(socket.fd(), libc::IPPROTO_TCP, libc::TCP_CORK, value);
    let _ = socket.logged(&format!("TCP_CORK {value}"), outcome);
}

fn cork(stage: &Stage) {
    both_ways(stage, |one, other| {
        for _ in 0..4 {
            set_cork(one, true);
            let _ = one.send(100);
            let _ = one.send(3000);
            send_file(one, 5000);
            set_cork(one, false);
            other.recv_all(8100);
            let _ = other.send(100);
            let _ = one.recv(200);
        }
    });
}

fn cork_then_end(stage: &Stage) {
    both_ways(stage, |one, other| {
        set_cork(one, true);
        let _ = one.send(100);
        one.close();
        other.recv_to_end();
    });
}
