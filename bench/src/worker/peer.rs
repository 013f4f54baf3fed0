//! One end of a connection that carries messages of one size: what is due to be sent, and what has arrived.

use anyhow::{Result, ensure};

use super::pattern::Pattern;
use super::socket::Socket;

/// One call of `recv` asks for at most so many bytes.
pub const BUFFER: usize = 128 << 10;

pub struct Peer {
    pub socket: Socket,
    /// Bytes of a message.
    size: usize,
    /// What is left to send of the present message.
    outgoing: usize,
    /// What has arrived of the present message.
    incoming: usize,
    pub sent: u64,
    pub received: u64,
    arrivals: u64,
}

pub enum Arrival {
    /// A message is complete.
    Message,
    /// Less than a message, and there is no more for now.
    Part,
    /// The other end has closed, between two messages.
    End,
}

/// What every end uses in turn.
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

    /// Begins a message; true if all of it was taken. What was not is sent by [`Self::flush`].
    pub fn send(&mut self, buffers: &Buffers) -> Result<bool> {
        self.outgoing = self.size;
        self.flush(buffers)
    }

    /// Goes on with a message, or begins one; true if nothing is left of it.
    pub fn send_on(&mut self, buffers: &Buffers) -> Result<bool> {
        if self.is_sending() {
            self.flush(buffers)
        } else {
            self.send(buffers)
        }
    }

    /// A message has been begun, and not all of it was taken.
    pub fn is_sending(&self) -> bool {
        self.outgoing > 0
    }

    /// Sends what is left of a message; true if there is nothing left then.
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

    /// Receives until a message is complete or, on a non-blocking socket, nothing is left.
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
