//! A TCP socket as the datapath sees it: half of a connection.

use std::net::SocketAddr;
use std::time::Duration;

use super::document::{Direction, FlowState, Process};

/// A socket that a process holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Socket {
    pub local: SocketAddr,
    /// All zeros if it listens.
    pub remote: SocketAddr,
    /// The cookie of its network namespace.
    pub netns: u64,
    /// The same for all processes that hold it, and for no other socket.
    pub inode: u64,
    pub process: Process,
    pub is_listening: bool,
    pub is_blocking: bool,
    pub state: FlowState,
    /// The counter that says why it is in that state. A listening socket has one if its connections are all refused.
    pub reason: Option<String>,
    /// It has been in the socket map.
    pub followed: Option<Followed>,
    /// What waits in its own queue.
    pub queue_bytes: u64,
    /// What it sends; the receiver's queue is the other socket's to tell.
    pub sends: Direction,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Followed {
    /// The two numbers that the ends of a flow share.
    pub flow: (u32, u32),
    /// It was accepted, and the other one has connected.
    pub accepted: bool,
    /// Since it was established.
    pub age: Duration,
}
