//! Owns what a run knows of its other side when that is a process of its own: whether it has died, and which connection a
//! client is, which the address tells that it connects from.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};

/// 127/8 has an address for each connection of a run, besides those of the listeners.
const FIRST_SOURCE: u32 = 0x7f01_0000;
const LAST_SOURCE: u32 = 0x7fff_fffe;

/// The process of the other side.
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

/// The address that the client of a run's connection connects from.
pub fn source_of(number: u64) -> Ipv4Addr {
    let span = u64::from(LAST_SOURCE - FIRST_SOURCE) + 1;
    Ipv4Addr::from_bits(FIRST_SOURCE + (number % span) as u32)
}

/// The connection of a client that connects from there.
pub fn number_of(source: IpAddr) -> Option<u64> {
    match source.to_canonical() {
        IpAddr::V4(v4) => v4.to_bits().checked_sub(FIRST_SOURCE).map(u64::from),
        IpAddr::V6(_) => None,
    }
}
