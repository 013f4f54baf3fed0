//! One end of a connection that carries messages of one size: what it has yet to send, and what has arrived.

use anyhow::{Result, ensure};

use super::pattern::Pattern;
use super::socket::Socket;

/// The most bytes that one call of `recv` asks for.
pub const BUFFER: usize = 128 << 10;

pub struct Peer {
    pub socket: Socket,
    /// Bytes per message.
    size: usize,
    /// Bytes left to send of the current message.
    outgoing: usize,
    /// Bytes received of the current message.
    incoming: usize,
    pub sent: u64,
    pub received: u64,
    arrivals: u64,
}

pub enum Arrival {
    /// A message is complete.
    Message,
    /// Less than a message, and no more for now.
    Part,
    /// The peer has closed, between two messages.
    End,
}

/// Buffers shared by all ends.
pub struct Buffers {
    pub pattern: Pattern,
    pub received: Vec<u8>,
}

impl Buffers {
    pub fn new(size: usize) -> Self {
        Self {
            pattern: Pattern::new(size.max(BUFFER)),
            received: vec![0; BUFFER],
        }
    }
}

impl Peer {
    pub fn new(socket: Socket, size: usize) -> Self {
        Self {
            socket,
            size,
            outgoing: 0,
            incoming: 0,
            sent: 0,
            received: 0,
            arrivals: 0,
        }
    }

    /// Starts a message; true if all of it was taken. [`Self::flush`] sends the rest.
    pub fn send(&mut self, buffers: &Buffers) -> Result<bool> {
        self.outgoing = self.size;
        self.flush(buffers)
    }

    /// Continues a message, or starts one; true if nothing is left of it.
    pub fn send_on(&mut self, buffers: &Buffers) -> Result<bool> {
        if self.is_sending() {
            self.flush(buffers)
        } else {
            self.send(buffers)
        }
    }

    /// A message was started, and not all of it was taken.
    pub fn is_sending(&self) -> bool {
        self.outgoing > 0
    }

    /// Sends the rest of a message; true if nothing is left.
    pub fn flush(&mut self, buffers: &Buffers) -> Result<bool> {
        while self.outgoing > 0 {
            let Some(taken) = self.socket.send(buffers.pattern.at(self.sent, self.outgoing))? else {
                return Ok(false);
            };
            self.sent += taken as u64;
            self.outgoing -= taken;
        }
        Ok(true)
    }

    /// Receives until a message is complete or, on a non-blocking socket, the queue is empty.
    pub fn receive(&mut self, buffers: &mut Buffers) -> Result<Arrival> {
        loop {
            let Some(got) = self.socket.receive(&mut buffers.received)? else {
                return Ok(Arrival::Part);
            };
            if got == 0 {
                ensure!(self.incoming == 0, "the connection ended within a message");
                return Ok(Arrival::End);
            }
            let arrival = &buffers.received[..got];
            buffers.pattern.check(self.received, arrival, self.arrivals)?;
            self.arrivals += 1;
            self.received += got as u64;
            self.incoming += got;
            if self.incoming >= self.size {
                ensure!(
                    self.incoming == self.size,
                    "more arrived than the other end has sent"
                );
                self.incoming = 0;
                return Ok(Arrival::Message);
            }
        }
    }
}
