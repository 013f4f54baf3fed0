//! Owns what a connection does: the operations of an end, the script that gives them one after the other, and the
//! workload that gives each connection its two scripts.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use crate::pattern::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

impl Side {
    pub fn index(self) -> usize {
        match self {
            Side::Client => 0,
            Side::Server => 1,
        }
    }

    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

/// What an end has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    pub sent: u64,
    pub received: u64,
    pub eof: bool,
    pub reset: bool,
}

/// One operation of an end. The end reads all the time, whatever its operation, unless its reading is paused.
#[derive(Debug)]
pub enum Op {
    /// So many bytes in one call, and what it leaves in further calls.
    Send(usize),
    /// Until so many bytes came in total; an end of file before is a fault.
    Await(u64),
    /// As `Await`, but the other end may end the stream; the script then judges where.
    AwaitOrEof(u64),
    /// Until the end of file, which must come after exactly so many bytes.
    AwaitEof(u64),
    Sleep(Duration),
    /// Lets the receive queue fill for a while; the next operations go on.
    PauseReading(Duration),
    ShutdownWrite,
    /// Until the gate is released so many times.
    Gate(u64),
    Close,
    Reset,
    Change(Change),
    /// The other end did what it must not.
    Fault(String),
}

/// What a program can do to a socket in the middle of its connection, so that redirected data cannot honour it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The file becomes blocking; an end on an event loop then asks each call not to wait.
    Blocking,
    /// SO_ZEROCOPY, which alone changes nothing.
    ZeroCopy,
    /// SO_PEEK_OFF, which changes what MSG_PEEK sees.
    PeekOffset,
}

/// The operations of one end. The two ends of a connection make the same random choices from the same generator, so
/// that both know what comes without a protocol in the stream.
pub trait Script: Send {
    fn next(&mut self, progress: &Progress) -> Op;
}

/// How an end on an event loop reads.
#[derive(Clone, Copy, Debug)]
pub enum Reading {
    /// Edge-triggered, until EAGAIN.
    Drain { buffer: usize },
    /// Edge-triggered, until a read is shorter than asked: nginx and tokio.
    Edge { buffer: usize },
    /// Edge-triggered, what FIONREAD says, until it says nothing; the first read asks it only `at_once`.
    Fionread { at_once: bool },
    /// Level-triggered, one read for each event.
    Level { buffer: usize },
}

impl Reading {
    /// Bytes of one read, where the style does not say.
    pub fn buffer(self) -> usize {
        match self {
            Reading::Drain { buffer } | Reading::Edge { buffer } | Reading::Level { buffer } => buffer,
            Reading::Fionread { .. } => 64 << 10,
        }
    }
}

/// What a kind of connections has in common.
pub trait Workload: Send + Sync {
    /// Whether another connection is to be opened after so many.
    fn more(&self, opened: u64) -> bool;

    fn script(&self, connection: u64, side: Side) -> Box<dyn Script>;

    fn reading(&self, _connection: u64, _side: Side) -> Reading {
        Reading::Drain { buffer: 256 << 10 }
    }

    /// Whether an end may end this connection by a reset, so that the other may see an error or miss bytes.
    fn may_reset(&self, _connection: u64) -> bool {
        false
    }

    /// What a program sets on its socket at the start. Half of the connections send small messages at once, the others as
    /// the kernel likes.
    fn tune(&self, connection: u64, _side: Side, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(connection % 2 == 1)
    }

    /// How long a server lets connections wait that it could accept.
    fn accept_delay(&self, _random: &mut Random) -> Option<Duration> {
        None
    }

    /// Whether an end sends while it is sent to, so that a blocking one needs a thread for each direction.
    fn duplex(&self, _connection: u64) -> bool {
        false
    }

    /// A blocking recv has returned EAGAIN: whether to call it again.
    fn may_call_again(&self) -> bool {
        false
    }

    /// Addresses and ports to spread the connections over.
    fn listeners(&self) -> usize {
        1
    }
}
