//! Owns sockets as descriptors: how they are made, bound and connected, and their options.

use std::mem;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::ptr;

use super::address::{Family, RawAddress};
use super::errno::{Outcome, descriptor, outcome, owned};

/// A TCP socket; `flags` are SOCK_NONBLOCK or 0.
pub fn socket(family: Family, flags: i32) -> Outcome<RawFd> {
    stream_socket(family.domain(), flags, 0)
}

/// A stream socket of any protocol, 0 for the usual one; `flags` are SOCK_NONBLOCK or 0.
pub fn stream_socket(domain: i32, flags: i32, protocol: i32) -> Outcome<RawFd> {
    // SAFETY: no pointers.
    descriptor(unsafe { libc::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags, protocol) })
}

/// Two connected Unix sockets, which keep messages apart.
pub fn unix_pair() -> Outcome<[RawFd; 2]> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    let mut ends = [-1; 2];
    // SAFETY: the kernel writes two numbers.
    outcome(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    Ok(ends)
}

pub fn bind(fd: RawFd, address: SocketAddr) -> Outcome {
    let raw = RawAddress::new(address);
    // SAFETY: the pointer and the length describe `raw`.
    outcome(unsafe { libc::bind(fd, (&raw const raw.storage).cast(), raw.length) })
}

pub fn listen(fd: RawFd, backlog: i32) -> Outcome {
    // SAFETY: no pointers.
    outcome(unsafe { libc::listen(fd, backlog) })
}

/// The address to which a socket is bound.
pub fn name(fd: RawFd) -> Outcome<SocketAddr> {
    let mut raw = RawAddress::empty();
    let storage = (&raw mut raw.storage).cast();
    // SAFETY: the storage is as large as `length` says, and the kernel writes no more than that.
    outcome(unsafe { libc::getsockname(fd, storage, &mut raw.length) })?;
    raw.address()
}

/// The port to which a socket is bound.
pub fn port(fd: RawFd) -> Outcome<u16> {
    name(fd).map(|name| name.port())
}

pub fn connect(fd: RawFd, address: SocketAddr) -> Outcome {
    let raw = RawAddress::new(address);
    // SAFETY: the pointer and the length describe `raw`.
    outcome(unsafe { libc::connect(fd, (&raw const raw.storage).cast(), raw.length) })
}

/// Dissolves a socket's connection, so that the socket can make another one.
pub fn disconnect(fd: RawFd) -> Outcome {
    // SAFETY: all bytes zero is an address of the family AF_UNSPEC.
    let nowhere: libc::sockaddr = unsafe { mem::zeroed() };
    // SAFETY: the pointer and the length describe `nowhere`.
    outcome(unsafe { libc::connect(fd, &nowhere, mem::size_of_val(&nowhere) as libc::socklen_t) })
}

/// `flags` are SOCK_NONBLOCK or 0.
pub fn accept(fd: RawFd, flags: i32) -> Outcome<RawFd> {
    // SAFETY: nobody asks for the address.
    descriptor(unsafe { libc::accept4(fd, ptr::null_mut(), ptr::null_mut(), libc::SOCK_CLOEXEC | flags) })
}

/// As [`accept`], with the peer's address.
pub fn accept_from(fd: RawFd, flags: i32) -> Outcome<(OwnedFd, SocketAddr)> {
    let mut peer = RawAddress::empty();
    let storage = (&raw mut peer.storage).cast();
    // SAFETY: the storage is as large as `length` says, and the kernel writes no more than that.
    let accepted = unsafe { libc::accept4(fd, storage, &mut peer.length, libc::SOCK_CLOEXEC | flags) };
    Ok((owned(accepted)?, peer.address()?))
}

pub fn shutdown(fd: RawFd, how: i32) -> Outcome {
    // SAFETY: no pointers.
    outcome(unsafe { libc::shutdown(fd, how) })
}

pub fn set_option<T>(fd: RawFd, level: i32, name: i32, value: T) -> Outcome {
    let length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`.
    outcome(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), length) })
}

/// An integer option.
pub fn option(fd: RawFd, level: i32, name: i32) -> Outcome<i32> {
    let mut value = 0_i32;
    let mut length = mem::size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    outcome(unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &mut length) })?;
    Ok(value)
}

/// A raw socket option of this length.
pub fn option_bytes(fd: RawFd, level: i32, name: i32, length: usize) -> Outcome<Vec<u8>> {
    let mut value = vec![0; length];
    let mut length = length as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    outcome(unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &mut length) })?;
    value.truncate(length as usize);
    Ok(value)
}

/// Makes the close of this socket a reset.
pub fn reset_on_close(fd: RawFd) -> Outcome {
    set_linger(fd, 0)
}

/// SO_LINGER: close waits for at most this many seconds.
pub fn set_linger(fd: RawFd, seconds: i32) -> Outcome {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: seconds,
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, linger)
}

/// SO_RCVTIMEO or SO_SNDTIMEO.
pub fn set_timeout(fd: RawFd, name: i32, milliseconds: i64) -> Outcome {
    let time = libc::timeval {
        tv_sec: milliseconds / 1000,
        tv_usec: milliseconds % 1000 * 1000,
    };
    set_option(fd, libc::SOL_SOCKET, name, time)
}

/// struct tcp_info (linux/tcp.h), of which the libc crate has only the beginning; what the kernel does not know is 0.
fn tcp_info(fd: RawFd) -> Outcome<Vec<u8>> {
    const LENGTH: usize = 256;
    let mut info = option_bytes(fd, libc::IPPROTO_TCP, libc::TCP_INFO, LENGTH)?;
    info.resize(LENGTH, 0);
    Ok(info)
}

fn field<const BYTES: usize>(info: &[u8], offset: usize) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes.copy_from_slice(&info[offset..offset + BYTES]);
    bytes
}

/// The bytes that TCP itself has sent for a socket.
pub fn tcp_bytes_sent(fd: RawFd) -> Outcome<u64> {
    /// The offset of `tcpi_bytes_sent`.
    const BYTES_SENT: usize = 200;
    Ok(u64::from_ne_bytes(field(&tcp_info(fd)?, BYTES_SENT)))
}

/// TCP's send state: names, and offsets in struct tcp_info.
const SENDING: [(&str, usize); 5] = [
    ("unacknowledged segments", 24),
    ("unsent bytes", 144),
    ("window", 228),
    ("retransmission timeout in microseconds", 8),
    ("retransmissions", 100),
];

/// A socket's send state in one line, to help find the cause of a stall.
pub fn tcp_sending(fd: RawFd) -> Outcome<String> {
    let info = tcp_info(fd)?;
    let mut words = vec![format!("backoff {}", info[4])];
    words.extend(SENDING.map(|(name, at)| format!("{name} {}", u32::from_ne_bytes(field(&info, at)))));
    Ok(words.join(", "))
}

/// The addresses of both ends as the kernel reports them: getsockname and getpeername.
pub fn names(fd: RawFd) -> [Outcome<Vec<u8>>; 2] {
    type Call = unsafe extern "C" fn(i32, *mut libc::sockaddr, *mut libc::socklen_t) -> i32;
    let calls: [Call; 2] = [libc::getsockname, libc::getpeername];
    calls.map(|call| {
        let mut address = vec![0_u8; 128];
        let mut length = address.len() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes.
        outcome(unsafe { call(fd, address.as_mut_ptr().cast(), &mut length) })?;
        address.truncate(length as usize);
        Ok(address)
    })
}

/// struct tcp_md5sig.
#[repr(C)]
struct Signature {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: u32,
    key: [u8; 80],
}

/// TCP_MD5SIG: signs segments to and from the loopback address.
pub fn sign(fd: RawFd, family: Family, key: &[u8]) -> Outcome {
    let mut signature = Signature {
        address: RawAddress::new(family.loopback(0)).storage,
        flags: 0,
        prefix_length: 0,
        key_length: key.len() as u16,
        interface: 0,
        key: [0; 80],
    };
    signature.key[..key.len()].copy_from_slice(key);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_MD5SIG, signature)
}
