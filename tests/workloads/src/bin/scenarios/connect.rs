//! Ways to connect and accept, and what can happen before either completes.

use libc::{POLLIN, POLLOUT, POLLRDHUP, SHUT_WR, SOL_SOCKET};
use workloads::sys::{self, text};

use crate::slow::fill;
use crate::socket::Socket;
use crate::stage::{Pair, Scenario, Stage, background, eventually, log, pause, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("connect-refused", refused).cold(),
    scenario("connect-not-yet", not_yet).cold(),
    scenario("connect-twice", twice),
    scenario("connect-from-a-chosen-port", from_a_chosen_port).cold(),
    scenario("connect-to-itself", to_itself).cold(),
    scenario("connect-data-before-accept", data_before_accept).cold(),
    scenario("connect-asks-before-recv", asks_before_recv).cold(),
    scenario("connect-bulk-before-accept", bulk_before_accept).cold(),
    scenario("connect-end-before-accept", end_before_accept).cold(),
    scenario("connect-close-before-accept", close_before_accept).cold(),
    scenario("connect-reset-before-accept", reset_before_accept).cold(),
    scenario("connect-listener-closes", listener_closes).cold(),
    scenario("connect-shared-port", shared_port).cold(),
    scenario("connect-again", again).cold(),
    scenario("connect-disconnected", disconnected),
    scenario("connect-again-when-idle", again_when_idle),
    scenario("connect-again-with-unread", again_with_unread),
    scenario("connect-again-when-ended", again_when_ended),
];

const EVENTS: i16 = POLLIN | POLLOUT | POLLRDHUP;

/// A conversation from beginning to end.
pub fn talk(pair: Pair) {
    let Pair { client, server, .. } = pair;
    for _ in 0..20 {
        client.send_quietly(64);
        server.recv_quietly(64);
        server.send_quietly(64);
        client.recv_quietly(64);
    }
    let _ = client.send(100);
    let _ = server.recv(200);
    client.shutdown(SHUT_WR);
    let _ = server.recv(200);
    let _ = server.send(100);
    server.close();
    client.recv_to_end();
}

fn refused(stage: &Stage) {
    let listener = stage.listener();
    let port = sys::port(listener.fd()).expect("a listener has a port");
    listener.close();
    let client = stage.socket();
    log(format!("connect = {}", text(stage.connect_to(client, port))));
    client.poll(EVENTS);
    client.so_error();
    let _ = client.send_with(10, libc::MSG_NOSIGNAL, "");
    let _ = client.recv_now(10);
    log(format!("connect = {}", text(stage.connect_to(client, port))));
}

fn not_yet(stage: &Stage) {
    let client = stage.socket();
    client.poll(EVENTS);
    let _ = client.send_with(10, libc::MSG_NOSIGNAL, "");
    let _ = client.recv_now(10);
    client.fionread();
    let pair = stage.join(client, stage.listener());
    talk(pair);
}

fn twice(stage: &Stage) {
    let pair = stage.warm();
    let listener = stage.listener();
    for end in [pair.client, pair.server] {
        let port = sys::port(listener.fd()).expect("a listener has a port");
        let _ = end.logged("connect", sys::connect(end.fd(), stage.family.loopback(port)));
    }
    talk(pair);
}

fn from_a_chosen_port(stage: &Stage) {
    let client = stage.socket();
    sys::bind(client.fd(), stage.family.loopback(0)).expect("failed to bind");
    talk(stage.join(client, stage.listener()));
}

/// A socket connected to itself has a single stream: what it sends.
fn to_itself(stage: &Stage) {
    let socket = stage.socket();
    sys::bind(socket.fd(), stage.family.loopback(0)).expect("failed to bind");
    let port = sys::port(socket.fd()).expect("it is bound");
    log(format!("connect = {}", text(stage.connect_to(socket, port))));
    let exchange = |length: usize| {
        let bytes: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let sent = sys::send(socket.fd(), &bytes, 0);
        socket.wait(POLLIN);
        let mut seen = vec![0; length];
        let mut count = 0;
        eventually(|| {
            let more = sys::recv(socket.fd(), &mut seen[count..], libc::MSG_DONTWAIT);
            count += more.unwrap_or(0);
            count == length
        });
        (sent, seen == bytes)
    };
    for length in [1, 100, 5000] {
        let results: Vec<_> = (0..20).map(|_| exchange(length)).collect();
        let is_good = results.iter().all(|result| *result == (Ok(length), true));
        log(format!(
            "messages of {length} come back: {}",
            if is_good {
                "yes".into()
            } else {
                format!("{results:?}")
            }
        ));
    }
    socket.shutdown(SHUT_WR);
    socket.wait(POLLRDHUP);
    let _ = socket.logged("recv 10", sys::recv(socket.fd(), &mut [0; 10], 0));
}

/// A client connected to a listener that has not accepted it.
fn waiting(stage: &Stage) -> (Socket, Socket) {
    let (client, listener) = (stage.socket(), stage.listener());
    stage.connect(client, listener).expect("failed to connect");
    (client, listener)
}

/// Waits until nothing that was sent is in flight, for readers that cannot ask for the unread bytes.
pub fn wait_for_delivery(sender: Socket) {
    let is_delivered = eventually(|| sys::ioctl(sender.fd(), libc::TIOCOUTQ) == Ok(0));
    if !is_delivered {
        sender.log("has sent what is not acknowledged");
    }
    // Acknowledged data may not have reached the socket's queue yet.
    pause(5);
}

fn data_before_accept(stage: &Stage) {
    for count in [1, 3, 12] {
        let (client, listener) = waiting(stage);
        for _ in 0..count {
            let _ = client.send(100);
        }
        wait_for_delivery(client);
        let server = stage.accept(listener);
        let _ = client.send(50);
        server.wait(POLLIN);
        server.recv_all(count * 100 + 50);
        talk(stage.pair(client, server));
    }
}

/// FIONREAD before the first recv.
fn asks_before_recv(stage: &Stage) {
    let (client, listener) = waiting(stage);
    let _ = client.send(100);
    wait_for_delivery(client);
    let server = stage.accept(listener);
    server.poll(EVENTS);
    server.fionread();
    let _ = client.send(50);
    wait_for_delivery(client);
    server.fionread();
    let _ = server.recv_with(10, libc::MSG_PEEK, "PEEK");
    let _ = server.recv(10);
    server.fionread();
    server.recv_all(140);
    server.fionread();
    talk(stage.pair(client, server));
}

/// As much data as the connection holds.
fn bulk_before_accept(stage: &Stage) {
    let (client, listener) = waiting(stage);
    let filled = fill(client, 16_384);
    let server = stage.accept(listener);
    server.recv_quietly(filled);
    talk(stage.pair(client, server));
}

/// The server answers a client that has ended its stream.
pub fn answered_end(client: Socket, server: Socket) {
    server.wait(POLLRDHUP);
    server.poll(EVENTS);
    server.recv_to_end();
    let _ = server.send(100);
    server.close();
    client.recv_to_end();
}

/// Client and server of a connection that had 100 bytes before it was accepted.
pub fn with_early_bytes(stage: &Stage) -> (Socket, Socket) {
    let listener = stage.listener();
    let client = stage.socket();
    let _ = client.logged("connect", stage.connect(client, listener));
    let _ = client.send(100);
    pause(20);
    (client, stage.accept(listener))
}

fn end_before_accept(stage: &Stage) {
    for count in [0, 1, 3] {
        let (client, listener) = waiting(stage);
        for _ in 0..count {
            let _ = client.send(100);
        }
        client.shutdown(SHUT_WR);
        let server = stage.accept(listener);
        answered_end(client, server);
    }
}

fn close_before_accept(stage: &Stage) {
    for count in [0, 1, 3] {
        let (client, listener) = waiting(stage);
        for _ in 0..count {
            let _ = client.send(100);
        }
        client.close();
        let server = stage.accept(listener);
        server.wait(POLLRDHUP);
        server.poll(EVENTS);
        server.recv_to_end();
        let _ = server.recv(10);
    }
}

fn reset_before_accept(stage: &Stage) {
    for count in [0, 1, 3] {
        let (client, listener) = waiting(stage);
        for _ in 0..count {
            let _ = client.send(100);
        }
        wait_for_delivery(client);
        client.reset();
        let server = stage.accept(listener);
        server.wait(POLLRDHUP);
        server.poll(EVENTS);
        server.recv_to_end();
        server.so_error();
        let _ = server.recv_now(10);
    }
}

/// Closing a listener resets connections that were not accepted.
fn listener_closes(stage: &Stage) {
    let (client, listener) = waiting(stage);
    let _ = client.send(100);
    wait_for_delivery(client);
    let reader = background(move || client.recv(10));
    listener.close();
    let _ = reader.join();
    client.poll(EVENTS);
    let _ = client.recv(10);
}

/// Two listeners on one port: each connection goes to one of them.
fn shared_port(stage: &Stage) {
    let listener = |port: u16| {
        let fd = sys::socket(stage.family, stage.flags()).expect("failed to make a socket");
        sys::set_option(fd, SOL_SOCKET, libc::SO_REUSEPORT, 1_i32).expect("failed to set SO_REUSEPORT");
        sys::bind(fd, stage.family.loopback(port)).expect("failed to bind");
        sys::listen(fd, 16).expect("failed to listen");
        Socket::new("listener", fd, stage.mode)
    };
    let first = listener(0);
    let port = sys::port(first.fd()).expect("a listener has a port");
    let second = listener(port);
    for _ in 0..8 {
        let client = stage.socket();
        stage.connect_to(client, port).expect("failed to connect");
        let is_first = sys::poll(first.fd(), POLLIN, 0).is_ok_and(|seen| seen != 0);
        let server = stage.accept(if is_first { first } else { second });
        talk(stage.pair(client, server));
    }
}

/// A disconnected socket remembers nothing of its previous connection.
fn disconnected(stage: &Stage) {
    for (name, end) in ENDS {
        log(format!("-- {name}"));
        let pair = stage.warm();
        end(pair);
        let client = pair.client;
        let _ = client.logged("disconnect", sys::disconnect(client.fd()));
        client.poll(EVENTS);
        let _ = client.logged(
            "recv 10",
            sys::recv(client.fd(), &mut [0; 10], libc::MSG_DONTWAIT),
        );
        client.fionread();
    }
}

/// How a first connection ends: a name, and the calls for it.
type End = (&'static str, fn(Pair));

/// What can precede a disconnection.
const ENDS: [End; 3] = [
    ("idle", |_| ()),
    ("unread", |pair| {
        let _ = pair.server.send(100);
        pair.client.wait_unread(100);
    }),
    ("ended", |pair| {
        pair.server.close();
        pair.client.wait(POLLRDHUP);
        let _ = pair.client.recv(10);
    }),
];

/// A socket that disconnects and connects to another listener starts with new streams.
fn connect_again(stage: &Stage, client: Socket) {
    let _ = client.logged("disconnect", sys::disconnect(client.fd()));
    let listener = stage.listener();
    let client = Socket::new("client", client.fd(), client.mode());
    match stage.connect(client, listener) {
        Ok(_) => talk(stage.pair(client, stage.accept(listener))),
        Err(error) => log(format!("connect = {error}")),
    }
}

fn again(stage: &Stage) {
    connect_again(stage, stage.fresh().client);
}

fn again_when_idle(stage: &Stage) {
    let pair = stage.warm();
    connect_again(stage, pair.client);
    let _ = pair.server.recv(10);
}

fn again_with_unread(stage: &Stage) {
    let pair = stage.warm();
    let [_, (_, unread), _] = ENDS;
    unread(pair);
    connect_again(stage, pair.client);
    let _ = pair.server.recv(10);
}

fn again_when_ended(stage: &Stage) {
    let pair = stage.warm();
    let [.., (_, ended)] = ENDS;
    ended(pair);
    connect_again(stage, pair.client);
}
