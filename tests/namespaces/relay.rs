//! Owns user-space middleboxes between two namespaces: a relay that forwards whole packets, and a forger that answers them.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::common::{Network, open_tunnel, wait_readable};

const PACKET: usize = 1 << 16;
const STEP: Duration = Duration::from_millis(50);
/// Length of headers without options.
const IP: usize = 20;
const TCP: usize = 20;
const SYN: u8 = 2;
const SYN_ACK: u8 = 0x12;

/// The tunnel of a namespace with the address 10.0.0.`number`.
fn tunnel(host: &Network, number: u8) -> File {
    let tunnel = host.inside(|| open_tunnel("eth0"));
    let tunnel = tunnel.unwrap_or_else(|error| panic!("failed to make a tunnel: {error}"));
    host.run(&format!("ip address add 10.0.0.{number}/24 dev eth0"));
    host.run("ip link set eth0 up");
    tunnel
}

/// Threads that end when this is dropped.
struct Threads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    fn new() -> Self {
        Self {
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        }
    }

    /// Passes each packet of a tunnel to a closure.
    fn on_packets(&mut self, from: &File, mut each: impl FnMut(&[u8]) + Send + 'static) {
        let mut from = from.try_clone().expect("failed to share a tunnel");
        let stop = Arc::clone(&self.stop);
        self.threads.push(thread::spawn(move || {
            let mut packet = vec![0; PACKET];
            while !stop.load(Ordering::Relaxed) {
                if !wait_readable(&from, STEP) {
                    continue;
                }
                let length = from.read(&mut packet).expect("failed to read from a tunnel");
                each(&packet[..length]);
            }
        }));
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Connects the hosts 1 and 2 of a network, and forwards every packet unchanged.
pub struct Relay {
    carried: Arc<AtomicU64>,
    _threads: Threads,
}

impl Relay {
    /// Delays each packet by this time.
    pub fn between(one: &Network, two: &Network, delay: Duration) -> Self {
        let (one, two) = (tunnel(one, 1), tunnel(two, 2));
        let carried = Arc::new(AtomicU64::new(0));
        let mut threads = Threads::new();
        for (from, to) in [(&one, &two), (&two, &one)] {
            let mut to = to.try_clone().expect("failed to share a tunnel");
            let carried = Arc::clone(&carried);
            threads.on_packets(from, move |packet| {
                thread::sleep(delay);
                carried.fetch_add(packet.len() as u64, Ordering::Relaxed);
                // A namespace that is going away accepts nothing any more.
                let _ = to.write_all(packet);
            });
        }
        Self {
            carried,
            _threads: threads,
        }
    }

    /// The bytes of all packets so far.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

/// Impersonates everybody else in the network of host 1: accepts each connection with a sequence number of its choice.
pub struct Forger {
    established: Arc<AtomicU64>,
    _threads: Threads,
}

impl Forger {
    pub fn before(host: &Network, sequence: u32) -> Self {
        let tunnel = tunnel(host, 1);
        let established = Arc::new(AtomicU64::new(0));
        let mut threads = Threads::new();
        let seen = Arc::clone(&established);
        let mut answers = tunnel.try_clone().expect("failed to share a tunnel");
        threads.on_packets(&tunnel, move |packet| {
            if packet.len() < IP + TCP || packet[0] != 0x45 || packet[9] != 6 {
                return;
            }
            if packet[IP + 13] & 0x3f == SYN {
                let answer = accept(packet, sequence);
                answers.write_all(&answer).expect("failed to write to a tunnel");
            } else {
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            established,
            _threads: threads,
        }
    }

    /// True once the client has acknowledged.
    pub fn is_established(&self) -> bool {
        self.established.load(Ordering::Relaxed) > 0
    }
}

/// The answer to a SYN.
fn accept(syn: &[u8], sequence: u32) -> Vec<u8> {
    let first = u32::from_be_bytes(syn[IP + 4..IP + 8].try_into().expect("four bytes"));
    let mut packet = vec![0; IP + TCP];
    packet[..4].copy_from_slice(&[0x45, 0, 0, (IP + TCP) as u8]);
    packet[8..10].copy_from_slice(&[64, 6]);
    packet[12..16].copy_from_slice(&syn[16..20]);
    packet[16..20].copy_from_slice(&syn[12..16]);
    let sum = checksum(packet[..IP].iter());
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[IP..IP + 2].copy_from_slice(&syn[IP + 2..IP + 4]);
    packet[IP + 2..IP + 4].copy_from_slice(&syn[IP..IP + 2]);
    packet[IP + 4..IP + 8].copy_from_slice(&sequence.to_be_bytes());
    packet[IP + 8..IP + 12].copy_from_slice(&first.wrapping_add(1).to_be_bytes());
    packet[IP + 12..IP + 16].copy_from_slice(&[5 << 4, SYN_ACK, 0xff, 0xff]);
    // The pseudo-header: both addresses, the protocol, the length.
    let pseudo = [0, 6, 0, TCP as u8];
    let sum = checksum(packet[12..].iter().chain(&pseudo));
    packet[IP + 16..IP + 18].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The Internet checksum, over an even number of bytes.
fn checksum<'a>(bytes: impl Iterator<Item = &'a u8>) -> u16 {
    let sum: u32 = bytes
        .enumerate()
        .map(|(at, byte)| u32::from(*byte) << if at % 2 == 0 { 8 } else { 0 })
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
