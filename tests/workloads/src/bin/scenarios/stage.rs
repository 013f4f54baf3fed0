//! Owns the environment of a scenario: its family and mode, listeners and pairs of connected sockets, threads, the transcript.

use std::cell::RefCell;
use std::fs;
use std::os::fd::RawFd;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use workloads::sys::{self, Errno, Family, Outcome};

use crate::socket::Socket;

/// Round trips after which every request-response flow is admitted; the tool observes eight messages from each end.
const ROUNDS: usize = 12;
const ROUND_BYTES: usize = 64;
/// How many more rounds an admitted flow gets for a message to be redirected.
const TRIES: usize = 20;
/// One-way messages after which a flow goes back to TCP.
const ONE_WAY: usize = 100;
/// A generous limit for anything that should happen at once.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
#[value(rename_all = "lower")]
pub enum Mode {
    Blocking,
    NonBlocking,
}

/// The state of a warm pair's connection when the scenario begins, if its programs are covered.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Start {
    /// Its messages are redirected.
    Admitted,
    /// It is in the socket map, but its messages go through TCP.
    Observed,
    /// It was admitted, then sent back to TCP, and has left the socket map.
    Left,
}

pub struct Scenario {
    pub name: &'static str,
    pub run: fn(&Stage),
    /// True if it begins with a warm pair. Without one, every start is the same.
    pub warm: bool,
    /// `None` means both.
    pub mode: Option<Mode>,
}

pub const fn scenario(name: &'static str, run: fn(&Stage)) -> Scenario {
    Scenario {
        name,
        run,
        warm: true,
        mode: None,
    }
}

impl Scenario {
    /// A scenario without a warm pair.
    pub const fn cold(self) -> Self {
        Self { warm: false, ..self }
    }

    /// A scenario that writes nothing in the other mode.
    pub const fn only(self, mode: Mode) -> Self {
        Self {
            mode: Some(mode),
            ..self
        }
    }
}

thread_local! {
    /// The lines of a background thread; `None` in the scenario's own thread.
    static KEPT: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Writes a line of the transcript. A background thread's lines appear when it is joined.
pub fn log(text: impl Into<String>) {
    let text = text.into();
    KEPT.with_borrow_mut(|kept| match kept {
        Some(lines) => lines.push(text),
        None => println!("log\t{text}"),
    });
}

/// Writes a line about the run that is not compared.
pub fn note(text: &str) {
    println!("note\t{text}");
}

pub fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}

/// Polls a condition for a few seconds at most; true if it came to hold.
pub fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() > deadline {
            return false;
        }
        pause(1);
    }
    true
}

/// A thread that runs in the background of the scenario.
pub struct Background<T> {
    handle: JoinHandle<(T, Vec<String>)>,
    pub thread: i32,
}

/// Starts a thread and returns once it sleeps in the kernel or has ended.
pub fn background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Background<T> {
    let (sender, receiver) = mpsc::channel();
    let handle = thread::spawn(move || {
        KEPT.set(Some(Vec::new()));
        // The receiver waits for it.
        let _ = sender.send(sys::thread_id());
        let result = work();
        (result, KEPT.take().unwrap_or_default())
    });
    let thread = receiver.recv().expect("the thread says its number first");
    let background = Background { handle, thread };
    background.wait_asleep();
    background
}

impl<T> Background<T> {
    /// Returns once the thread sleeps in the kernel or has ended.
    pub fn wait_asleep(&self) {
        let mut seen = 0;
        eventually(|| {
            let stat =
                fs::read_to_string(format!("/proc/self/task/{}/stat", self.thread)).unwrap_or_default();
            let is_asleep = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'));
            // A thread that only waits for the allocator's lock does not stay asleep.
            seen = if is_asleep { seen + 1 } else { 0 };
            seen >= 10 || self.handle.is_finished()
        });
    }

    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits a few seconds for the thread to end; logs a line if it does not, whatever it waits for.
    pub fn join_soon(self) -> Option<T> {
        if eventually(|| self.is_finished()) {
            return Some(self.join());
        }
        log("the thread does not end");
        None
    }

    /// Joins the thread, takes over its lines, and returns its result.
    pub fn join(self) -> T {
        let (result, lines) = self
            .handle
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        lines.into_iter().for_each(log);
        result
    }
}

/// The two ends of a connection.
#[derive(Clone, Copy)]
pub struct Pair {
    pub client: Socket,
    pub server: Socket,
    start: Start,
}

pub struct Stage {
    pub family: Family,
    pub mode: Mode,
    pub start: Start,
}

impl Stage {
    pub fn is_blocking(&self) -> bool {
        self.mode == Mode::Blocking
    }

    /// The socket flags of this mode.
    pub fn flags(&self) -> i32 {
        if self.is_blocking() {
            0
        } else {
            libc::SOCK_NONBLOCK
        }
    }

    /// With Nagle's algorithm it would depend on timing if a second message beats an acknowledgement. Accepted sockets
    /// inherit the option.
    fn new_socket(&self) -> RawFd {
        let fd = sys::socket(self.family, self.flags()).expect("failed to make a socket");
        sys::set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1_i32).expect("failed to set TCP_NODELAY");
        fd
    }

    /// An unconnected client socket.
    pub fn socket(&self) -> Socket {
        Socket::new("client", self.new_socket(), self.mode)
    }

    /// A listening socket on a port of its own.
    pub fn listener(&self) -> Socket {
        let fd = self.new_socket();
        sys::bind(fd, self.family.loopback(0)).expect("failed to bind");
        sys::listen(fd, 16).expect("failed to listen");
        Socket::new("listener", fd, self.mode)
    }

    /// Connects as a program of this mode does: the result of connect, or SO_ERROR once the socket is writable.
    pub fn connect(&self, client: Socket, listener: Socket) -> Outcome {
        self.connect_to(client, sys::port(listener.fd()).expect("a listener has a port"))
    }

    pub fn connect_to(&self, client: Socket, port: u16) -> Outcome {
        match sys::connect(client.fd(), self.family.loopback(port)) {
            Err(Errno(libc::EINPROGRESS)) => {
                sys::poll(client.fd(), libc::POLLOUT, -1)?;
                match sys::option(client.fd(), libc::SOL_SOCKET, libc::SO_ERROR)? {
                    0 => Ok(0),
                    error => Err(Errno(error)),
                }
            }
            other => other,
        }
    }

    /// Accepts as a program of this mode does.
    pub fn accept(&self, listener: Socket) -> Socket {
        sys::poll(listener.fd(), libc::POLLIN, -1).expect("failed to wait for a connection");
        let fd = sys::accept(listener.fd(), self.flags()).expect("failed to accept");
        Socket::new("server", fd, self.mode)
    }

    /// Connects a client socket to this listener and accepts it.
    pub fn join(&self, client: Socket, listener: Socket) -> Pair {
        self.connect(client, listener).expect("failed to connect");
        let server = self.accept(listener);
        self.pair(client, server)
    }

    /// Two sockets that are already connected.
    pub fn pair(&self, client: Socket, server: Socket) -> Pair {
        let start = self.start;
        Pair {
            client,
            server,
            start,
        }
    }

    /// A connection that has carried nothing.
    pub fn fresh(&self) -> Pair {
        let listener = self.listener();
        let pair = self.join(self.socket(), listener);
        sys::close(listener.fd()).expect("failed to close the listener");
        pair
    }

    /// A connection in the scenario's start state, with nothing unread.
    pub fn warm(&self) -> Pair {
        let pair = self.fresh();
        pair.warm_up();
        pair
    }
}

impl Pair {
    /// Brings the connection to the scenario's start state, and notes if the last messages were redirected.
    pub fn warm_up(&self) {
        let rounds = if self.start == Start::Observed { 1 } else { ROUNDS };
        (0..rounds).for_each(|_| self.round());
        if self.start == Start::Left {
            for _ in 0..ONE_WAY {
                self.client.send_quietly(ROUND_BYTES);
                self.server.recv_quietly(ROUND_BYTES);
            }
            // An end leaves when it acknowledges, which a receiver delays.
            pause(60);
            (0..2).for_each(|_| self.round());
            pause(60);
        }
        // On a busy machine a message may find earlier bytes still in flight through TCP.
        let tries = if self.start == Start::Admitted { TRIES } else { 1 };
        let redirected = (0..tries).any(|_| self.is_redirected());
        note(if redirected { "redirected" } else { "through TCP" });
    }

    /// True if the messages of one more round bypass TCP.
    fn is_redirected(&self) -> bool {
        let sent = self.sent_by_tcp();
        self.round();
        self.sent_by_tcp() == sent
    }

    fn round(&self) {
        for (from, to) in [(self.client, self.server), (self.server, self.client)] {
            from.send_quietly(ROUND_BYTES);
            to.recv_quietly(ROUND_BYTES);
        }
    }

    fn sent_by_tcp(&self) -> [u64; 2] {
        [self.client, self.server].map(|end| sys::tcp_bytes_sent(end.fd()).expect("failed to read TCP_INFO"))
    }
}
