//! Signals to a thread that waits on a socket, with and without SA_RESTART.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{POLLIN, POLLOUT, SA_RESTART, SHUT_WR};
use workloads::sys::{self, Errno};

use crate::halfclose::both_ways;
use crate::slow::fill;
use crate::socket::{Socket, events_text};
use crate::stage::{Background, Mode, Scenario, Stage, background, eventually, log, scenario};

pub const SCENARIOS: &[Scenario] = &[
    scenario("signals-recv", recv).only(Mode::Blocking),
    scenario("signals-recv-restart", recv_restart).only(Mode::Blocking),
    scenario("signals-recv-fresh", recv_fresh)
        .only(Mode::Blocking)
        .cold(),
    scenario("signals-recv-fresh-restart", recv_fresh_restart)
        .only(Mode::Blocking)
        .cold(),
    scenario("signals-recv-timeout", recv_timeout).only(Mode::Blocking),
    scenario("signals-recv-waitall", recv_waitall).only(Mode::Blocking),
    scenario("signals-recv-peek", recv_peek).only(Mode::Blocking),
    scenario("signals-send", send).only(Mode::Blocking),
    scenario("signals-send-restart", send_restart).only(Mode::Blocking),
    scenario("signals-send-part", send_part).only(Mode::Blocking),
    scenario("signals-send-timeout", send_timeout).only(Mode::Blocking),
    scenario("signals-poll", poll),
    scenario("signals-epoll", epoll),
    scenario("signals-poll-fresh", poll_fresh).cold(),
    scenario("signals-before-data", before_data),
    scenario("signals-io", io),
    scenario("signals-io-realtime", io_realtime),
];

const SIGNAL: i32 = libc::SIGUSR1;

/// Counts the signals sent by `interrupt`; `flags` are SA_RESTART or 0.
pub fn expect_signals(flags: i32) {
    sys::count_signal(SIGNAL, flags).expect("failed to install a handler");
}

fn log_caught() {
    log(format!("caught: {}", eventually(|| sys::signals_caught() > 0)));
}

/// Signals a sleeping thread and logs if that ended its sleep.
pub fn interrupt<T>(sleeper: &Background<T>) {
    if sleeper.is_finished() {
        log("the call was over before the signal");
        return;
    }
    sys::signal_thread(sleeper.thread, SIGNAL).expect("failed to send a signal");
    log_caught();
    sleeper.wait_asleep();
    log(if sleeper.is_finished() {
        "the signal ends the call"
    } else {
        "the call goes on"
    });
}

/// A reader that is signalled twice before the data that it waits for arrives.
fn interrupted_reader(reader: Socket, writer: Socket, flags: i32) {
    expect_signals(flags);
    let waiting = background(move || reader.recv_with(100, 0, ""));
    interrupt(&waiting);
    interrupt(&waiting);
    let _ = writer.send(100);
    let _ = waiting.join();
    writer.shutdown(SHUT_WR);
    reader.recv_to_end();
}

fn recv(stage: &Stage) {
    both_ways(stage, |one, other| interrupted_reader(one, other, 0));
}

fn recv_restart(stage: &Stage) {
    both_ways(stage, |one, other| interrupted_reader(one, other, SA_RESTART));
}

/// On a connection that has carried nothing yet.
fn recv_fresh(stage: &Stage) {
    let pair = stage.fresh();
    interrupted_reader(pair.server, pair.client, 0);
    let pair = stage.fresh();
    interrupted_reader(pair.client, pair.server, 0);
}

fn recv_fresh_restart(stage: &Stage) {
    let pair = stage.fresh();
    interrupted_reader(pair.server, pair.client, SA_RESTART);
    let pair = stage.fresh();
    interrupted_reader(pair.client, pair.server, SA_RESTART);
}

/// A call with a timeout is not restarted.
fn recv_timeout(stage: &Stage) {
    let pair = stage.warm();
    sys::set_timeout(pair.server.fd(), libc::SO_RCVTIMEO, 5000).expect("failed to set a timeout");
    interrupted_reader(pair.server, pair.client, SA_RESTART);
}

/// The result is what has arrived by then.
fn recv_waitall(stage: &Stage) {
    let pair = stage.warm();
    let (client, server) = (pair.client, pair.server);
    expect_signals(SA_RESTART);
    let waiting = background(move || server.recv_with(200, libc::MSG_WAITALL, "WAITALL"));
    let _ = client.send(60);
    waiting.wait_asleep();
    interrupt(&waiting);
    let _ = client.send(140);
    let _ = waiting.join();
    client.shutdown(SHUT_WR);
    server.recv_to_end();
}

fn recv_peek(stage: &Stage) {
    let pair = stage.warm();
    let server = pair.server;
    expect_signals(0);
    let waiting = background(move || server.recv_with(100, libc::MSG_PEEK, "PEEK"));
    interrupt(&waiting);
    let _ = pair.client.send(100);
    let _ = waiting.join();
    server.wait_unread(100);
    let _ = server.recv_with(100, libc::MSG_PEEK, "PEEK");
    let _ = server.recv(100);
}

/// A thread that sends until it is stopped or a send fails; it waits for room, and room that appears late is used too.
pub struct Writer {
    socket: Socket,
    is_told: Arc<AtomicBool>,
    pub thread: Background<(usize, Option<Errno>)>,
}

impl Writer {
    pub fn start(socket: Socket) -> Self {
        let is_told = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_told);
        let thread = background(move || {
            let mut total = 0;
            while !told.load(Ordering::SeqCst) {
                match socket.sent(sys::send(socket.fd(), &socket.next(16_384), 0)) {
                    Ok(count) => total += count,
                    Err(error) => return (total, Some(error)),
                }
            }
            (total, None)
        });
        Self {
            socket,
            is_told,
            thread,
        }
    }

    /// Joins the thread while the reader takes everything it has sent.
    pub fn finish(self, reader: Socket) {
        self.is_told.store(true, Ordering::SeqCst);
        let mut taken = 0;
        let mut take = || {
            while let Ok(count @ 1..) = reader.read_quietly(1 << 16) {
                taken += count;
            }
        };
        eventually(|| {
            take();
            self.thread.is_finished()
        });
        let (total, error) = self.thread.join();
        reader.recv_quietly(total - taken);
        let error = error.map_or_else(|| "when it is told to".into(), |error| format!("with {error}"));
        self.socket.log(format!("stops to send {error}"));
    }
}

/// A writer that waits for room is signalled, then the reader continues. The first signal may end a send that has
/// taken part of its message; the next finds nothing sent.
fn interrupted_writer(one: Socket, other: Socket, flags: i32) {
    expect_signals(flags);
    let writer = Writer::start(one);
    for _ in 0..3 {
        if !writer.thread.is_finished() {
            sys::signal_thread(writer.thread.thread, SIGNAL).expect("failed to send a signal");
            eventually(|| sys::signals_caught() > 0);
            writer.thread.wait_asleep();
        }
    }
    log(format!("the signals end it: {}", writer.thread.is_finished()));
    writer.finish(other);
    let _ = one.send(50);
    one.shutdown(SHUT_WR);
    other.recv_to_end();
}

fn send(stage: &Stage) {
    both_ways(stage, |one, other| interrupted_writer(one, other, 0));
}

fn send_restart(stage: &Stage) {
    both_ways(stage, |one, other| interrupted_writer(one, other, SA_RESTART));
}

fn send_timeout(stage: &Stage) {
    let pair = stage.warm();
    sys::set_timeout(pair.client.fd(), libc::SO_SNDTIMEO, 5000).expect("failed to set a timeout");
    interrupted_writer(pair.client, pair.server, SA_RESTART);
}

/// A signal in the middle of a large send: the result is what was taken by then.
fn send_part(stage: &Stage) {
    const LENGTH: usize = 32 << 20;
    both_ways(stage, |one, other| {
        expect_signals(SA_RESTART);
        let waiting = background(move || one.sent(sys::send(one.fd(), &one.next(LENGTH), 0)));
        interrupt(&waiting);
        match waiting.join() {
            Ok(sent) => {
                log(format!("sent a part: {}, sent all: {}", sent > 0, sent == LENGTH));
                other.recv_quietly(sent);
            }
            Err(error) => log(format!("sent = {error}")),
        }
        one.shutdown(SHUT_WR);
        other.recv_to_end();
    });
}

/// A thread in `wait` is signalled and waits again; then data arrives.
fn interrupted_wait(reader: Socket, writer: Socket, wait: fn(Socket)) {
    for flags in [0, SA_RESTART] {
        expect_signals(flags);
        let waiting = background(move || wait(reader));
        interrupt(&waiting);
        waiting.join();
    }
    let waiting = background(move || wait(reader));
    let _ = writer.send(100);
    waiting.join();
    let _ = reader.recv(200);
    let waiting = background(move || wait(reader));
    writer.shutdown(SHUT_WR);
    waiting.join();
    let _ = reader.recv(200);
}

fn wait_in_poll(socket: Socket) {
    let seen = sys::poll(socket.fd(), POLLIN, -1).map(|seen| events_text(u32::from(seen as u16)));
    socket.log(format!(
        "poll = {}",
        seen.unwrap_or_else(|error| error.to_string())
    ));
}

fn wait_in_epoll(socket: Socket) {
    let epoll = sys::epoll_create().expect("failed to make an epoll instance");
    let events = (libc::EPOLLIN | libc::EPOLLET) as u32;
    sys::epoll_control(epoll, libc::EPOLL_CTL_ADD, socket.fd(), events).expect("failed to add a socket");
    let seen = sys::epoll_wait(epoll, -1).map(|seen| events_text(seen.unwrap_or(0)));
    socket.log(format!(
        "epoll_wait = {}",
        seen.unwrap_or_else(|error| error.to_string())
    ));
    sys::close(epoll).expect("failed to close an epoll instance");
}

fn poll(stage: &Stage) {
    both_ways(stage, |one, other| interrupted_wait(one, other, wait_in_poll));
}

fn poll_fresh(stage: &Stage) {
    let pair = stage.fresh();
    interrupted_wait(pair.server, pair.client, wait_in_poll);
}

fn epoll(stage: &Stage) {
    both_ways(stage, |one, other| interrupted_wait(one, other, wait_in_epoll));
}

/// A signal handled before data arrives has no effect on later calls.
fn before_data(stage: &Stage) {
    let pair = stage.warm();
    expect_signals(0);
    sys::signal_thread(sys::thread_id(), SIGNAL).expect("failed to send a signal");
    log_caught();
    let _ = pair.client.send(100);
    let _ = pair.server.recv(200);
}

/// Waits for a signal that announces an event.
fn announced(what: &str) {
    log(format!("{what}: {}", eventually(|| sys::signals_caught() > 0)));
}

/// The signals of a socket with O_ASYNC.
fn announcements(stage: &Stage, signal: i32) {
    both_ways(stage, |one, other| {
        sys::count_signal(signal, SA_RESTART).expect("failed to install a handler");
        sys::fcntl(one.fd(), libc::F_SETOWN, std::process::id() as i32).expect("failed to set the owner");
        if signal != libc::SIGIO {
            sys::fcntl(one.fd(), F_SETSIG, signal).expect("failed to set the signal");
        }
        sys::set_flag(one.fd(), libc::O_ASYNC, true).expect("failed to set O_ASYNC");
        // Discards signals left over from before.
        sys::signals_caught();
        let _ = other.send(100);
        announced("a signal for data");
        let _ = one.recv(200);
        let _ = other.send(100);
        announced("a signal for more data");
        let _ = one.recv(200);
        let filled = fill(one, 16_384);
        sys::signals_caught();
        other.recv_quietly(filled);
        one.wait(POLLOUT);
        announced("a signal for room");
        // Waits for the last acknowledgements, since they raise signals too.
        eventually(|| sys::ioctl(one.fd(), libc::TIOCOUTQ) == Ok(0));
        sys::signals_caught();
        other.shutdown(SHUT_WR);
        announced("a signal for the end");
        let _ = one.recv(200);
    });
}

/// The kernel's F_SETSIG, which the libc crate lacks.
const F_SETSIG: i32 = 10;

fn io(stage: &Stage) {
    announcements(stage, libc::SIGIO);
}

fn io_realtime(stage: &Stage) {
    announcements(stage, libc::SIGRTMIN() + 3);
}
