//! Owns one end of a connection: how it reads, what it counts about the answers, and the comparison of every byte.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::ValueEnum;
use workloads::pattern::{Random, Stream};
use workloads::sys::{self, stream};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Manner {
    /// Blocks in recv
    Blocks,
    /// Waits for events
    Polls,
    /// Waits for events, and calls FIONREAD before each recv
    Asks,
}

pub static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
pub static CALLS: AtomicU64 = AtomicU64::new(0);
/// From a call that should have waited, or one that an event had promised would not have to.
pub static EAGAIN: AtomicU64 = AtomicU64::new(0);
/// Answers of FIONREAD that the following recv proved wrong.
pub static WRONG_COUNTS: AtomicU64 = AtomicU64::new(0);
pub static WRONG_BYTES: AtomicU64 = AtomicU64::new(0);
pub static INTERRUPTED: AtomicU64 = AtomicU64::new(0);
pub static RESETS: AtomicU64 = AtomicU64::new(0);

pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub fn print_counts() {
    for (name, counter) in [
        ("connections", &CONNECTIONS),
        ("calls", &CALLS),
        ("eagain", &EAGAIN),
        ("wrong_counts", &WRONG_COUNTS),
        ("wrong_bytes", &WRONG_BYTES),
        ("interrupted", &INTERRUPTED),
        ("resets", &RESETS),
    ] {
        println!("{name}={}", counter.load(Ordering::Relaxed));
    }
    println!("ok");
}

const BUFFER: usize = 1 << 16;
/// A sender sends nothing more before its message is answered, so either all of it is there or nothing.
const LARGEST: u64 = 4000;

pub struct End {
    pub stream: TcpStream,
    manner: Manner,
    outgoing: Stream,
    incoming: Stream,
    sent: u64,
    received: u64,
    messages: [u64; 2],
}

impl End {
    pub fn new(stream: TcpStream, manner: Manner, is_client: bool) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let [outgoing, incoming] = [is_client, !is_client].map(|up| Stream::new(0, 0, u64::from(up)));
        count(&CONNECTIONS);
        Ok(Self {
            stream,
            manner,
            outgoing,
            incoming,
            sent: 0,
            received: 0,
            messages: [0; 2],
        })
    }

    /// Both ends know the length of each message.
    fn length(&mut self, sends: bool) -> u64 {
        let number = &mut self.messages[usize::from(sends)];
        *number += 1;
        Random::of(0, *number, 0).spread(1, LARGEST)
    }

    pub fn send(&mut self) -> io::Result<()> {
        let mut bytes = vec![0; self.length(true) as usize];
        self.outgoing.fill(self.sent, &mut bytes);
        self.sent += bytes.len() as u64;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match (&self.stream).write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) => self.retry(error, sys::OUT)?,
            }
        }
        Ok(())
    }

    /// Tells errors that leave the connection usable from those that end it.
    fn retry(&self, error: io::Error, events: u32) -> io::Result<()> {
        match error.kind() {
            ErrorKind::Interrupted => count(&INTERRUPTED),
            ErrorKind::WouldBlock => {
                if self.manner == Manner::Blocks {
                    count(&EAGAIN);
                }
                stream::wait_for(&self.stream, events, -1)?;
            }
            _ => return Err(error),
        }
        Ok(())
    }

    /// Receives one message; false at the end of the stream.
    pub fn receive(&mut self) -> io::Result<bool> {
        let until = self.received + self.length(false);
        while self.received < until {
            let mut buffer = [0; BUFFER];
            let read = self.read(&mut buffer)?;
            if read == 0 {
                return Ok(false);
            }
            if self.incoming.check(self.received, &buffer[..read]).is_err() {
                count(&WRONG_BYTES);
            }
            self.received += read as u64;
        }
        Ok(true)
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            count(&CALLS);
            if self.manner == Manner::Asks {
                if let Some(count) = self.asked(buffer)? {
                    return Ok(count);
                }
                continue;
            }
            match (&self.stream).read(buffer) {
                Ok(count) => return Ok(count),
                Err(error) => self.retry(error, sys::IN)?,
            }
        }
    }

    /// FIONREAD and recv, at once, and again after an event if nothing was there; `None` if there is no answer yet.
    fn asked(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        for milliseconds in [0, -1] {
            let ready = stream::wait_for(&self.stream, sys::IN, milliseconds)?;
            let told = stream::unread(self.stream.as_raw_fd())?;
            let (read, again) = match (&self.stream).read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => (0, true),
                other => (other?, false),
            };
            // Without an event, a whole message may have arrived in between, but not a part of one.
            if told != read && (ready || told != 0) {
                count(&WRONG_COUNTS);
            }
            if !again {
                return Ok(Some(read));
            }
            if ready {
                count(&EAGAIN);
            }
        }
        Ok(None)
    }
}
