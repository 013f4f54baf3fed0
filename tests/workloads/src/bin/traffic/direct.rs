//! Owns one end of a connection that its thread drives step by step, with a bound on each step.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail, ensure};
use workloads::pattern::Stream;
use workloads::sys::{self, stream};

use crate::conversation::Side;
use crate::options::{Common, flip_byte};
use crate::run::listen;

/// A socket that should be ready but is not for this long is stuck.
pub const STUCK_MILLISECONDS: i32 = 10_000;

/// One end of a connection and its positions in the two streams.
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

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn limit_send_buffer(&self, bytes: i32) -> Result<()> {
        stream::set_buffers(&self.stream, None, Some(bytes)).context("failed to set SO_SNDBUF")
    }

    /// From now on the peer sends back what it receives.
    pub fn expect_echo(&mut self) {
        self.incoming = self.outgoing;
    }

    /// One send: the bytes that the socket took, `None` at EAGAIN.
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

    /// One read, with its bytes compared; false at EAGAIN.
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
        let ready = stream::wait_for(&self.stream, events, STUCK_MILLISECONDS)?;
        let unread = stream::unread(self.stream.as_raw_fd());
        ensure!(
            ready,
            "{}: stuck: sent {} received {} FIONREAD {unread:?} waiting for {events:#x}",
            self.name,
            self.sent,
            self.received,
        );
        Ok(())
    }

    /// Disables Nagle's algorithm.
    pub fn send_at_once(&self) -> Result<()> {
        self.stream.set_nodelay(true).context("failed to set TCP_NODELAY")
    }

    /// Makes the kernel drop every incoming segment, or stop doing so.
    pub fn lose_segments(&self, lose: bool) -> Result<()> {
        stream::drop_incoming(&self.stream, lose).context("failed to set the socket's filter")
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

/// Both ends of a connection, driven by one thread.
pub struct Pair {
    pub client: End,
    pub server: End,
}

impl Pair {
    pub fn echo(&mut self, rounds: usize, size: usize, buffer: &mut [u8]) -> Result<()> {
        for _ in 0..rounds {
            self.client.send_all(size, buffer)?;
            self.server.receive_until(self.client.sent, buffer)?;
            self.server.send_all(size, buffer)?;
            self.client.receive_until(self.server.sent, buffer)?;
        }
        Ok(())
    }
}

/// Connections to a listener of their own, made one after another.
pub fn connect(common: &Common, seed: u64, connections: u64) -> Result<Vec<Pair>> {
    let nonblocking = common.nonblocking();
    let (listener, target) = listen(common.family, 0, nonblocking).context("failed to listen")?;
    (0..connections)
        .map(|id| {
            let client = stream::connect(None, target, nonblocking).context("failed to connect")?;
            ensure!(
                stream::wait_for(&client, sys::OUT, STUCK_MILLISECONDS)?,
                "a connect does not end"
            );
            let (server, _) = listener.accept(nonblocking).context("failed to accept")?;
            let client = End::new(common, seed, id, Side::Client, client);
            Ok(Pair {
                client,
                server: End::new(common, seed, id, Side::Server, server),
            })
        })
        .collect()
}
