//! Owns one relayed connection: its two sockets, and the data in transit between them in each direction.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use workloads::sys;
use workloads::sys::stream::Pipe;

use crate::Manner;

const BUFFER: usize = 1 << 16;
/// What Go's io.Copy asks for: as much as the pipe takes.
const MOST: usize = 1 << 20;
/// Long enough for a whole message to have arrived.
const ARRIVED: Duration = Duration::from_millis(5);

/// Bytes received by splice, and by recv.
pub static SPLICED: AtomicU64 = AtomicU64::new(0);
pub static RECEIVED: AtomicU64 = AtomicU64::new(0);

struct Direction {
    pipe: Pipe,
    buffer: Vec<u8>,
    /// Reads still to be done by recv.
    receives: u64,
    ended: bool,
    passed_on: bool,
}

impl Direction {
    fn new(receives: u64) -> io::Result<Self> {
        Ok(Self {
            pipe: Pipe::new()?,
            buffer: Vec::new(),
            receives,
            ended: false,
            passed_on: false,
        })
    }

    fn holds(&self) -> bool {
        self.pipe.held() > 0 || !self.buffer.is_empty()
    }

    fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        if self.receives == 0 {
            let count = self.pipe.fill(from, MOST)?;
            SPLICED.fetch_add(count as u64, Ordering::Relaxed);
            return Ok(count);
        }
        self.buffer.resize(BUFFER, 0);
        let read = (&*from).read(&mut self.buffer);
        self.buffer.truncate(*read.as_ref().unwrap_or(&0));
        let count = read?;
        self.receives -= 1;
        RECEIVED.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn flush(&mut self, into: &TcpStream) -> io::Result<()> {
        while !self.buffer.is_empty() {
            let count = (&*into).write(&self.buffer)?;
            self.buffer.drain(..count);
        }
        while self.pipe.held() > 0 {
            self.pipe.flush(into)?;
        }
        Ok(())
    }
}

pub struct Flow {
    pub ends: [TcpStream; 2],
    pub interest: [u32; 2],
    manner: Manner,
    directions: [Direction; 2],
    has_waited: bool,
}

impl Flow {
    /// `receives` is the number of reads by recv in each direction.
    pub fn new(manner: Manner, ends: [TcpStream; 2], receives: [u64; 2]) -> io::Result<Self> {
        let mut flow = Self {
            directions: [Direction::new(receives[0])?, Direction::new(receives[1])?],
            ends,
            interest: [0; 2],
            manner,
            has_waited: false,
        };
        flow.interest = [0, 1].map(|end| flow.wanted(end));
        Ok(flow)
    }

    /// The events to watch an end for.
    pub fn wanted(&self, end: usize) -> u32 {
        if self.manner == Manner::Edge {
            return sys::IN | sys::OUT | sys::RDHUP | sys::EDGE;
        }
        let reads = !self.directions[end].ended && !self.directions[end].holds();
        let writes = self.directions[1 - end].holds();
        (if reads { sys::IN } else { 0 }) | if writes { sys::OUT } else { 0 }
    }

    pub fn has_ended(&self) -> bool {
        self.directions.iter().all(|direction| direction.passed_on)
    }

    /// Moves what can be moved, in both directions.
    pub fn turn(&mut self) -> io::Result<()> {
        if self.manner == Manner::After && !self.has_waited {
            thread::sleep(ARRIVED);
            self.has_waited = true;
        }
        for end in [0, 1] {
            match self.pump(end) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn pump(&mut self, from: usize) -> io::Result<()> {
        let [source, sink] = [&self.ends[from], &self.ends[1 - from]];
        let direction = &mut self.directions[from];
        loop {
            direction.flush(sink)?;
            if direction.ended {
                if !direction.passed_on {
                    sink.shutdown(Shutdown::Write)?;
                    direction.passed_on = true;
                }
                return Ok(());
            }
            direction.ended = direction.fill(source)? == 0;
            // A level-triggered relay comes back for the rest.
            if self.manner != Manner::Edge && !direction.ended {
                return direction.flush(sink);
            }
        }
    }
}
