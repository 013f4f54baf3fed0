//! io_uring on sockets: requests that complete at once and requests that wait, polls, cancellation, zero-copy sends.

use libc::{MSG_DONTWAIT, MSG_WAITALL, POLLIN, POLLOUT, SHUT_WR};
use workloads::sys::ring::{self, Completion, Lent, Ring};
use workloads::sys::{self, Outcome, text};

use crate::halfclose::both_ways;
use crate::socket::{Socket, events_text};
use crate::stage::{Scenario, Stage, log, pause, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("uring-send-recv", send_recv),
    scenario("uring-read-write", read_write),
    scenario("uring-recv-waits", recv_waits),
    scenario("uring-recv-waits-for-end", recv_waits_for_end),
    scenario("uring-recv-waits-for-reset", recv_waits_for_reset),
    scenario("uring-recv-waits-fresh", recv_waits_fresh).cold(),
    scenario("uring-recv-waitall", recv_waitall),
    scenario("uring-recv-cancelled", recv_cancelled),
    scenario("uring-send-large", send_large),
    scenario("uring-send-large-waitall", send_large_waitall),
    scenario("uring-poll", poll),
    scenario("uring-send-zc", send_zc),
    scenario("uring-send-zc-fresh", send_zc_fresh).cold(),
];

/// Runs with a ring, or logs why there is none.
fn with_ring(work: impl FnOnce(&Ring)) {
    match Ring::new() {
        Ok(ring) => work(&ring),
        Err(error) => log(format!("io_uring_setup = {error}")),
    }
}

/// The completion of the single request in flight, which may have arrived by now.
struct Pending<'ring> {
    ring: &'ring Ring,
    done: Option<Completion>,
}

impl<'ring> Pending<'ring> {
    fn new(ring: &'ring Ring) -> Self {
        Self { ring, done: None }
    }

    fn log_waiting(&mut self, name: &str) {
        // An unexpected completion would be here by then.
        pause(10);
        self.done = self.ring.look();
        log(format!("{name} waits: {}", self.done.is_none()));
    }

    fn is_over(&mut self) -> bool {
        if self.done.is_none() {
            self.done = self.ring.look();
        }
        self.done.is_some()
    }

    fn completion(self) -> Completion {
        self.done.unwrap_or_else(|| self.ring.wait())
    }
}

/// A request to receive bytes of the stream.
struct Receiving<'ring> {
    pending: Pending<'ring>,
    socket: Socket,
    lent: Lent,
    length: usize,
    name: &'static str,
}

fn receive(ring: &Ring, socket: Socket, operation: u8, length: usize, flags: i32) -> Receiving<'_> {
    let lent = ring.receive(operation, socket.fd(), length, flags, 1);
    Receiving {
        pending: Pending::new(ring),
        socket,
        lent,
        length,
        name: if operation == ring::READ { "READ" } else { "RECV" },
    }
}

impl Receiving<'_> {
    fn log_waiting(&mut self) {
        self.pending.log_waiting(self.name);
    }

    fn log_completion(self) {
        let completion = self.pending.completion();
        let bytes = self.lent.received(&completion);
        let verdict = self.socket.compare(bytes);
        let call = format!("{} {} = {}", self.name, self.length, text(completion.outcome));
        self.socket.log(format!("{call}{verdict}"));
        self.socket.received(bytes.len());
    }
}

/// Sends the next bytes of the stream with one request, and waits for its completion.
fn send(ring: &Ring, socket: Socket, operation: u8, length: usize) -> Outcome {
    ring.send(operation, socket.fd(), socket.next(length), 0, 2);
    let name = match operation {
        ring::WRITE => "WRITE",
        ring::SEND_ZC => "SEND_ZC",
        _ => "SEND",
    };
    let Completion { outcome, flags, .. } = ring.wait();
    let _ = socket.logged(&format!("{name} {length}"), socket.sent(outcome));
    if flags & ring::MORE != 0 {
        let notification = ring.wait();
        socket.log(format!("notification {}", text(notification.outcome)));
    }
    outcome
}

fn there_and_back(stage: &Stage, send_by: u8, receive_by: u8) {
    both_ways(stage, |one, other| {
        with_ring(|ring| {
            for length in [1, 100, 30_000] {
                let _ = send(ring, one, send_by, length);
                other.wait_unread(length);
                receive(ring, other, receive_by, length / 2 + 1, 0).log_completion();
                if length > 1 {
                    receive(ring, other, receive_by, length, 0).log_completion();
                }
            }
            one.shutdown(SHUT_WR);
            other.wait(libc::POLLRDHUP);
            receive(ring, other, receive_by, 100, 0).log_completion();
        });
    });
}

fn send_recv(stage: &Stage) {
    there_and_back(stage, ring::SEND, ring::RECV);
}

fn read_write(stage: &Stage) {
    there_and_back(stage, ring::WRITE, ring::READ);
}

/// A request that waits until the peer does `event`.
fn waiting(one: Socket, event: impl FnOnce()) {
    with_ring(|ring| {
        let mut request = receive(ring, one, ring::RECV, 100, 0);
        request.log_waiting();
        event();
        request.log_completion();
    });
}

fn recv_waits(stage: &Stage) {
    both_ways(stage, |one, other| {
        for _ in 0..2 {
            waiting(one, || {
                let _ = other.send(100);
            });
        }
        let _ = one.send(100);
        let _ = other.recv(200);
    });
}

fn recv_waits_for_end(stage: &Stage) {
    both_ways(stage, |one, other| {
        waiting(one, || other.shutdown(SHUT_WR));
    });
}

fn recv_waits_for_reset(stage: &Stage) {
    both_ways(stage, |one, other| waiting(one, || other.reset()));
}

fn recv_waits_fresh(stage: &Stage) {
    let pair = stage.fresh();
    waiting(pair.server, || {
        let _ = pair.client.send(100);
    });
    waiting(pair.client, || {
        let _ = pair.server.send(100);
    });
}

/// All of a message that comes in two pieces, the first of which is already there.
fn recv_waitall(stage: &Stage) {
    both_ways(stage, |one, other| {
        with_ring(|ring| {
            let _ = other.send(100);
            one.wait_unread(100);
            let mut request = receive(ring, one, ring::RECV, 300, MSG_WAITALL);
            request.log_waiting();
            let _ = other.send(200);
            request.log_completion();
        });
    });
}

fn recv_cancelled(stage: &Stage) {
    both_ways(stage, |one, other| {
        with_ring(|ring| {
            let mut request = receive(ring, one, ring::RECV, 100, 0);
            request.log_waiting();
            ring.cancel(1, 3);
            let mut results = [ring.wait(), ring.wait()];
            results.sort_by_key(|result| result.id);
            for result in results {
                log(format!("request {} = {}", result.id, text(result.outcome)));
            }
            let _ = other.send(100);
            let _ = one.recv(200);
        });
    });
}

/// Receives until this many bytes, or until the request has completed and nothing more arrives.
fn take(reader: Socket, pending: &mut Pending, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    let mut quiet = 0;
    while bytes.len() < length && quiet < 50 {
        match sys::recv(reader.fd(), &mut buffer, MSG_DONTWAIT) {
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(_) => {
                quiet += usize::from(pending.is_over());
                pause(1);
            }
        }
    }
    bytes
}

/// A request to send more than there is room for: all of it, or a part as send itself does.
fn large(one: Socket, other: Socket, flags: i32) {
    const LENGTH: usize = 16 << 20;
    with_ring(|ring| {
        let stream = one.next(LENGTH);
        ring.send(ring::SEND, one.fd(), stream.clone(), flags, 2);
        let mut pending = Pending::new(ring);
        if flags & MSG_WAITALL != 0 {
            pending.log_waiting("SEND");
        }
        let taken = take(other, &mut pending, LENGTH);
        let outcome = pending.completion().outcome;
        one.log(match outcome {
            Ok(LENGTH) => "SEND = all".into(),
            Ok(1..) => "SEND = a part".into(),
            other => format!("SEND = {}", text(other)),
        });
        let is_same = Ok(taken.len()) == outcome && stream.starts_with(&taken);
        other.log(if is_same {
            "takes the same bytes"
        } else {
            "takes wrong bytes"
        });
    });
}

fn send_large(stage: &Stage) {
    both_ways(stage, |one, other| large(one, other, 0));
}

fn send_large_waitall(stage: &Stage) {
    both_ways(stage, |one, other| large(one, other, MSG_WAITALL));
}

fn log_events(socket: Socket, outcome: Outcome) {
    let events = outcome.map(|events| events_text(events as u32));
    socket.log(format!(
        "POLL_ADD = {}",
        events.unwrap_or_else(|error| error.to_string())
    ));
}

/// One-shot polls for room, data, and the end of the stream.
fn poll(stage: &Stage) {
    both_ways(stage, |one, other| {
        with_ring(|ring| {
            ring.poll(one.fd(), POLLOUT, 1);
            log_events(one, ring.wait().outcome);
            for event in [0, 1] {
                ring.poll(one.fd(), POLLIN, 1);
                let mut pending = Pending::new(ring);
                pending.log_waiting("POLL_ADD");
                if event == 0 {
                    let _ = other.send(100);
                } else {
                    other.shutdown(SHUT_WR);
                }
                log_events(one, pending.completion().outcome);
                receive(ring, one, ring::RECV, 200, 0).log_completion();
            }
        });
    });
}

fn without_copies(one: Socket, other: Socket) {
    with_ring(|ring| {
        for length in [100, 20_000] {
            if send(ring, one, ring::SEND_ZC, length).is_err() {
                return;
            }
            other.recv_all(length);
            let _ = other.send(100);
            let _ = one.recv(200);
        }
    });
}

fn send_zc(stage: &Stage) {
    both_ways(stage, without_copies);
}

fn send_zc_fresh(stage: &Stage) {
    let pair = stage.fresh();
    without_copies(pair.client, pair.server);
    let pair = stage.fresh();
    without_copies(pair.server, pair.client);
}
