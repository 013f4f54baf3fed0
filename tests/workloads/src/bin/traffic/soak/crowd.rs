//! Owns the part `crowd` of the soak: several threads send on each end of a connection at once. Their bytes may interleave
//! in any way, but each thread's own stay in order.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use workloads::pattern::{Random, Stream};
use workloads::sys;
use workloads::sys::stream::{self, Listener};

use crate::conversation::{Progress, Side};
use crate::direct::STUCK_MILLISECONDS;
use crate::monitor::{Connection, Stage};
use crate::options::{Family, Mode, flip_byte};
use crate::run::{Tally, id_of, listen, number_of};
use crate::soak::{Control, Sums};

const KIB: u64 = 1 << 10;
/// The upper bits of a byte identify the sending thread, the others belong to that thread's own stream.
const THREAD_SHIFT: u32 = 6;
const THREADS: u64 = 1 << (8 - THREAD_SHIFT);
const BYTE: u8 = (1 << THREAD_SHIFT) - 1;
const LARGEST: u64 = 4 << 20;
const LONGEST_SLEEP: u64 = 20_000;

/// Keeps this many connections going, one after the other, until time is up.
pub fn work(control: &Arc<Control>, run: u64, connections: u64) -> Result<Sums> {
    let opened = AtomicU64::new(0);
    let place = |family| -> Result<Sums> {
        let (listener, target) = listen(family, 0, false).context("failed to listen")?;
        let mut sums = Sums::default();
        while !control.is_over() {
            let id = id_of(run, opened.fetch_add(1, Ordering::Relaxed));
            sums.tally.add(converse(control, id, &listener, target)?);
            sums.connections += 1;
        }
        Ok(sums)
    };
    thread::scope(|scope| {
        let families = [Family::V4, Family::V6, Family::Mapped].into_iter().cycle();
        let places: Vec<_> = families
            .take(connections as usize)
            .map(|family| scope.spawn(move || place(family)))
            .collect();
        let mut sums = Sums::default();
        for place in places {
            sums.add(place.join().expect("a place of the crowd panicked")?);
        }
        Ok(sums)
    })
}

/// One connection from beginning to end.
fn converse(control: &Control, id: u64, listener: &Listener, target: SocketAddr) -> Result<Tally> {
    let mut random = Random::of(control.seed, id, 0);
    let mode = Mode::blocking(random.chance(4));
    let nonblocking = mode == Mode::Nonblocking;
    let client = stream::connect(None, target, nonblocking).context("failed to connect")?;
    let (server, _) = listener.accept(nonblocking).context("failed to accept")?;
    control.inject(number_of(id), &server)?;
    let name = format!("crowd {}", number_of(id));
    let connection = control.monitor.open(id, name, false, None);
    let mut threads = |least| -> Vec<u64> {
        let threads = random.range(least, THREADS);
        (0..threads).map(|_| random.spread(16 * KIB, LARGEST)).collect()
    };
    // With a single sending direction the flow can become a stream of small messages.
    let totals = [threads(2), threads(0)];
    let end = |side: Side, stream: TcpStream| {
        let state = connection.end(side);
        state.opened(stream.as_raw_fd(), format!("{mode:?}, threads send {totals:?}"));
        state.set(Stage::AwaitingEof, totals[side.other().index()].iter().sum());
        End {
            control,
            connection: &connection,
            side,
            stream,
            mode,
            progress: Mutex::default(),
        }
    };
    let ends = [end(Side::Client, client), end(Side::Server, server)];
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let mut sending = Vec::new();
        for end in &ends {
            let [to_send, to_receive] = [end.side, end.side.other()].map(|side| &totals[side.index()]);
            sending.push(scope.spawn(|| end.judge(end.send_all(to_send))));
            scope.spawn(|| end.judge(end.receive_all(to_receive)));
        }
        for messages in sending {
            tally.messages += messages.join().expect("a sender panicked").unwrap_or(0);
        }
    });
    for end in &ends {
        control.monitor.close(&connection, end.side);
    }
    tally.bytes = totals.iter().flatten().sum();
    Ok(tally)
}

/// One end, shared by all of its threads.
struct End<'a> {
    control: &'a Control,
    connection: &'a Connection,
    side: Side,
    stream: TcpStream,
    mode: Mode,
    progress: Mutex<Progress>,
}

impl End<'_> {
    /// Reports a fault; the process ends soon after.
    fn judge<T>(&self, result: Result<T, String>) -> Option<T> {
        result
            .inspect_err(|text| self.control.monitor.fault_at(self.connection, self.side, text))
            .ok()
    }

    fn moved(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut progress);
        self.connection.end(self.side).moved(&progress);
    }

    fn stream_of(&self, from: Side, thread: usize) -> Stream {
        let place = self.connection.id * THREADS + thread as u64;
        Stream::new(self.control.seed, place, from.index() as u64)
    }

    /// Runs the sending threads, then sends the end of file; returns the number of messages.
    fn send_all(&self, totals: &[u64]) -> Result<u64, String> {
        let messages = thread::scope(|scope| {
            let threads: Vec<_> = (0..)
                .zip(totals)
                .map(|(thread, total)| scope.spawn(move || self.send_as(thread, *total)))
                .collect();
            let joined = threads
                .into_iter()
                .map(|thread| thread.join().expect("a sender panicked"));
            joined.sum::<Result<u64, String>>()
        })?;
        self.connection.end(self.side).write_closed();
        let ended = self.stream.shutdown(Shutdown::Write);
        ended
            .map(|()| messages)
            .map_err(|error| format!("shutdown failed: {error}"))
    }

    fn send_as(&self, thread: usize, total: u64) -> Result<u64, String> {
        let mut random = Random::of(
            self.control.seed,
            self.connection.id,
            1 + self.side.index() as u64 * THREADS + thread as u64,
        );
        let stream = self.stream_of(self.side, thread);
        let flip = self
            .control
            .common
            .flip_of(number_of(self.connection.id), self.side);
        let mut buffer = vec![0; 256 << 10];
        let (mut sent, mut messages, mut left, mut is_big) = (0, 0, 8, true);
        while sent < total {
            if left == 0 {
                is_big = random.chance(2);
                left = if is_big {
                    random.range(1, 8)
                } else {
                    random.spread(1, 200)
                };
                if random.chance(8) {
                    thread::sleep(Duration::from_micros(random.spread(100, LONGEST_SLEEP)));
                }
            }
            left -= 1;
            let length = if is_big {
                random.range(32 * KIB, 256 * KIB)
            } else {
                random.spread(1, 2 * KIB)
            };
            let message = &mut buffer[..length.min(total - sent) as usize];
            stream.fill(sent, message);
            for byte in message.iter_mut() {
                *byte = *byte & BYTE | (thread as u8) << THREAD_SHIFT;
            }
            flip_byte(flip, sent, message);
            self.send(message)?;
            sent += message.len() as u64;
            messages += 1;
        }
        Ok(messages)
    }

    fn send(&self, mut message: &[u8]) -> Result<(), String> {
        while !message.is_empty() {
            match (&self.stream).write(message) {
                Ok(count) => {
                    message = &message[count..];
                    self.moved(|progress| progress.sent += count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.mode == Mode::Nonblocking => {
                    let writable = stream::wait_for(&self.stream, sys::OUT, STUCK_MILLISECONDS);
                    if !writable.map_err(|error| format!("poll failed: {error}"))? {
                        return Err("the socket does not become writable".into());
                    }
                }
                Err(error) => return Err(format!("send failed: {error}")),
            }
        }
        Ok(())
    }

    fn receive_all(&self, totals: &[u64]) -> Result<(), String> {
        let part = 1 + 2 * THREADS + self.side.index() as u64;
        let mut random = Random::of(self.control.seed, self.connection.id, part);
        let mut buffer = vec![0; random.spread(512, 256 * KIB) as usize];
        let mut threads: Vec<_> = (0..totals.len())
            .map(|thread| (self.stream_of(self.side.other(), thread), 0))
            .collect();
        loop {
            if random.chance(200) {
                thread::sleep(Duration::from_micros(random.spread(100, LONGEST_SLEEP)));
            }
            match (&self.stream).read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    check(&buffer[..count], &mut threads)?;
                    self.moved(|progress| progress.received += count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.mode == Mode::Nonblocking => {
                    stream::wait_for(&self.stream, sys::IN, STUCK_MILLISECONDS)
                        .map_err(|error| format!("poll failed: {error}"))?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.control.may_call_again() => {}
                Err(error) => return Err(format!("recv failed: {error}")),
            }
        }
        let received: Vec<u64> = threads.iter().map(|(_, at)| *at).collect();
        if received != totals {
            return Err(format!("end of file at {received:?} of {totals:?}"));
        }
        Ok(())
    }
}

/// Compares bytes with the streams of the threads that sent them, each at a position of its own.
fn check(mut bytes: &[u8], threads: &mut [(Stream, u64)]) -> Result<(), String> {
    let mut expected = Vec::new();
    while let Some(first) = bytes.first() {
        let number = first >> THREAD_SHIFT;
        let of_it = bytes.iter().take_while(|byte| *byte >> THREAD_SHIFT == number);
        let (piece, rest) = bytes.split_at(of_it.count());
        bytes = rest;
        let Some((stream, at)) = threads.get_mut(usize::from(number)) else {
            return Err(format!("wrong bytes: of a thread {number} that there is not"));
        };
        expected.resize(piece.len(), 0);
        stream.fill(*at, &mut expected);
        let differ = |(found, expected): (&u8, &u8)| (found ^ expected) & BYTE != 0;
        if let Some(wrong) = piece.iter().zip(&expected).position(differ) {
            return Err(format!(
                "wrong bytes: of thread {number} at {}",
                *at + wrong as u64
            ));
        }
        *at += piece.len() as u64;
    }
    Ok(())
}
