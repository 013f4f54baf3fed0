//! Owns what a connection does: the operations of an end, the script that supplies them one by one, and the
//! workload that gives each connection its two scripts.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use workloads::pattern::Random;
use workloads::sys::stream;

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

/// One operation of an end. An end reads all the time, whatever its operation, unless its reading is paused.
#[derive(Debug)]
pub enum Op {
    /// Sends this many bytes in one call, and what it leaves in further calls.
    Send(usize),
    /// Waits until this many bytes have arrived in total; an earlier end of file is a fault.
    Await(u64),
    /// As `Await`, but the peer may end the stream; the script then judges where.
    AwaitOrEof(u64),
    /// Waits for the end of file, which must come after exactly this many bytes.
    AwaitEof(u64),
    Sleep(Duration),
    /// Lets the receive queue fill for a while; the next operations continue meanwhile.
    PauseReading(Duration),
    ShutdownWrite,
    /// Waits until the gate has been released this many times.
    Gate(u64),
    Close,
    Reset,
    Change(Change),
    /// The peer did something that it must not do.
    Fault(String),
}

/// A change that a program can make to a socket in mid-connection and that redirected data cannot honour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The file becomes blocking; an end on an event loop then passes MSG_DONTWAIT to each call.
    Blocking,
    /// SO_ZEROCOPY, which changes nothing on its own.
    ZeroCopy,
    /// SO_PEEK_OFF, which changes what MSG_PEEK sees.
    PeekOffset,
}

impl Change {
    pub fn apply(self, stream: &TcpStream) -> io::Result<()> {
        match self {
            Change::Blocking => stream.set_nonblocking(false),
            Change::ZeroCopy => stream::allow_zerocopy(stream),
            Change::PeekOffset => stream::follow_peeks(stream),
        }
    }
}

/// The operations of one end. The two ends of a connection make the same random choices from the same generator, so
/// both know what to expect without a protocol in the stream.
pub trait Script: Send {
    fn next(&mut self, progress: &Progress) -> Op;
}

/// How an end on an event loop reads.
#[derive(Clone, Copy, Debug)]
pub enum Reading {
    /// Edge-triggered, until EAGAIN.
    Drain { buffer: usize },
    /// Edge-triggered, until a short read: nginx and tokio.
    Edge { buffer: usize },
    /// Edge-triggered, what FIONREAD reports, until it is 0; only `at_once` asks before the first read.
    Fionread { at_once: bool },
    /// Level-triggered, one read per event.
    Level { buffer: usize },
}

impl Reading {
    /// The buffer size of one read, if the style does not define it.
    pub fn buffer(self) -> usize {
        match self {
            Reading::Drain { buffer } | Reading::Edge { buffer } | Reading::Level { buffer } => buffer,
            Reading::Fionread { .. } => 64 << 10,
        }
    }
}

/// What the connections of one kind have in common.
pub trait Workload: Send + Sync {
    /// True if another connection is to be opened after this many.
    fn more(&self, opened: u64) -> bool;

    fn script(&self, connection: u64, side: Side) -> Box<dyn Script>;

    fn reading(&self, _connection: u64, _side: Side) -> Reading {
        Reading::Drain { buffer: 256 << 10 }
    }

    /// True if an end may reset this connection, so that its peer may see an error or miss bytes.
    fn may_reset(&self, _connection: u64) -> bool {
        false
    }

    /// The options that a program sets on its socket at the start. Half of the connections disable Nagle's algorithm, the
    /// others keep the default.
    fn tune(&self, connection: u64, _side: Side, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(connection % 2 == 1)
    }

    /// How long a server leaves connections unaccepted.
    fn accept_delay(&self, _random: &mut Random) -> Option<Duration> {
        None
    }

    /// True if an end sends while it receives, so that a blocking end needs a thread for each direction.
    fn duplex(&self, _connection: u64) -> bool {
        false
    }

    /// A blocking recv has returned EAGAIN: true if it may be called again.
    fn may_call_again(&self) -> bool {
        false
    }

    /// The number of addresses and ports over which the connections are spread.
    fn listeners(&self) -> usize {
        1
    }
}
