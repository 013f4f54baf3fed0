//! Owns one end of a connection on an event loop: it reads in its style and performs the operations of its script.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;

use workloads::pattern::Stream;
use workloads::sys::{self, stream};

use crate::conversation::{Change, Op, Progress, Reading, Script, Side};
use crate::monitor::{Connection, Stage};
use crate::run::{Run, Tally, is_reset};

/// Reads per turn, before the next end gets a turn.
const READS_PER_TURN: usize = 4;
const OPS_PER_TURN: usize = 64;
const FIRST_READ: usize = 1024;

/// The buffers of a loop, lent to the end whose turn it is.
pub struct Scratch {
    pub incoming: Vec<u8>,
    pub outgoing: Vec<u8>,
    pub tally: Tally,
}

/// What an end wants after its turn.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    Again,
    /// To wait for an event, a time or the gate.
    Wait,
    Closed,
    /// A fault occurred: nothing more happens here, and the socket stays open until the process ends.
    Parked,
}

enum Step {
    Done,
    Blocked,
    Closed,
    Failed(String),
}

pub struct End {
    pub stream: TcpStream,
    pub connection: Arc<Connection>,
    pub side: Side,
    pub at_gate: bool,
    pub interest: u32,
    outgoing: Stream,
    incoming: Stream,
    progress: Progress,
    script: Box<dyn Script>,
    op: Option<Op>,
    reading: Reading,
    connected: bool,
    readable: bool,
    writable: bool,
    hangup: bool,
    paused_until: Option<Instant>,
    asleep_until: Option<Instant>,
    parked: bool,
    asks: bool,
    /// Flags for each send and recv.
    flags: i32,
}

impl End {
    pub fn new(run: &Run, connection: Arc<Connection>, side: Side, stream: TcpStream) -> Self {
        let (outgoing, incoming) = run.streams(&connection, side);
        let reading = run.workload.reading(connection.id, side);
        connection
            .end(side)
            .opened(stream.as_raw_fd(), format!("{reading:?}"));
        let level = matches!(reading, Reading::Level { .. });
        // A level-triggered writer learns only from EAGAIN that it must wait.
        let interest = match (level, side) {
            (true, Side::Client) => sys::IN | sys::OUT,
            (true, Side::Server) => sys::IN,
            (false, _) => sys::IN | sys::OUT | sys::RDHUP | sys::EDGE,
        };
        Self {
            script: run.workload.script(connection.id, side),
            stream,
            connection,
            side,
            at_gate: false,
            interest,
            outgoing,
            incoming,
            progress: Progress::default(),
            op: None,
            reading,
            connected: side == Side::Server,
            readable: false,
            writable: side == Side::Server,
            hangup: false,
            paused_until: None,
            asleep_until: None,
            parked: false,
            asks: matches!(reading, Reading::Fionread { at_once: true }),
            flags: 0,
        }
    }

    pub fn on_events(&mut self, events: u32) {
        self.connection.end(self.side).event(events);
        if events & (sys::RDHUP | sys::HUP | sys::ERR) != 0 {
            self.hangup = true;
        }
        if events & (sys::IN | sys::RDHUP | sys::HUP | sys::ERR) != 0 {
            self.readable = true;
        }
        if events & (sys::OUT | sys::HUP | sys::ERR) != 0 {
            self.writable = true;
        }
    }

    /// When this end wants another turn, regardless of events.
    pub fn next_time(&self) -> Option<Instant> {
        [self.paused_until, self.asleep_until].into_iter().flatten().min()
    }

    /// The events to wait for from now on.
    pub fn wanted(&self) -> u32 {
        if self.interest & sys::EDGE != 0 {
            return self.interest;
        }
        let reads = self.paused_until.is_none() && !self.progress.eof;
        let writes = !self.connected || (!self.writable && matches!(self.op, Some(Op::Send(_))));
        (if reads { sys::IN } else { 0 }) | (if writes { sys::OUT } else { 0 })
    }

    pub fn turn(&mut self, run: &Run, scratch: &mut Scratch) -> Turn {
        if self.parked {
            return Turn::Parked;
        }
        let turn = self.try_turn(run, scratch).unwrap_or_else(|text| {
            run.monitor.fault_at(&self.connection, self.side, text);
            self.parked = true;
            Turn::Parked
        });
        if turn == Turn::Closed {
            run.monitor.close(&self.connection, self.side);
        }
        turn
    }

    fn try_turn(&mut self, run: &Run, scratch: &mut Scratch) -> Result<Turn, String> {
        if !self.connected && !self.finish_connect()? {
            return Ok(Turn::Wait);
        }
        self.expire();
        for _ in 0..READS_PER_TURN {
            if !self.may_read() {
                break;
            }
            self.read(scratch)?;
        }
        for _ in 0..OPS_PER_TURN {
            if self.progress.reset {
                return Ok(Turn::Closed);
            }
            match self.step(run, scratch) {
                Step::Done => {}
                Step::Blocked if self.may_read() => return Ok(Turn::Again),
                Step::Blocked => return Ok(Turn::Wait),
                Step::Closed => return Ok(Turn::Closed),
                Step::Failed(text) => return Err(text),
            }
        }
        Ok(Turn::Again)
    }

    fn finish_connect(&mut self) -> Result<bool, String> {
        if !self.writable {
            return Ok(false);
        }
        self.connected = true;
        match self.stream.take_error() {
            Ok(None) => Ok(true),
            Ok(Some(error)) | Err(error) => self.broken("connect", &error).map(|()| true),
        }
    }

    /// Ends pauses that have expired.
    fn expire(&mut self) {
        if self.next_time().is_none() {
            return;
        }
        let now = Instant::now();
        self.paused_until = self.paused_until.filter(|until| *until > now);
        self.asleep_until = self.asleep_until.filter(|until| *until > now);
        self.connection.end(self.side).paused(self.paused_until.is_some());
    }

    fn may_read(&self) -> bool {
        self.readable && self.paused_until.is_none() && !self.progress.eof && !self.progress.reset
    }

    /// Handles a connection error: the end of it if resets are part of the workload, otherwise a fault.
    fn broken(&mut self, what: &str, error: &io::Error) -> Result<(), String> {
        if self.connection.may_reset && is_reset(what, error) {
            self.progress.reset = true;
            return Ok(());
        }
        Err(format!("{what} failed: {error}"))
    }

    fn read(&mut self, scratch: &mut Scratch) -> Result<(), String> {
        let mut promised = false;
        let mut room = match self.reading {
            Reading::Drain { buffer } | Reading::Edge { buffer } | Reading::Level { buffer } => buffer,
            // As nginx does, which checks what is left after a read.
            Reading::Fionread { .. } if !self.asks => {
                self.asks = true;
                FIRST_READ
            }
            Reading::Fionread { .. } => {
                let unread =
                    stream::unread(self.stream.as_raw_fd()).map_err(|e| format!("FIONREAD failed: {e}"))?;
                if unread == 0 && !self.hangup {
                    self.readable = false;
                    return Ok(());
                }
                promised = unread > 0;
                // Only a read can tell an end of file from an empty queue.
                unread.max(1)
            }
        };
        room = room.min(scratch.incoming.len());
        let count = match stream::receive(&self.stream, &mut scratch.incoming[..room], self.flags) {
            Ok(0) => {
                self.progress.eof = true;
                return Ok(());
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && promised => {
                return Err(format!("recv says EAGAIN where FIONREAD said {room}"));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return self.broken("recv", &error),
        };
        self.readable = match self.reading {
            Reading::Drain { .. } | Reading::Fionread { .. } => true,
            Reading::Edge { .. } => count == room || self.hangup,
            Reading::Level { .. } => false,
        };
        let at = self.progress.received;
        if let Err(wrong) = self.incoming.check(at, &scratch.incoming[..count]) {
            return Err(format!("wrong bytes in a read of {count} at {at}: {wrong:?}"));
        }
        self.progress.received += count as u64;
        self.connection.end(self.side).moved(&self.progress);
        scratch.tally.bytes += count as u64;
        Ok(())
    }

    /// Continues the current operation, or takes the next one from the script.
    fn step(&mut self, run: &Run, scratch: &mut Scratch) -> Step {
        let Some(op) = self.op.take() else {
            let op = self.script.next(&self.progress);
            self.begin(run, &op);
            self.op = Some(op);
            return Step::Done;
        };
        let received = self.progress.received;
        let blocked = match op {
            Op::Send(length) => match self.send(run, scratch, length) {
                Ok(0) => false,
                Ok(rest) => {
                    self.op = Some(Op::Send(rest));
                    return if self.writable { Step::Done } else { Step::Blocked };
                }
                Err(text) => return Step::Failed(text),
            },
            Op::Await(total) | Op::AwaitEof(total) if self.progress.eof && received < total => {
                if self.connection.may_reset {
                    return Step::Closed;
                }
                return Step::Failed(format!("end of file at {received} of {total}"));
            }
            Op::AwaitEof(total) if received > total => {
                return Step::Failed(format!("{received} bytes, {total} expected"));
            }
            Op::Await(total) => received < total,
            Op::AwaitOrEof(total) => received < total && !self.progress.eof,
            Op::AwaitEof(_) => !self.progress.eof,
            Op::Sleep(_) => self.asleep_until.is_some(),
            Op::Gate(release) => {
                self.at_gate = !run.gate.is_open(release);
                self.at_gate
            }
            Op::PauseReading(_) => false,
            Op::ShutdownWrite => {
                self.connection.end(self.side).write_closed();
                match self
                    .stream
                    .shutdown(Shutdown::Write)
                    .or_else(|error| self.broken("shutdown", &error))
                {
                    Ok(()) => false,
                    Err(text) => return Step::Failed(text),
                }
            }
            Op::Reset => {
                return match stream::reset_on_close(&self.stream) {
                    Ok(()) => Step::Closed,
                    Err(error) => Step::Failed(format!("SO_LINGER failed: {error}")),
                };
            }
            Op::Change(change) => {
                if change == Change::Blocking {
                    self.flags = libc::MSG_DONTWAIT;
                }
                if let Err(error) = change.apply(&self.stream) {
                    return Step::Failed(format!("a change of the socket failed: {error}"));
                }
                false
            }
            Op::Close => return Step::Closed,
            Op::Fault(text) => return Step::Failed(text),
        };
        if blocked {
            self.op = Some(op);
            return Step::Blocked;
        }
        Step::Done
    }

    fn begin(&mut self, run: &Run, op: &Op) {
        let state = self.connection.end(self.side);
        match op {
            Op::Await(total) => state.set(Stage::Awaiting, *total),
            Op::AwaitOrEof(total) | Op::AwaitEof(total) => state.set(Stage::AwaitingEof, *total),
            Op::Sleep(time) => {
                state.set(Stage::Sleeping, 0);
                self.asleep_until = Some(Instant::now() + *time);
            }
            Op::PauseReading(time) => {
                state.paused(true);
                self.paused_until = Some(Instant::now() + *time);
            }
            Op::Gate(release) => {
                state.set(Stage::AtGate, *release);
                run.gate.arrive();
            }
            _ => state.set(Stage::Busy, 0),
        }
    }

    /// Sends as much of a message as the socket takes; returns what is left of it.
    fn send(&mut self, run: &Run, scratch: &mut Scratch, length: usize) -> Result<usize, String> {
        if !self.writable {
            return Ok(length);
        }
        let at = self.progress.sent;
        let message = &mut scratch.outgoing[..length];
        self.outgoing.fill(at, message);
        run.flip(&self.connection, self.side, at, message);
        let count = match stream::send(&self.stream, message, self.flags) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                self.connection
                    .end(self.side)
                    .set(Stage::SendBlocked, length as u64);
                return Ok(length);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(length),
            Err(error) => return self.broken("send", &error).map(|()| length),
        };
        self.progress.sent += count as u64;
        self.connection.end(self.side).moved(&self.progress);
        if count == length {
            scratch.tally.messages += 1;
        }
        Ok(length - count)
    }
}
