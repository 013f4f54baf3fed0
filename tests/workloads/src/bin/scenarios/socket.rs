//! Owns a scenario's calls on one socket: each writes a line of the transcript, and every byte is compared.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use workloads::sys::{self, AGAIN, Outcome, text};

use crate::stage::{Mode, eventually, log};

/// A socket handle: copies refer to the same socket, which lives as long as the process; close is a call like any
/// other.
#[derive(Clone, Copy)]
pub struct Socket {
    pub name: &'static str,
    fd: RawFd,
    mode: Mode,
    state: &'static State,
}

/// The positions of the two streams at this end. Each direction carries a known sequence of bytes of its own, so
/// received bytes reveal any loss, repetition or misplacement.
struct State {
    sent: AtomicU64,
    received: AtomicU64,
}

fn byte(seed: u64, position: u64) -> u8 {
    ((position + seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl Socket {
    pub fn new(name: &'static str, fd: RawFd, mode: Mode) -> Self {
        let state = Box::leak(Box::new(State {
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }));
        Self {
            name,
            fd,
            mode,
            state,
        }
    }

    pub fn fd(self) -> RawFd {
        self.fd
    }

    /// The same socket, switched to blocking or non-blocking.
    pub fn turned(self, mode: Mode) -> Self {
        let is_set = mode == Mode::NonBlocking;
        sys::set_flag(self.fd, libc::O_NONBLOCK, is_set).expect("failed to set O_NONBLOCK");
        Self { mode, ..self }
    }

    pub fn mode(self) -> Mode {
        self.mode
    }

    /// Writes a line of the transcript that begins with the name of the socket.
    pub fn log(self, words: impl AsRef<str>) {
        log(format!("{} {}", self.name, words.as_ref()));
    }

    /// Logs the result of a call and returns it.
    pub fn logged(self, call: &str, outcome: Outcome) -> Outcome {
        self.log(format!("{call} = {}", text(outcome)));
        outcome
    }

    fn seed(self, is_mine: bool) -> u64 {
        if is_mine == (self.name == "server") {
            1 << 40
        } else {
            0
        }
    }

    /// The next bytes to send; `sent` then reports how many of them were taken.
    pub fn next(self, length: usize) -> Vec<u8> {
        let (seed, start) = (self.seed(true), self.state.sent.load(Ordering::SeqCst));
        (start..start + length as u64)
            .map(|position| byte(seed, position))
            .collect()
    }

    pub fn sent(self, outcome: Outcome) -> Outcome {
        self.state
            .sent
            .fetch_add(outcome.unwrap_or(0) as u64, Ordering::SeqCst);
        outcome
    }

    /// Compares received bytes with the stream: an empty suffix for the line, or a description of the mismatch.
    pub fn compare(self, bytes: &[u8]) -> String {
        let (seed, start) = (self.seed(false), self.state.received.load(Ordering::SeqCst));
        let wrong = (start..)
            .zip(bytes)
            .position(|(position, seen)| byte(seed, position) != *seen);
        wrong.map_or_else(String::new, |at| format!(", wrong from byte {at}"))
    }

    /// Advances the receive stream past bytes that were received or discarded.
    pub fn received(self, length: usize) {
        self.state.received.fetch_add(length as u64, Ordering::SeqCst);
    }

    /// send; a non-blocking program waits for POLLOUT first.
    pub fn send(self, length: usize) -> Outcome {
        self.wait_if_nonblocking(libc::POLLOUT);
        self.send_with(length, 0, "")
    }

    /// One send with these flags, under this name in the transcript.
    pub fn send_with(self, length: usize, flags: i32, name: &str) -> Outcome {
        let outcome = self.sent(sys::send(self.fd, &self.next(length), flags));
        self.logged(&format!("send {length}{}{name}", space(name)), outcome)
    }

    /// Sends everything, in as many calls as it takes; one line.
    pub fn send_all(self, length: usize) {
        let mut left = length;
        while left > 0 {
            self.wait_if_nonblocking(libc::POLLOUT);
            match self.sent(sys::send(self.fd, &self.next(left), 0)) {
                Ok(count) => left -= count,
                Err(AGAIN) if self.mode == Mode::NonBlocking => {}
                Err(error) => {
                    self.log(format!("send all {length} = {error} after {}", length - left));
                    return;
                }
            }
        }
        self.log(format!("send all {length}"));
    }

    /// Sends messages until one is refused for good; one line.
    pub fn send_until_error(self, length: usize) {
        loop {
            self.wait_if_nonblocking(libc::POLLOUT);
            match self.sent(sys::send(self.fd, &self.next(length), 0)) {
                Err(AGAIN) if self.mode == Mode::NonBlocking => {}
                Err(error) => return self.log(format!("sends until {error}")),
                Ok(_) => {}
            }
        }
    }

    /// recv; a non-blocking program waits for POLLIN first.
    pub fn recv(self, length: usize) -> Outcome {
        self.wait_if_nonblocking(libc::POLLIN);
        self.recv_with(length, 0, "")
    }

    /// One non-blocking recv.
    pub fn recv_now(self, length: usize) -> Outcome {
        self.recv_with(length, libc::MSG_DONTWAIT, "now")
    }

    /// One recv with these flags, under this name in the transcript.
    pub fn recv_with(self, length: usize, flags: i32, name: &str) -> Outcome {
        let mut buffer = vec![0; length];
        let outcome = sys::recv(self.fd, &mut buffer, flags);
        let count = outcome.unwrap_or(0).min(length);
        let verdict = self.compare(&buffer[..count]);
        self.log(format!(
            "recv {length}{}{name} = {}{verdict}",
            space(name),
            text(outcome)
        ));
        if flags & libc::MSG_PEEK == 0 {
            self.received(count);
        }
        outcome
    }

    /// Receives until this many bytes, the end of the stream, or an error; one line.
    pub fn recv_all(self, length: usize) {
        let (count, verdict, end) = self.receive(length);
        self.log(format!("recv all {length} = {count}{verdict}{end}"));
    }

    /// Receives until the end of the stream or an error; one line.
    pub fn recv_to_end(self) {
        let (count, verdict, end) = self.receive(usize::MAX);
        self.log(format!("recv to end = {count}{verdict}{end}"));
    }

    /// One non-blocking recv, which writes a line only if bytes are wrong.
    pub fn read_quietly(self, length: usize) -> Outcome {
        let mut buffer = vec![0; length];
        let count = sys::recv(self.fd, &mut buffer, libc::MSG_DONTWAIT)?;
        let verdict = self.compare(&buffer[..count]);
        if !verdict.is_empty() {
            self.log(format!("recv {length} = {count}{verdict}"));
        }
        self.received(count);
        Ok(count)
    }

    fn receive(self, length: usize) -> (usize, String, String) {
        let mut buffer = vec![0; 1 << 16];
        let mut count = 0;
        while count < length {
            self.wait_if_nonblocking(libc::POLLIN);
            let room = buffer.len().min(length - count);
            match sys::recv(self.fd, &mut buffer[..room], 0) {
                Ok(0) => return (count, String::new(), ", end".into()),
                Ok(more) => {
                    let verdict = self.compare(&buffer[..more]);
                    self.received(more);
                    count += more;
                    if !verdict.is_empty() {
                        return (count, verdict, String::new());
                    }
                }
                Err(AGAIN) if self.mode == Mode::NonBlocking => {}
                Err(error) => return (count, String::new(), format!(", {error}")),
            }
        }
        (count, String::new(), String::new())
    }

    /// Sends everything, and writes a line only on failure.
    pub fn send_quietly(self, length: usize) {
        self.wait_if_nonblocking(libc::POLLOUT);
        let outcome = self.sent(sys::send(self.fd, &self.next(length), 0));
        if outcome != Ok(length) {
            self.log(format!("send {length} = {}", text(outcome)));
        }
    }

    /// Receives everything, and writes a line only on failure.
    pub fn recv_quietly(self, length: usize) {
        let (count, verdict, end) = self.receive(length);
        if count != length || !verdict.is_empty() {
            self.log(format!("recv all {length} = {count}{verdict}{end}"));
        }
    }

    /// Waits without a limit as a non-blocking program does; a blocking one waits in the call itself.
    pub fn wait_if_nonblocking(self, events: i16) {
        if self.mode == Mode::NonBlocking {
            // The call that follows shows the outcome.
            let _ = sys::poll(self.fd, events, -1);
        }
    }

    /// Waits a few seconds for this many unread bytes, and writes a line if they do not come.
    pub fn wait_unread(self, length: usize) {
        if !eventually(|| self.unread() == Ok(length)) {
            let unread = text(self.unread());
            self.log(format!("has {unread} unread instead of {length}"));
        }
    }

    fn unread(self) -> Outcome {
        sys::ioctl(self.fd, libc::FIONREAD).map(|count| count as usize)
    }

    /// Waits a few seconds for one of these events, and writes a line if none comes.
    pub fn wait(self, events: i16) {
        if !eventually(|| sys::poll(self.fd, events, 100).is_ok_and(|seen| seen & events != 0)) {
            self.log(format!("sees no {}", events_text(u32::from(events as u16))));
        }
    }

    /// One poll with a timeout of zero.
    pub fn poll(self, events: i16) {
        let seen = sys::poll(self.fd, events, 0).map(|seen| events_text(u32::from(seen as u16)));
        let seen = seen.unwrap_or_else(|error| error.to_string());
        self.log(format!("poll {} = {seen}", events_text(u32::from(events as u16))));
    }

    /// FIONREAD.
    pub fn fionread(self) {
        self.log(format!("FIONREAD = {}", text(self.unread())));
    }

    pub fn shutdown(self, how: i32) {
        let name = match how {
            libc::SHUT_RD => "RD",
            libc::SHUT_WR => "WR",
            _ => "RDWR",
        };
        let _ = self.logged(&format!("shutdown {name}"), sys::shutdown(self.fd, how));
    }

    pub fn close(self) {
        let _ = self.logged("close", sys::close(self.fd));
    }

    /// Closes with a reset.
    pub fn reset(self) {
        sys::reset_on_close(self.fd).expect("failed to set SO_LINGER");
        let _ = self.logged("reset", sys::close(self.fd));
    }

    /// SO_ERROR, which is cleared by reading it.
    pub fn so_error(self) {
        let error = sys::option(self.fd, libc::SOL_SOCKET, libc::SO_ERROR);
        let error = error.map_or_else(|failure| failure, sys::Errno);
        self.log(format!("SO_ERROR = {error}"));
    }
}

fn space(name: &str) -> &str {
    if name.is_empty() { "" } else { " " }
}

/// The names of poll or epoll events; their bits are the same.
pub fn events_text(events: u32) -> String {
    const NAMES: [(i32, &str); 7] = [
        (libc::EPOLLIN, "IN"),
        (libc::EPOLLPRI, "PRI"),
        (libc::EPOLLOUT, "OUT"),
        (libc::EPOLLRDHUP, "RDHUP"),
        (libc::EPOLLERR, "ERR"),
        (libc::EPOLLHUP, "HUP"),
        (libc::POLLNVAL as i32, "NVAL"),
    ];
    let named = NAMES.iter().filter(|(bit, _)| events & *bit as u32 != 0);
    let text: Vec<&str> = named.map(|(_, name)| *name).collect();
    if text.is_empty() {
        "nothing".into()
    } else {
        text.join("|")
    }
}
