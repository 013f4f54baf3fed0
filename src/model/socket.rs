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
    /// Shared by all processes that hold the socket, and unique to it.
    pub inode: u64,
    pub process: Process,
    pub is_listening: bool,
    pub is_blocking: bool,
    pub state: FlowState,
    /// The counter that explains the state. A listening socket has one if all its connections are refused.
    pub reason: Option<String>,
    /// Set if it has been in the socket map.
    pub followed: Option<Followed>,
    /// Bytes waiting in its own queue.
    pub queue_bytes: u64,
    /// What it sends; the receiver's queue is known from the peer.
    pub sends: Direction,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Followed {
    /// The two numbers that both ends of a flow share.
    pub flow: (u32, u32),
    /// It was accepted; its peer has connected.
    pub accepted: bool,
    /// Since it was established.
    pub age: Duration,
}
