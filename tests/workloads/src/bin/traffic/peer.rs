//! Owns what a run knows of its other side if that is a separate process: whether it has died, and which connection a
//! client belongs to, identified by its source address.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};

/// 127/8 has an address for each connection of a run, apart from those of the listeners.
const FIRST_SOURCE: u32 = 0x7f01_0000;
const LAST_SOURCE: u32 = 0x7fff_fffe;

/// The process on the other side.
#[derive(Debug, Default)]
pub struct Peer {
    dead: AtomicBool,
}

impl Peer {
    pub fn died(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }
}

/// The source address of the client of a run's connection.
pub fn source_of(number: u64) -> Ipv4Addr {
    let span = u64::from(LAST_SOURCE - FIRST_SOURCE) + 1;
    Ipv4Addr::from_bits(FIRST_SOURCE + (number % span) as u32)
}

/// The connection of a client with this source address.
pub fn number_of(source: IpAddr) -> Option<u64> {
    match source.to_canonical() {
        IpAddr::V4(v4) => v4.to_bits().checked_sub(FIRST_SOURCE).map(u64::from),
        IpAddr::V6(_) => None,
    }
}
