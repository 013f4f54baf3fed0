//! Owns blocking mode: a thread for each end (two if both directions flow at once) with plain blocking calls.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use workloads::pattern::Random;
use workloads::sys::stream;

use crate::conversation::{Op, Progress, Side};
use crate::monitor::{Connection, Stage};
use crate::run::{Run, Tally, is_reset};

/// Runs one side until all its connections are closed.
pub fn drive(run: &Arc<Run>, side: Side) -> Result<Tally> {
    match side {
        Side::Client => clients(run),
        Side::Server => servers(run),
    }
}

fn clients(run: &Arc<Run>) -> Result<Tally> {
    let mut threads = Vec::new();
    for _ in 0..run.connections {
        let run = Arc::clone(run);
        threads.push(thread::spawn(move || -> Result<Tally> {
            let mut sum = Tally::default();
            while let Some(connection) = run.open_next() {
                if let Some(stream) = run.connect(&connection).context("failed to connect")? {
                    sum.add(End::new(&run, connection, Side::Client, stream).live());
                }
            }
            Ok(sum)
        }));
    }
    let mut sum = Tally::default();
    for thread in threads {
        sum.add(thread.join().expect("a client thread panicked")?);
    }
    run.set_clients_done();
    Ok(sum)
}

/// What the server threads have done: the number of ended connections, and the totals.
#[derive(Default)]
struct Served {
    state: Mutex<(u64, Tally)>,
    changed: Condvar,
}

fn servers(run: &Arc<Run>) -> Result<Tally> {
    let served = Arc::new(Served::default());
    for number in 0..run.listeners.len() {
        let (run, served) = (Arc::clone(run), Arc::clone(&served));
        // Not joined: it ends after the listener.
        thread::spawn(move || {
            if let Err(error) = accept(&run, number, &served) {
                if !run.clients_done() {
                    run.monitor.fault(format!("failed to accept: {error}"));
                }
            }
        });
    }
    let mut state = lock(&served.state);
    while !run.clients_done() || state.0 < run.opened() {
        let waited = served.changed.wait_timeout(state, Duration::from_millis(50));
        state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
    }
    for listener in &run.listeners {
        listener.shutdown()?;
    }
    Ok(state.1)
}

fn accept(run: &Arc<Run>, number: usize, served: &Arc<Served>) -> io::Result<()> {
    let mut random = Random::of(run.seed, u64::MAX, number as u64);
    loop {
        if let Some(delay) = run.workload.accept_delay(&mut random) {
            thread::sleep(delay);
        }
        let (stream, Some(connection)) = run.accept(number)? else {
            continue;
        };
        let (run, served) = (Arc::clone(run), Arc::clone(served));
        thread::spawn(move || {
            let tally = End::new(&run, connection, Side::Server, stream).live();
            let mut state = lock(&served.state);
            state.0 += 1;
            state.1.add(tally);
            served.changed.notify_all();
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What both threads of an end share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    progress: Progress,
    paused_until: Option<Instant>,
}

struct End {
    run: Arc<Run>,
    connection: Arc<Connection>,
    side: Side,
    stream: TcpStream,
    shared: Shared,
    duplex: bool,
    /// Buffer size of one read.
    room: usize,
}

impl End {
    fn new(run: &Arc<Run>, connection: Arc<Connection>, side: Side, stream: TcpStream) -> Self {
        let duplex = run.workload.duplex(connection.id);
        let room = run.workload.reading(connection.id, side).buffer();
        let note = format!("blocking, reads of {room}");
        connection.end(side).opened(stream.as_raw_fd(), note);
        let state = State {
            progress: Progress::default(),
            paused_until: None,
        };
        Self {
            run: Arc::clone(run),
            connection,
            side,
            stream,
            shared: Shared {
                state: Mutex::new(state),
                changed: Condvar::new(),
            },
            duplex,
            room,
        }
    }

    /// From the first operation to the close.
    fn live(self) -> Tally {
        // A separate reader thread reads whatever the operation; otherwise only awaiting operations read.
        self.connection.end(self.side).paused(!self.duplex);
        let result = if self.duplex {
            thread::scope(|scope| {
                let reader = scope.spawn(|| self.read_all());
                let written = self.operate();
                if written.is_err() {
                    self.park(written.as_ref().err());
                }
                // A close has no effect while the reader waits in recv. This fails if the connection has ended by itself.
                let _ = self.stream.shutdown(Shutdown::Read);
                let read = reader
                    .join()
                    .unwrap_or_else(|_| Err("the reader thread panicked".into()));
                read.and(written)
            })
        } else {
            self.operate()
        };
        if result.is_err() {
            self.park(result.as_ref().err());
        }
        let progress = lock(&self.shared.state).progress;
        self.run.monitor.close(&self.connection, self.side);
        Tally {
            bytes: progress.received,
            messages: result.unwrap_or(0),
        }
    }

    /// Reports the fault and stays as it is until the process ends.
    fn park(&self, text: Option<&String>) -> ! {
        self.run
            .monitor
            .fault_at(&self.connection, self.side, text.map_or("", |text| text));
        loop {
            thread::park();
        }
    }

    fn progress(&self) -> Progress {
        lock(&self.shared.state).progress
    }

    /// Performs the operations of the script; returns the number of messages sent.
    fn operate(&self) -> Result<u64, String> {
        let (run, state) = (&self.run, self.connection.end(self.side));
        let mut script = run.workload.script(self.connection.id, self.side);
        let mut buffers = (Vec::new(), vec![0; if self.duplex { 0 } else { self.room }]);
        let mut messages = 0;
        loop {
            let progress = self.progress();
            if progress.reset {
                return Ok(messages);
            }
            let op = script.next(&progress);
            state.set(Stage::Busy, 0);
            match op {
                Op::Send(length) => {
                    self.send(length, &mut buffers.0)?;
                    messages += 1;
                }
                Op::Await(total) => {
                    state.set(Stage::Awaiting, total);
                    let progress = self.wait(&mut buffers.1, |p| p.received >= total)?;
                    if progress.received < total && !self.connection.may_reset {
                        return Err(format!("end of file at {} of {total}", progress.received));
                    }
                    if progress.received < total {
                        return Ok(messages);
                    }
                }
                Op::AwaitOrEof(total) => {
                    state.set(Stage::AwaitingEof, total);
                    self.wait(&mut buffers.1, |p| p.received >= total)?;
                }
                Op::AwaitEof(total) => {
                    state.set(Stage::AwaitingEof, total);
                    let progress = self.wait(&mut buffers.1, |_| false)?;
                    if progress.received != total && !self.connection.may_reset {
                        return Err(format!(
                            "end of file at {}, expected at {total}",
                            progress.received
                        ));
                    }
                }
                Op::Sleep(time) => thread::sleep(time),
                Op::PauseReading(time) if self.duplex => {
                    lock(&self.shared.state).paused_until = Some(Instant::now() + time);
                }
                Op::PauseReading(time) => thread::sleep(time),
                Op::ShutdownWrite => {
                    state.write_closed();
                    self.stream
                        .shutdown(Shutdown::Write)
                        .or_else(|e| self.broken("shutdown", &e))?;
                }
                Op::Gate(release) => {
                    state.set(Stage::AtGate, release);
                    run.gate.arrive();
                    run.gate.wait_open(release);
                }
                Op::Close => return Ok(messages),
                Op::Reset => {
                    return stream::reset_on_close(&self.stream)
                        .map(|()| messages)
                        .map_err(|error| format!("SO_LINGER failed: {error}"));
                }
                Op::Change(change) => change
                    .apply(&self.stream)
                    .map_err(|error| format!("a change of the socket failed: {error}"))?,
                Op::Fault(text) => return Err(text),
            }
        }
    }

    fn broken(&self, what: &str, error: &io::Error) -> Result<(), String> {
        if self.connection.may_reset && is_reset(what, error) {
            lock(&self.shared.state).progress.reset = true;
            self.shared.changed.notify_all();
            return Ok(());
        }
        Err(format!("blocking {what} failed: {error}"))
    }

    fn send(&self, length: usize, buffer: &mut Vec<u8>) -> Result<(), String> {
        let (outgoing, _) = self.run.streams(&self.connection, self.side);
        let at = self.progress().sent;
        buffer.resize(buffer.len().max(length), 0);
        outgoing.fill(at, &mut buffer[..length]);
        self.run
            .flip(&self.connection, self.side, at, &mut buffer[..length]);
        let mut done = 0;
        let state = self.connection.end(self.side);
        state.set(Stage::SendBlocked, length as u64);
        while done < length {
            match (&self.stream).write(&buffer[done..length]) {
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.broken("send", &error),
            }
            let mut shared = lock(&self.shared.state);
            shared.progress.sent = at + done as u64;
            state.moved(&shared.progress);
        }
        Ok(())
    }

    /// Waits until `enough` or the end of the stream, and reads for itself unless there is a reader thread.
    fn wait(&self, buffer: &mut [u8], enough: impl Fn(&Progress) -> bool) -> Result<Progress, String> {
        let over = |progress: &Progress| enough(progress) || progress.eof || progress.reset;
        if self.duplex {
            let mut state = lock(&self.shared.state);
            while !over(&state.progress) {
                state = self
                    .shared
                    .changed
                    .wait(state)
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
            }
            return Ok(state.progress);
        }
        self.connection.end(self.side).paused(false);
        while !over(&self.progress()) {
            self.read(buffer)?;
        }
        self.connection.end(self.side).paused(true);
        Ok(self.progress())
    }

    fn read(&self, buffer: &mut [u8]) -> Result<(), String> {
        let count = match (&self.stream).read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.run.workload.may_call_again() => {
                return Ok(());
            }
            Err(error) => return self.broken("recv", &error),
        };
        let (_, incoming) = self.run.streams(&self.connection, self.side);
        let mut state = lock(&self.shared.state);
        let at = state.progress.received;
        incoming
            .check(at, &buffer[..count])
            .map_err(|wrong| format!("wrong bytes in a read of {count} at {at}: {wrong:?}"))?;
        state.progress.received += count as u64;
        state.progress.eof = count == 0;
        self.connection.end(self.side).moved(&state.progress);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// The reader thread.
    fn read_all(&self) -> Result<(), String> {
        let mut buffer = vec![0; self.room];
        loop {
            let (progress, paused) = {
                let mut state = lock(&self.shared.state);
                (state.progress, state.paused_until.take())
            };
            if progress.eof || progress.reset {
                return Ok(());
            }
            if let Some(pause) = paused.and_then(|until| until.checked_duration_since(Instant::now())) {
                self.connection.end(self.side).paused(true);
                thread::sleep(pause);
                self.connection.end(self.side).paused(false);
            }
            let read = self.read(&mut buffer);
            if read.is_err() {
                self.park(read.as_ref().err());
            }
        }
    }
}
