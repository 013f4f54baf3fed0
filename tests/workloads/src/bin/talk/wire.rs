//! Owns one end of a connection: a non-blocking socket, bounded waits, and the comparison of every byte.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use workloads::pattern::Stream;
use workloads::sys::{self, stream};

const BUFFER: usize = 1 << 16;

pub struct Wire {
    pub stream: TcpStream,
    incoming: Vec<u8>,
    patience: Duration,
    /// When a byte last went in or out.
    pub moved: Instant,
}

impl Wire {
    pub fn new(stream: TcpStream, patience: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            incoming: Vec::new(),
            patience,
            moved: Instant::now(),
        })
    }

    fn wait(&self, events: u32) -> io::Result<()> {
        match stream::wait_for(&self.stream, events, self.patience.as_millis() as i32)? {
            true => Ok(()),
            false => Err(ErrorKind::TimedOut.into()),
        }
    }

    /// Sends a head and this many bytes of a stream after it, in as few calls as the room allows.
    pub fn send(&mut self, head: &[u8], stream: &Stream, length: usize) -> io::Result<()> {
        let total = head.len() + length;
        let mut buffer = head.to_vec();
        let mut sent = 0;
        while sent < total {
            let made = sent + buffer.len();
            let more = (total - made).min(BUFFER.saturating_sub(buffer.len()));
            let at = buffer.len();
            buffer.resize(at + more, 0);
            stream.fill((made - head.len()) as u64, &mut buffer[at..]);
            match (&self.stream).write(&buffer) {
                Ok(count) => {
                    sent += count;
                    buffer.drain(..count);
                    self.moved = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(sys::OUT)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads at least one more byte; false at the end of the stream.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; BUFFER];
        loop {
            match (&self.stream).read(&mut buffer) {
                Ok(count) => {
                    self.incoming.extend(&buffer[..count]);
                    self.moved = Instant::now();
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(sys::IN)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads until `parse` finds a head and returns its length; `None` at the end of the stream.
    pub fn head<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> anyhow::Result<Option<(T, usize)>>,
    ) -> io::Result<Option<T>> {
        loop {
            let found = parse(&self.incoming);
            let found =
                found.map_err(|error| io::Error::new(ErrorKind::InvalidData, format!("{error:#}")))?;
            if let Some((head, length)) = found {
                self.incoming.drain(..length);
                return Ok(Some(head));
            }
            if !self.read()? {
                return match self.incoming.is_empty() {
                    true => Ok(None),
                    false => Err(ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    /// Receives the next bytes, which must match the stream.
    pub fn body(&mut self, stream: &Stream, length: usize) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            if self.incoming.is_empty() && !self.read()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let count = self.incoming.len().min(length - done);
            let checked = stream.check(done as u64, &self.incoming[..count]);
            checked
                .map_err(|wrong| io::Error::new(ErrorKind::InvalidData, format!("wrong bytes: {wrong:?}")))?;
            self.incoming.drain(..count);
            done += count;
        }
        Ok(())
    }

    /// Receives the end of the stream, with nothing before it.
    pub fn end(&mut self) -> io::Result<()> {
        if !self.incoming.is_empty() || self.read()? {
            let text = format!("{} bytes too many", self.incoming.len());
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        Ok(())
    }
}

/// True if the peer, or something in between, has ended the connection.
pub fn is_early_end(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    let early = [
        BrokenPipe,
        ConnectionAborted,
        ConnectionReset,
        NotConnected,
        UnexpectedEof,
    ];
    early.contains(&error.kind())
}
