//! Readers that stop: the sender stalls, and continues with every byte in place once the reader does.

use libc::{EPOLL_CTL_ADD, MSG_DONTWAIT, POLLERR, POLLIN, POLLOUT, POLLRDHUP, SHUT_WR};
use workloads::sys::{self, AGAIN, text};

use crate::halfclose::both_ways;
use crate::socket::Socket;
use crate::stage::{Mode, Scenario, Stage, background, eventually, log, pause, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("slow-fill-and-drain", fill_and_drain),
    scenario("slow-fill-and-drain-small", fill_small),
    scenario("slow-fill-both-ways", fill_both_ways),
    scenario("slow-small-buffers", small_buffers),
    scenario("slow-writer-waits", writer_waits),
    scenario("slow-edge", edge),
    scenario("slow-read-a-little", read_a_little),
    scenario("slow-fill-then-end", fill_then_end),
    scenario("slow-fill-then-close", fill_then_close),
    scenario("slow-fill-then-reset", fill_then_reset),
    scenario("slow-reader-closes", reader_closes),
    scenario("slow-send-timeout", send_timeout).only(Mode::Blocking),
    scenario("slow-first-messages", first_messages).cold(),
    scenario("slow-outq", outq),
];

/// Sends messages of this size until none is taken any more, and returns the bytes that were.
pub fn fill(end: Socket, size: usize) -> usize {
    let mut total = 0;
    let mut quiet = 0;
    while quiet < 10 {
        match end.sent(sys::send(end.fd(), &end.next(size), MSG_DONTWAIT)) {
            Ok(count) => {
                total += count;
                quiet = 0;
            }
            Err(AGAIN) => {
                quiet += 1;
                pause(10);
            }
            Err(error) => {
                end.log(format!("is filled up until {error}"));
                return total;
            }
        }
    }
    // The peer holds all it can, which is more than a socket with an active reader ever has.
    end.log(if total > 100_000 {
        "is filled up"
    } else {
        "is filled up early"
    });
    total
}

/// Reads everything, after which the sender can send again.
fn drained(sender: Socket, reader: Socket, total: usize) {
    reader.recv_quietly(total);
    sender.wait(POLLOUT);
    sender.poll(POLLIN | POLLOUT | POLLRDHUP);
    let _ = reader.recv_now(1);
    let _ = sender.send(100);
    let _ = reader.recv(200);
    let _ = reader.send(100);
    let _ = sender.recv(200);
}

/// Filled up with messages of this size before anything is read.
fn filled_and_drained(sender: Socket, reader: Socket, size: usize) {
    let total = fill(sender, size);
    sender.poll(POLLIN | POLLOUT | POLLRDHUP);
    drained(sender, reader, total);
}

fn fill_and_drain(stage: &Stage) {
    both_ways(stage, |one, other| {
        for _ in 0..2 {
            filled_and_drained(one, other, 16_384);
        }
    });
}

fn fill_small(stage: &Stage) {
    let pair = stage.warm();
    filled_and_drained(pair.client, pair.server, 700);
}

fn fill_both_ways(stage: &Stage) {
    let pair = stage.warm();
    let sent = fill(pair.client, 16_384);
    let answered = fill(pair.server, 16_384);
    for end in [pair.client, pair.server] {
        end.poll(POLLIN | POLLOUT | POLLRDHUP);
    }
    drained_first(pair.client, pair.server, sent);
    drained(pair.server, pair.client, answered);
}

/// As `drained`, while the other direction is still full.
fn drained_first(sender: Socket, reader: Socket, total: usize) {
    reader.recv_quietly(total);
    sender.wait(POLLOUT);
    let _ = reader.recv_now(1);
    let _ = sender.send(100);
    let _ = reader.recv(200);
}

fn small_buffers(stage: &Stage) {
    let listener = stage.listener();
    let client = stage.socket();
    let size = |end: Socket, name, value: i32| {
        sys::set_option(end.fd(), libc::SOL_SOCKET, name, value).expect("failed to set the size of a buffer");
    };
    // With less it would stay on TCP.
    size(listener, libc::SO_RCVBUF, 65_536);
    size(client, libc::SO_SNDBUF, 16_384);
    let pair = stage.join(client, listener);
    pair.warm_up();
    let server = pair.server;
    let reader = background(move || {
        for _ in 0..20 {
            pause(1);
            server.recv_all(10_000);
        }
        server.recv_all(300_000);
    });
    pair.client.send_all(500_000);
    reader.join();
    let _ = pair.server.send(100);
    let _ = pair.client.recv(200);
}

fn writer_waits(stage: &Stage) {
    const LENGTH: usize = 12 << 20;
    both_ways(stage, |one, other| {
        let writer = background(move || one.send_all(LENGTH));
        other.wait(POLLIN);
        pause(50);
        log(format!("the writer is held up: {}", !writer.is_finished()));
        other.recv_all(LENGTH);
        writer.join();
        let _ = other.recv_now(1);
    });
}

/// New room is an edge.
fn edge(stage: &Stage) {
    let pair = stage.warm();
    let total = fill(pair.client, 16_384);
    let epoll = sys::epoll_create().expect("failed to make an epoll instance");
    let events = (libc::EPOLLOUT | libc::EPOLLET) as u32;
    sys::epoll_control(epoll, EPOLL_CTL_ADD, pair.client.fd(), events).expect("failed to add a socket");
    let look = |milliseconds| {
        let seen = sys::epoll_wait(epoll, milliseconds);
        log(format!("an edge: {}", seen.is_ok_and(|seen| seen.is_some())));
    };
    look(0);
    pair.server.recv_quietly(total);
    look(5000);
    look(0);
}

/// A little room does not make the socket writable; plenty does.
fn read_a_little(stage: &Stage) {
    let pair = stage.warm();
    let total = fill(pair.client, 16_384);
    pair.server.recv_quietly(1000);
    pause(50);
    pair.client.poll(POLLOUT);
    pair.server.recv_quietly(total - 1000);
    pair.client.wait(POLLOUT);
    pair.client.poll(POLLOUT);
}

fn fill_then_end(stage: &Stage) {
    both_ways(stage, |one, other| {
        let total = fill(one, 16_384);
        one.shutdown(SHUT_WR);
        pause(20);
        other.poll(POLLIN | POLLRDHUP);
        other.recv_quietly(total);
        let _ = other.recv(100);
        let _ = other.send(100);
        let _ = one.recv(200);
    });
}

fn fill_then_close(stage: &Stage) {
    both_ways(stage, |one, other| {
        let total = fill(one, 16_384);
        one.close();
        pause(20);
        other.recv_quietly(total);
        let _ = other.recv(100);
    });
}

/// Unsent data is lost; the error comes after the data that was sent.
fn fill_then_reset(stage: &Stage) {
    let pair = stage.warm();
    fill(pair.client, 16_384);
    pair.client.reset();
    pair.server.wait(POLLERR);
    let mut last = Ok(1);
    let some = eventually(|| {
        last = pair.server.read_quietly(1 << 16);
        !matches!(last, Ok(1..))
    });
    log(format!("ends {some} with {}", text(last)));
    let _ = pair.server.recv_now(100);
}

/// The reader closes after the sender has stalled beyond the first TCP timers.
fn reader_closes(stage: &Stage) {
    let pair = stage.warm();
    fill(pair.client, 16_384);
    pause(500);
    pair.server.close();
    pair.client.wait(POLLERR);
    pair.client.poll(POLLIN | POLLOUT | POLLRDHUP);
    let _ = pair.client.recv_now(100);
    let _ = pair.client.recv_now(100);
}

/// SO_SNDTIMEO ends a send that finds no room.
fn send_timeout(stage: &Stage) {
    let pair = stage.warm();
    let _ = pair.client.logged(
        "SO_SNDTIMEO 100 ms",
        sys::set_timeout(pair.client.fd(), libc::SO_SNDTIMEO, 100),
    );
    let mut total = 0;
    let end = loop {
        match pair
            .client
            .sent(sys::send(pair.client.fd(), &pair.client.next(1 << 20), 0))
        {
            Ok(count) => total += count,
            Err(error) => break error,
        }
    };
    log(format!("send ends with {end}"));
    drained(pair.client, pair.server, total);
}

/// A connection filled up right from its first message.
fn first_messages(stage: &Stage) {
    let pair = stage.fresh();
    filled_and_drained(pair.client, pair.server, 16_384);
}

/// Unacknowledged bytes are counted until they are acknowledged.
fn outq(stage: &Stage) {
    let pair = stage.warm();
    let total = fill(pair.client, 16_384);
    let waiting = || sys::ioctl(pair.client.fd(), libc::TIOCOUTQ);
    log(format!(
        "SIOCOUTQ is more than 0: {}",
        waiting().is_ok_and(|count| count > 0)
    ));
    pair.server.recv_quietly(total);
    log(format!(
        "SIOCOUTQ becomes 0: {}",
        eventually(|| waiting() == Ok(0))
    ));
}
