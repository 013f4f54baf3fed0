//! Ends of different modes, and sockets whose mode changes. The stage's mode applies to the listener and, unless the
//! scenario says otherwise, the accepted socket.

use libc::{MSG_WAITALL, POLLIN, POLLOUT, POLLRDHUP, SHUT_WR};
use workloads::sys;

use crate::signals::{expect_signals, interrupt};
use crate::socket::Socket;
use crate::stage::{Mode, Pair, Scenario, Stage, background, log, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("mixed-client-turns-before-recv", turns_before_recv).cold(),
    scenario("mixed-client-turns-before-send", turns_before_send).cold(),
    scenario("mixed-client-turns-before-connect-ends", turns_before_connected).cold(),
    scenario("mixed-client-turns-early", turns_early).cold(),
    scenario("mixed-client-turns-late", turns_late),
    scenario("mixed-client-turns-late-and-sends", turns_late_and_sends),
    scenario("mixed-client-turns-late-and-talks", turns_late_and_talks),
    scenario("mixed-client-turns-with-unread", turns_with_unread),
    scenario("mixed-client-turns-waitall", turns_waitall),
    scenario("mixed-client-turns-and-back", turns_and_back),
    scenario("mixed-server-turns-late", server_turns_late),
    scenario("mixed-both-turn-late", both_turn_late),
    scenario("mixed-server-blocks-first", server_blocks_first).cold(),
    scenario("mixed-server-blocks-after-request", server_blocks_after_request).cold(),
    scenario("mixed-server-blocks-after-rounds", server_blocks_after_rounds).cold(),
    scenario("mixed-server-blocks-half-closed", server_half_closes).cold(),
    scenario("mixed-server-blocks-waitall", server_waitall).cold(),
    scenario("mixed-server-blocks-timeout", server_timeout).cold(),
    scenario("mixed-server-blocks-bulk", server_bulk).cold(),
    scenario("mixed-server-blocks-threads", server_threads).cold(),
    scenario("mixed-server-becomes-nonblocking", server_becomes_nonblocking).cold(),
    scenario("mixed-client-blocks", client_blocks).cold(),
    scenario("mixed-client-blocks-for-connect", client_blocks_for_connect).cold(),
];

use Mode::{Blocking, NonBlocking};

fn in_mode(stage: &Stage, mode: Mode) -> Stage {
    Stage { mode, ..*stage }
}

/// Connects a client and an accepted socket of these modes through a listener of the stage's mode.
fn connected(stage: &Stage, client: Mode, server: Mode) -> Pair {
    let listener = stage.listener();
    let (client_stage, server_stage) = (in_mode(stage, client), in_mode(stage, server));
    let client = client_stage.socket();
    client_stage.connect(client, listener).expect("failed to connect");
    let server = server_stage.accept(listener);
    sys::close(listener.fd()).expect("failed to close the listener");
    stage.pair(client, server)
}

/// The client connects in non-blocking mode.
fn dialled(stage: &Stage) -> Pair {
    connected(stage, NonBlocking, stage.mode)
}

fn rounds(client: Socket, server: Socket, count: usize) {
    for _ in 0..count {
        for (from, to) in [(client, server), (server, client)] {
            from.send_quietly(64);
            to.recv_quietly(64);
        }
    }
}

/// An event for a reader: its name, and what its writer does.
type Event = (&'static str, fn(Socket, Socket));

/// What wakes a blocking reader: data, the end of the stream, a reset, or a signal followed by data.
const EVENTS: [Event; 5] = [
    ("data", |reader, writer| {
        let waiting = background(move || reader.recv_with(100, 0, ""));
        let _ = writer.send(100);
        let _ = waiting.join();
        let _ = writer.send(50);
        reader.wait_unread(50);
        let _ = reader.recv(100);
    }),
    ("end", |reader, writer| {
        let waiting = background(move || reader.recv_with(100, 0, ""));
        writer.shutdown(SHUT_WR);
        let _ = waiting.join();
        let _ = reader.recv(100);
        let _ = reader.send(100);
        let _ = writer.recv(200);
    }),
    ("reset", |reader, writer| {
        let waiting = background(move || reader.recv_with(100, 0, ""));
        writer.reset();
        let _ = waiting.join();
        reader.so_error();
        let _ = reader.recv(100);
    }),
    ("signal", |reader, writer| signal(reader, writer, 0)),
    ("signal that restarts", |reader, writer| {
        signal(reader, writer, libc::SA_RESTART)
    }),
];

fn signal(reader: Socket, writer: Socket, flags: i32) {
    expect_signals(flags);
    let waiting = background(move || reader.recv_with(100, 0, ""));
    interrupt(&waiting);
    let _ = writer.send(100);
    let _ = waiting.join();
    writer.shutdown(SHUT_WR);
    reader.recv_to_end();
}

/// Each event on a connection of its own; `make` returns the reader and the writer.
fn each_event(make: impl Fn() -> (Socket, Socket)) {
    for (name, event) in EVENTS {
        log(format!("-- {name}"));
        let (reader, writer) = make();
        event(reader, writer);
    }
}

fn turns_before_recv(stage: &Stage) {
    each_event(|| {
        let pair = dialled(stage);
        (pair.client.turned(Blocking), pair.server)
    });
}

fn turns_before_send(stage: &Stage) {
    each_event(|| {
        let pair = dialled(stage);
        let client = pair.client.turned(Blocking);
        let _ = client.send(100);
        let _ = pair.server.recv(200);
        (client, pair.server)
    });
}

/// Turns blocking before the handshake has finished, as far as the program knows.
fn turns_before_connected(stage: &Stage) {
    each_event(|| {
        let listener = stage.listener();
        let client = in_mode(stage, NonBlocking).socket();
        let port = sys::port(listener.fd()).expect("a listener has a port");
        let _ = client.logged("connect", sys::connect(client.fd(), stage.family.loopback(port)));
        let client = client.turned(Blocking);
        let server = stage.accept(listener);
        client.wait(POLLOUT);
        client.so_error();
        (client, server)
    });
}

/// Turns blocking in the middle of the first messages.
fn turns_early(stage: &Stage) {
    each_event(|| {
        let pair = dialled(stage);
        rounds(pair.client, pair.server, 3);
        (pair.client.turned(Blocking), pair.server)
    });
}

fn turns_late(stage: &Stage) {
    each_event(|| {
        let pair = dialled(stage);
        pair.warm_up();
        (pair.client.turned(Blocking), pair.server)
    });
}

fn turns_late_and_sends(stage: &Stage) {
    each_event(|| {
        let pair = dialled(stage);
        pair.warm_up();
        let client = pair.client.turned(Blocking);
        let _ = client.send(100);
        let _ = pair.server.recv(200);
        (client, pair.server)
    });
}

fn turns_late_and_talks(stage: &Stage) {
    each_event(|| {
        let pair = dialled(stage);
        pair.warm_up();
        let client = pair.client.turned(Blocking);
        rounds(client, pair.server, 20);
        (client, pair.server)
    });
}

/// Unread bytes are read before the reader waits for an event.
fn turns_with_unread(stage: &Stage) {
    each_event(|| {
        let pair = dialled(stage);
        pair.warm_up();
        let _ = pair.server.send(300);
        pair.client.wait_unread(300);
        let client = pair.client.turned(Blocking);
        let _ = client.recv(200);
        let _ = client.recv(200);
        (client, pair.server)
    });
}

fn turns_waitall(stage: &Stage) {
    let pair = dialled(stage);
    pair.warm_up();
    let client = pair.client.turned(Blocking);
    waitall(client, pair.server);
}

/// A reader that wants all of a message that comes in two pieces, twice.
fn waitall(reader: Socket, writer: Socket) {
    for _ in 0..2 {
        let waiting = background(move || reader.recv_with(200, MSG_WAITALL, "WAITALL"));
        let _ = writer.send(50);
        waiting.wait_asleep();
        let _ = writer.send(150);
        let _ = waiting.join();
    }
    writer.shutdown(SHUT_WR);
    reader.recv_to_end();
}

fn turns_and_back(stage: &Stage) {
    let pair = dialled(stage);
    pair.warm_up();
    let client = pair.client.turned(Blocking);
    let _ = client.send(100);
    let _ = pair.server.recv(200);
    let client = client.turned(NonBlocking);
    let _ = client.recv_with(100, 0, "");
    rounds(client, pair.server, 20);
    let _ = client.recv_with(100, 0, "");
    client.poll(POLLIN | POLLOUT | POLLRDHUP);
    pair.server.shutdown(SHUT_WR);
    let _ = client.recv(100);
}

fn server_turns_late(stage: &Stage) {
    each_event(|| {
        let pair = stage.warm();
        (pair.server.turned(Blocking), pair.client)
    });
}

/// Both turn blocking, as when an event loop passes a connection to a thread after the handshake.
fn both_turn_late(stage: &Stage) {
    each_event(|| {
        let pair = stage.warm();
        let (client, server) = (pair.client.turned(Blocking), pair.server.turned(Blocking));
        rounds(client, server, 20);
        (client, server)
    });
}

/// A blocking server with a non-blocking client.
fn served(stage: &Stage) -> Pair {
    connected(stage, NonBlocking, Blocking)
}

fn server_blocks_first(stage: &Stage) {
    each_event(|| {
        let pair = served(stage);
        (pair.server, pair.client)
    });
}

fn server_blocks_after_request(stage: &Stage) {
    each_event(|| {
        let pair = served(stage);
        let _ = pair.client.send(100);
        let _ = pair.server.recv(200);
        (pair.server, pair.client)
    });
}

fn server_blocks_after_rounds(stage: &Stage) {
    each_event(|| {
        let pair = served(stage);
        rounds(pair.client, pair.server, 40);
        (pair.server, pair.client)
    });
}

/// The server shuts down its sending side and waits for the client's last message.
fn server_half_closes(stage: &Stage) {
    for count in [0, 1, 40] {
        log(format!("-- after {count} round trips"));
        let Pair { client, server, .. } = served(stage);
        rounds(client, server, count);
        let _ = server.send(100);
        server.shutdown(SHUT_WR);
        let reader = background(move || server.recv_to_end());
        let _ = client.recv(200);
        let _ = client.recv(200);
        for _ in 0..3 {
            let _ = client.send(1000);
        }
        client.close();
        reader.join();
    }
}

fn server_waitall(stage: &Stage) {
    for count in [0, 1, 40] {
        log(format!("-- after {count} round trips"));
        let pair = served(stage);
        rounds(pair.client, pair.server, count);
        waitall(pair.server, pair.client);
    }
}

/// A blocking recv returns EAGAIN at its timeout, and only then.
fn server_timeout(stage: &Stage) {
    for count in [0, 1, 40] {
        log(format!("-- after {count} round trips"));
        let pair = served(stage);
        rounds(pair.client, pair.server, count);
        sys::set_timeout(pair.server.fd(), libc::SO_RCVTIMEO, 60).expect("failed to set a timeout");
        let _ = pair.server.recv(100);
        let _ = pair.client.send(100);
        let _ = pair.server.recv(200);
        let _ = pair.server.recv(100);
    }
}

/// The blocking server receives a large message and answers with another.
fn server_bulk(stage: &Stage) {
    const LENGTH: usize = 8 << 20;
    let Pair { client, server, .. } = served(stage);
    let service = background(move || {
        server.recv_all(LENGTH);
        server.send_all(LENGTH);
        server.recv_to_end();
    });
    client.send_all(LENGTH);
    client.recv_all(LENGTH);
    client.shutdown(SHUT_WR);
    service.join();
}

/// The blocking server's reader waits while its writer stalls and continues.
fn server_threads(stage: &Stage) {
    const LENGTH: usize = 8 << 20;
    for count in [0, 40] {
        log(format!("-- after {count} round trips"));
        let Pair { client, server, .. } = served(stage);
        rounds(client, server, count);
        let reader = background(move || server.recv_with(100, 0, ""));
        let writer = background(move || server.send_all(LENGTH));
        client.recv_all(LENGTH);
        writer.join();
        log(format!("the reader waits: {}", !reader.is_finished()));
        let _ = client.send(100);
        let _ = reader.join();
    }
}

/// accept followed by O_NONBLOCK, as in programs that do not use accept4.
fn server_becomes_nonblocking(stage: &Stage) {
    let pair = served(stage);
    let server = pair.server.turned(NonBlocking);
    let pair = stage.pair(pair.client, server);
    let _ = server.recv_with(100, 0, "");
    pair.warm_up();
    let _ = server.recv_with(100, 0, "");
    server.poll(POLLIN | POLLOUT | POLLRDHUP);
    let _ = pair.client.send(100);
    let _ = server.recv(200);
    pair.client.shutdown(SHUT_WR);
    let _ = server.recv(200);
}

/// A blocking client with a non-blocking server.
fn client_blocks(stage: &Stage) {
    for count in [0, 40] {
        log(format!("-- after {count} round trips"));
        each_event(|| {
            let pair = connected(stage, Blocking, NonBlocking);
            rounds(pair.client, pair.server, count);
            (pair.client, pair.server)
        });
    }
}

/// Blocking during connect, non-blocking afterwards.
fn client_blocks_for_connect(stage: &Stage) {
    let pair = connected(stage, Blocking, NonBlocking);
    let client = pair.client.turned(NonBlocking);
    let pair = stage.pair(client, pair.server);
    let _ = client.recv_with(100, 0, "");
    pair.warm_up();
    let _ = client.recv_with(100, 0, "");
    let _ = pair.server.send(100);
    let _ = client.recv(200);
}
