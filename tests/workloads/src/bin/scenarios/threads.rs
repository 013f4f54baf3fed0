//! Several threads on one socket.

use std::cmp::Reverse;
use std::sync::{Arc, Barrier};

use libc::{POLLIN, SHUT_RD, SHUT_RDWR, SHUT_WR};
use workloads::sys::{self, AGAIN, Outcome, text};

use crate::halfclose::both_ways;
use crate::signals::Writer;
use crate::socket::Socket;
use crate::stage::{Background, Mode, Pair, Scenario, Stage, background, eventually, log, pause, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("threads-two-readers-one-each", one_each),
    scenario("threads-two-readers-one-message", one_message),
    scenario("threads-two-readers-end", two_readers_end),
    scenario("threads-two-readers-fresh", one_each_fresh).cold(),
    scenario("threads-reader-and-writer", reader_and_writer),
    scenario("threads-reader-and-writer-fresh", reader_and_writer_fresh).cold(),
    scenario("threads-reader-waits-while-writer-fills", reader_waits),
    scenario("threads-many-senders", many_senders),
    scenario("threads-many-senders-fresh", many_senders_fresh).cold(),
    scenario("threads-shutdown-rd-ends-recv", shutdown_rd),
    scenario("threads-shutdown-wr-during-recv", shutdown_wr),
    scenario("threads-shutdown-rdwr-ends-recv", shutdown_rdwr),
    scenario("threads-shutdown-ends-recv-fresh", shutdown_fresh).cold(),
    scenario("threads-shutdown-ends-send", shutdown_ends_send).only(Mode::Blocking),
    scenario("threads-waitall-and-writer", waitall_and_writer).only(Mode::Blocking),
    scenario("threads-poll-and-recv", poll_and_recv),
];

/// Takes one message as a program of this mode does, in competition with other readers, without a line.
fn take(socket: Socket) -> (Outcome, Vec<u8>) {
    let mut buffer = vec![0; 1000];
    loop {
        socket.wait_if_nonblocking(POLLIN);
        let outcome = sys::recv(socket.fd(), &mut buffer, 0);
        // Another reader was faster.
        if outcome == Err(AGAIN) && socket.mode() == Mode::NonBlocking {
            continue;
        }
        buffer.truncate(outcome.unwrap_or(0));
        return (outcome, buffer);
    }
}

type Taker = Background<(Outcome, Vec<u8>)>;

fn two_takers(socket: Socket) -> Vec<Taker> {
    (0..2).map(|_| background(move || take(socket))).collect()
}

/// Waits until a reader is done, and logs the results of all that are, data first.
fn log_done(readers: &mut Vec<Taker>, socket: Socket) {
    if readers.is_empty() {
        log("no reader is left");
        return;
    }
    eventually(|| readers.iter().any(Background::is_finished));
    // A reader that finishes too early has finished by then.
    pause(60);
    let (done, waiting): (Vec<_>, Vec<_>) = readers.drain(..).partition(Background::is_finished);
    readers.extend(waiting);
    let mut results: Vec<_> = done.into_iter().map(Background::join).collect();
    results.sort_by_key(|(outcome, _)| Reverse(outcome.unwrap_or(0)));
    for (outcome, bytes) in results {
        let verdict = socket.compare(&bytes);
        log(format!("a reader has {}{verdict}", text(outcome)));
        socket.received(bytes.len());
    }
}

/// Logs if the remaining readers still wait.
fn rest(readers: &[Taker]) {
    pause(30);
    let waiting = readers.iter().filter(|reader| !reader.is_finished()).count();
    log(format!("readers that wait: {waiting} of {}", readers.len()));
}

fn readers_one_each(pair: Pair) {
    let mut readers = two_takers(pair.server);
    for _ in 0..2 {
        rest(&readers);
        let _ = pair.client.send(100);
        log_done(&mut readers, pair.server);
    }
    pair.client.shutdown(SHUT_WR);
    pair.server.recv_to_end();
}

fn one_each(stage: &Stage) {
    readers_one_each(stage.warm());
}

fn one_each_fresh(stage: &Stage) {
    readers_one_each(stage.fresh());
}

fn one_message(stage: &Stage) {
    both_ways(stage, |one, other| {
        let mut readers = two_takers(one);
        let _ = other.send(100);
        log_done(&mut readers, one);
        rest(&readers);
        let _ = other.send(100);
        log_done(&mut readers, one);
    });
}

/// Both readers see the end of the stream.
fn two_readers_end(stage: &Stage) {
    both_ways(stage, |one, other| {
        let mut readers = two_takers(one);
        other.shutdown(SHUT_WR);
        log_done(&mut readers, one);
        let _ = one.send(100);
        let _ = other.recv(200);
    });
}

/// Each end has a reader thread and a writer thread; several megabytes.
fn bulk_both_ways(pair: Pair) {
    const LENGTH: usize = 6 << 20;
    let threads: Vec<_> = [pair.client, pair.server]
        .into_iter()
        .flat_map(|end| {
            [
                background(move || end.recv_all(LENGTH)),
                background(move || end.send_all(LENGTH)),
            ]
        })
        .collect();
    for thread in threads {
        thread.join();
    }
    let _ = pair.client.recv_now(1);
    let _ = pair.server.recv_now(1);
}

fn reader_and_writer(stage: &Stage) {
    bulk_both_ways(stage.warm());
}

fn reader_and_writer_fresh(stage: &Stage) {
    bulk_both_ways(stage.fresh());
}

/// One thread waits for an answer while another writes until it stalls, then continues: room for the writer is no data
/// for the reader.
fn reader_waits(stage: &Stage) {
    both_ways(stage, |one, other| {
        const LENGTH: usize = 12 << 20;
        let reader = background(move || one.recv(100));
        let writer = background(move || one.send_all(LENGTH));
        pause(20);
        other.recv_all(LENGTH);
        writer.join();
        log(format!("the reader waits: {}", !reader.is_finished()));
        let _ = other.send(100);
        let _ = reader.join();
    });
}

/// A frame of one of several threads: length, thread, number, filling.
fn frame(thread: u8, number: u8) -> Vec<u8> {
    let length = 10 + (usize::from(thread) * 31 + usize::from(number) * 7) % 90;
    let mut frame = vec![thread ^ number; length];
    frame[..3].copy_from_slice(&[length as u8, thread, number]);
    frame
}

/// Small frames are not torn, none is lost or repeated, and each thread's frames stay in order.
fn senders(from: Socket, to: Socket) {
    const THREADS: u8 = 6;
    const ROUNDS: u8 = 40;
    // Keeps everyone close to the reader: a sender that stalls inside a frame may tear it on TCP too.
    let barrier = Arc::new(Barrier::new(usize::from(THREADS)));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let barrier = Arc::clone(&barrier);
            std::thread::spawn(move || {
                let mut wrong = None;
                for number in 0..ROUNDS {
                    barrier.wait();
                    let frame = frame(thread, number);
                    let outcome = sys::send(from.fd(), &frame, 0);
                    if outcome != Ok(frame.len()) {
                        wrong = wrong.or(Some(outcome));
                    }
                }
                wrong
            })
        })
        .collect();
    let mut bytes = Vec::new();
    let expected: usize = (0..THREADS)
        .flat_map(|thread| (0..ROUNDS).map(move |number| frame(thread, number).len()))
        .sum();
    while bytes.len() < expected {
        match take(to) {
            (Ok(1..), more) => bytes.extend(more),
            (outcome, _) => {
                log(format!("recv = {} after {} bytes", text(outcome), bytes.len()));
                break;
            }
        }
    }
    for thread in threads {
        if let Some(wrong) = thread.join().expect("a sender panicked") {
            log(format!("a send = {}", text(wrong)));
        }
    }
    log(check(&bytes, THREADS, ROUNDS));
    let _ = to.recv_now(1);
}

fn check(mut bytes: &[u8], threads: u8, rounds: u8) -> String {
    let mut next = vec![0; usize::from(threads)];
    while let Some(&length) = bytes.first() {
        let length = usize::from(length);
        let Some((head, rest)) = bytes.split_at_checked(length.max(3)) else {
            return format!("a frame is cut off: {bytes:?}");
        };
        let (thread, number) = (head[1], head[2]);
        if thread >= threads || head != frame(thread, number) {
            return format!("a frame is torn: {head:?}");
        }
        if number != next[usize::from(thread)] {
            return format!("a thread's frames are out of order: {head:?}");
        }
        next[usize::from(thread)] += 1;
        bytes = rest;
    }
    format!("all frames: {}", next.iter().all(|count| *count == rounds))
}

fn many_senders(stage: &Stage) {
    both_ways(stage, senders);
}

fn many_senders_fresh(stage: &Stage) {
    let pair = stage.fresh();
    senders(pair.client, pair.server);
}

/// Another thread shuts the socket down while one waits for data.
fn shutdown_during_recv(one: Socket, other: Socket, how: i32) {
    let waiting = background(move || one.recv(100));
    one.shutdown(how);
    waiting.wait_asleep();
    log(format!("the reader waits: {}", !waiting.is_finished()));
    if how != SHUT_RDWR {
        let _ = other.send(100);
    }
    if how != SHUT_RD {
        let _ = other.recv(100);
    }
    other.shutdown(SHUT_WR);
    let _ = waiting.join();
    one.recv_to_end();
}

fn shutdown_rd(stage: &Stage) {
    both_ways(stage, |one, other| shutdown_during_recv(one, other, SHUT_RD));
}

fn shutdown_wr(stage: &Stage) {
    both_ways(stage, |one, other| shutdown_during_recv(one, other, SHUT_WR));
}

fn shutdown_rdwr(stage: &Stage) {
    both_ways(stage, |one, other| shutdown_during_recv(one, other, SHUT_RDWR));
}

fn shutdown_fresh(stage: &Stage) {
    for how in [SHUT_RD, SHUT_WR, SHUT_RDWR] {
        let pair = stage.fresh();
        shutdown_during_recv(pair.client, pair.server, how);
        let pair = stage.fresh();
        shutdown_during_recv(pair.server, pair.client, how);
    }
}

/// Another thread shuts the socket down while one waits for room.
fn shutdown_ends_send(stage: &Stage) {
    both_ways(stage, |one, other| {
        crate::halfclose::count_sigpipe();
        let writer = Writer::start(one);
        one.shutdown(SHUT_WR);
        writer.thread.wait_asleep();
        log(format!("the writer is stopped: {}", writer.thread.is_finished()));
        writer.finish(other);
        crate::halfclose::log_sigpipe();
        let _ = other.recv(100);
    });
}

/// A reader that wants all of a large message, and a writer on the same socket that stalls and continues.
fn waitall_and_writer(stage: &Stage) {
    both_ways(stage, |one, other| {
        const LENGTH: usize = 8 << 20;
        let reader = background(move || one.recv_with(200_000, libc::MSG_WAITALL, "WAITALL"));
        let writer = background(move || one.send_all(LENGTH));
        let _ = other.send(1000);
        pause(10);
        other.recv_all(LENGTH);
        writer.join();
        other.send_all(199_000);
        let _ = reader.join();
    });
}

/// Both see the data, which stays until one takes it.
fn poll_and_recv(stage: &Stage) {
    let pair = stage.warm();
    let server = pair.server;
    let poller = background(move || {
        server.wait(POLLIN);
        server.poll(POLLIN);
    });
    let _ = pair.client.send(100);
    poller.join();
    let reader = background(move || server.recv(100));
    let _ = reader.join();
    let poller = background(move || sys::poll(server.fd(), POLLIN, -1));
    pair.client.shutdown(SHUT_WR);
    log(format!("poll sees an end: {}", poller.join() == Ok(POLLIN)));
    server.recv_to_end();
}
