//! Owns one end of a connection that its thread drives step by step, each step bounded.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail, ensure};

use crate::conversation::Side;
use crate::pattern::Stream;
use crate::run::{Common, flip_byte};
use crate::sys;

/// A socket that should be ready and is not for so long is stuck.
pub const STUCK_MILLISECONDS: i32 = 10_000;

/// One end of a connection and where it stands in its two streams.
pub struct End {
    pub name: String,
    stream: TcpStream,
    outgoing: Stream,
    incoming: Stream,
    pub sent: u64,
    pub received: u64,
    flip: Option<u64>,
}

impl End {
    pub fn new(common: &Common, seed: u64, connection: u64, side: Side, stream: TcpStream) -> Self {
        let direction = |from: Side| Stream::new(seed, connection, from.index() as u64);
        Self {
            name: format!("connection {connection} {side:?}"),
            stream,
            outgoing: direction(side),
            incoming: direction(side.other()),
            sent: 0,
            received: 0,
            flip: common.flip_of(connection, side),
        }
    }

    /// From now on the other end sends back what it gets.
    pub fn expect_echo(&mut self) {
        self.incoming = self.outgoing;
    }

    /// One call; how much the socket took, none at EAGAIN.
    pub fn send(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        self.outgoing.fill(self.sent, buffer);
        flip_byte(self.flip, self.sent, buffer);
        match self.stream.write(buffer) {
            Ok(count) => {
                self.sent += count as u64;
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{}: send failed at {}", self.name, self.sent)),
        }
    }

    /// One read, compared; false at EAGAIN.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match self.stream.read(buffer) {
            Ok(0) => bail!("{}: end of file at {}", self.name, self.received),
            Ok(count) => {
                let checked = self.incoming.check(self.received, &buffer[..count]);
                checked.map_err(|wrong| anyhow::anyhow!("{}: wrong bytes: {wrong:?}", self.name))?;
                self.received += count as u64;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => {
                Err(error).with_context(|| format!("{}: recv failed at {}", self.name, self.received))
            }
        }
    }

    pub fn wait_for(&self, events: u32) -> Result<()> {
        let ready = sys::wait_for(&self.stream, events, STUCK_MILLISECONDS)?;
        let unread = sys::unread(self.stream.as_raw_fd());
        ensure!(
            ready,
            "{}: stuck: sent {} received {} FIONREAD {unread:?} waiting for {events:#x}",
            self.name,
            self.sent,
            self.received,
        );
        Ok(())
    }

    pub fn send_all(&mut self, length: usize, buffer: &mut [u8]) -> Result<()> {
        let end = self.sent + length as u64;
        while self.sent < end {
            let left = (end - self.sent) as usize;
            if self.send(&mut buffer[..left])?.is_none() {
                self.wait_for(sys::OUT)?;
            }
        }
        Ok(())
    }

    pub fn receive_until(&mut self, total: u64, buffer: &mut [u8]) -> Result<()> {
        while self.received < total {
            self.wait_for(sys::IN)?;
            let most = ((total - self.received) as usize).min(buffer.len());
            self.receive(&mut buffer[..most])?;
        }
        Ok(())
    }
}
