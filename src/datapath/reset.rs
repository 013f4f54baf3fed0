//! Resets connections of other programs, with the segments that the kernel would send.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, sendto, setsockopt,
    socket, sockopt,
};

use super::namespaces::{ENTERING, Namespaces};
use super::sys;

/// Size of the segment, without options or data.
const SEGMENT: usize = 20;
const RST_ACK: u8 = 0x14;
const TCP: u8 = 6;
const HOPS: u8 = 64;

/// A connection to reset, as one of its ends sees it. The receiver checks the sequence number: it resets the connection
/// only if that is exactly the next one it expects (RFC 5961).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reset {
    /// The inode of the end's network namespace.
    pub netns: u32,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// The next sequence number of this end, which its peer expects.
    pub next: u32,
    /// What the peer expects if it has not received everything before `next`.
    pub heard: u32,
    /// The sequence number that this end expects.
    pub expected: u32,
    /// The mark of the end's packets, and the index of the interface it is bound to; 0 for none.
    pub mark: u32,
    pub interface: u32,
    /// The peer, if it is known.
    pub peer: Option<Peer>,
}

/// The same connection as the peer sees it, perhaps with other addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    pub netns: u32,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// True if this process may send resets at all.
pub fn can_reset() -> bool {
    raw_socket(AddressFamily::Inet).is_ok()
}

/// Sends each reset in the network namespace of its end, or of the peer if the former has gone with its last process.
/// Returns the causes of failures, each once.
pub fn send_resets(resets: Vec<Reset>) -> Vec<String> {
    let mut failed = BTreeSet::new();
    let own = Namespaces::own_number();
    let (here, elsewhere): (Vec<_>, Vec<_>) = resets.into_iter().partition(|reset| Some(reset.netns) == own);
    for reset in here {
        failed.extend(reset.send().err().map(|error| format!("{error:#}")));
    }
    if !elsewhere.is_empty() {
        let namespaces = Namespaces::look();
        for reset in elsewhere {
            let sent = namespaces.inside(reset.netns, || reset.send());
            let sent = sent.or_else(|| {
                let peer = reset.peer.as_ref()?;
                namespaces.inside(peer.netns, || reset.send_beside(peer))
            });
            match sent {
                Some(Ok(())) => {}
                Some(Err(error)) => drop(failed.insert(format!("{error:#}"))),
                None => {
                    let cause = format!(
                        "its network namespace has gone or cannot be entered, which takes {ENTERING}"
                    );
                    failed.insert(cause);
                }
            }
        }
    }
    failed.into_iter().collect()
}

impl Reset {
    /// To the peer, along the route of this end's packets; and to this end, whose socket may live on in the kernel, if the
    /// peer's address is local too. If something sits between the two, it counts as the peer.
    fn send(&self) -> Result<()> {
        let socket = self.raw_socket()?;
        // An end may have a foreign address (IP_TRANSPARENT); then the route is that of the peer's address.
        let _ = bind(socket.as_raw_fd(), &self.at(self.local));
        for seq in [self.next, self.heard] {
            self.send_one(&socket, self.local, self.remote, seq, self.expected)?;
            if self.next == self.heard {
                break;
            }
        }
        let socket = self.raw_socket()?;
        if bind(socket.as_raw_fd(), &self.at(self.remote)).is_ok() {
            self.send_one(&socket, self.remote, self.local, self.expected, self.next)?;
        }
        Ok(())
    }

    /// To the peer within its own namespace, as if the segment came from outside.
    fn send_beside(&self, peer: &Peer) -> Result<()> {
        let beside = Self {
            local: peer.remote,
            remote: peer.local,
            mark: 0,
            interface: 0,
            ..self.clone()
        };
        beside.send()
    }

    fn raw_socket(&self) -> Result<OwnedFd> {
        let family = match self.local {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let socket = raw_socket(family).context("failed to open a raw socket, which takes CAP_NET_RAW")?;
        if self.mark != 0 {
            setsockopt(&socket, sockopt::Mark, &self.mark).context("failed to mark a reset")?;
        }
        if self.interface != 0 {
            sys::bind_to_interface(&socket, self.interface)
                .context("failed to bind a reset to an interface")?;
        }
        Ok(socket)
    }

    /// An address without a port, as raw sockets expect.
    fn at(&self, address: SocketAddr) -> SockaddrStorage {
        match address {
            SocketAddr::V4(address) => SocketAddr::new(IpAddr::V4(*address.ip()), 0).into(),
            SocketAddr::V6(address) => SocketAddrV6::new(*address.ip(), 0, 0, self.interface).into(),
        }
    }

    fn send_one(
        &self,
        socket: &OwnedFd,
        source: SocketAddr,
        target: SocketAddr,
        seq: u32,
        ack: u32,
    ) -> Result<()> {
        let packet = packet(source, target, seq, ack).context("the ends are of two families")?;
        sendto(
            socket.as_raw_fd(),
            &packet,
            &self.at(target),
            MsgFlags::MSG_DONTWAIT,
        )
        .context("failed to send a reset")?;
        Ok(())
    }
}

/// A socket that sends whole packets and receives none.
fn raw_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket(
        family,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Raw,
    )?)
}

/// The segment with its IP header. The kernel fills in the checksum and length of an IPv4 header.
fn packet(source: SocketAddr, target: SocketAddr, seq: u32, ack: u32) -> Option<Vec<u8>> {
    let mut packet = Vec::new();
    let addresses = match (source.ip(), target.ip()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            packet.extend([0x45, 0, 0, 0, 0, 0, 0, 0, HOPS, TCP, 0, 0]);
            [source.octets(), target.octets()].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            packet.extend([0x60, 0, 0, 0, 0, SEGMENT as u8, TCP, HOPS]);
            [source.octets(), target.octets()].concat()
        }
        _ => return None,
    };
    packet.extend(&addresses);
    packet.extend(segment(&addresses, source.port(), target.port(), seq, ack));
    Some(packet)
}

fn segment(addresses: &[u8], source: u16, target: u16, seq: u32, ack: u32) -> [u8; SEGMENT] {
    const CHECKSUM: usize = 16;
    let mut segment = [0; SEGMENT];
    segment[..2].copy_from_slice(&source.to_be_bytes());
    segment[2..4].copy_from_slice(&target.to_be_bytes());
    segment[4..8].copy_from_slice(&seq.to_be_bytes());
    segment[8..12].copy_from_slice(&ack.to_be_bytes());
    segment[12] = (SEGMENT as u8 / 4) << 4;
    segment[13] = RST_ACK;
    let sum = checksum(&[addresses, &[0, TCP, 0, SEGMENT as u8], &segment]);
    segment[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// For parts of even length (RFC 1071).
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_sound(addresses: &[u8], segment: &[u8]) -> bool {
        checksum(&[addresses, &[0, TCP, 0, SEGMENT as u8], segment]) == 0
    }

    #[test]
    fn a_packet_has_its_header_and_a_sound_segment() {
        let at = |text: &str| text.parse().unwrap();
        let four = packet(at("127.0.0.1:80"), at("127.0.0.2:40000"), 0x01020304, 7).unwrap();
        assert_eq!(four.len(), 40);
        assert_eq!(four[12..20], [127, 0, 0, 1, 127, 0, 0, 2]);
        assert_eq!(four[20..28], [0, 80, 0x9c, 0x40, 1, 2, 3, 4]);
        assert!(is_sound(&four[12..20], &four[20..]));
        let six = packet(at("[::1]:80"), at("[2001:db8::2]:40000"), u32::MAX, 0).unwrap();
        assert_eq!(six.len(), 60);
        assert!(is_sound(&six[8..40], &six[40..]));
        assert_eq!(packet(at("127.0.0.1:80"), at("[::1]:80"), 0, 0), None);
    }

    #[test]
    fn a_wrong_byte_is_noticed() {
        let at = |text: &str| text.parse().unwrap();
        let mut packet = packet(at("127.0.0.1:80"), at("127.0.0.2:40000"), 1, 2).unwrap();
        packet[30] ^= 1;
        assert!(!is_sound(&packet[12..20], &packet[20..]));
    }
}
