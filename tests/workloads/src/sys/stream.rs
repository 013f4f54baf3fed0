//! Sockets of std's types, with the calls on them that std lacks and with its errors.

use std::fs::File;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::address::Family;
use super::errno::{Errno, Outcome, owner};
use super::{file, message, poll, socket};

const BACKLOG: i32 = 4096;

fn flags_of(nonblocking: bool) -> i32 {
    if nonblocking { libc::SOCK_NONBLOCK } else { 0 }
}

fn tcp_socket(address: SocketAddr, nonblocking: bool) -> Outcome<OwnedFd> {
    socket::socket(Family::of(address), flags_of(nonblocking)).map(owner)
}

fn set_option<T>(fd: &impl AsRawFd, level: i32, name: i32, value: T) -> io::Result<()> {
    socket::set_option(fd.as_raw_fd(), level, name, value)?;
    Ok(())
}

/// A listening socket; an unspecified IPv6 address takes IPv4 clients too.
pub struct Listener {
    fd: OwnedFd,
    address: SocketAddr,
}

impl Listener {
    /// `shared` lets others listen on the same port.
    pub fn bind(address: SocketAddr, nonblocking: bool, shared: bool) -> io::Result<Self> {
        let fd = tcp_socket(address, nonblocking)?;
        if shared {
            set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1_i32)?;
        }
        if address.is_ipv6() {
            set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0_i32)?;
        }
        socket::bind(fd.as_raw_fd(), address)?;
        socket::listen(fd.as_raw_fd(), BACKLOG)?;
        let address = socket::name(fd.as_raw_fd())?;
        Ok(Self { fd, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on connections may carry data in their SYN.
    pub fn take_fast_open(&self) -> io::Result<()> {
        set_option(&self.fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, BACKLOG)
    }

    /// Stops accepting; a thread that waits in `accept` gets an error.
    pub fn shutdown(&self) -> io::Result<()> {
        socket::shutdown(self.fd.as_raw_fd(), libc::SHUT_RDWR)?;
        Ok(())
    }

    /// The accepted socket, with `SOCK_NONBLOCK` if asked, and its peer's address.
    pub fn accept(&self, nonblocking: bool) -> io::Result<(TcpStream, SocketAddr)> {
        let (fd, peer) = socket::accept_from(self.fd.as_raw_fd(), flags_of(nonblocking))?;
        Ok((fd.into(), peer))
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// From now on programs started by this process inherit the descriptor.
pub fn let_inherit(fd: &impl AsRawFd) -> io::Result<()> {
    file::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0)?;
    Ok(())
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Usual,
    /// With our own sequence number, set in repair mode, which is left before connect.
    At(u32),
    /// In repair mode, without a handshake.
    Restored,
    /// With the first message in the SYN.
    WithData,
}

/// A socket that is connected or (non-blocking) connecting, from a given source address if there is one.
pub fn connect(source: Option<SocketAddr>, address: SocketAddr, nonblocking: bool) -> io::Result<TcpStream> {
    connect_so(Begin::Usual, source, address, nonblocking)
}

/// As [`connect`], in one of several ways.
pub fn connect_so(
    begin: Begin,
    source: Option<SocketAddr>,
    address: SocketAddr,
    nonblocking: bool,
) -> io::Result<TcpStream> {
    // Differs from the receive sequence number, which is 0.
    const RESTORED: u32 = 1;
    let fd = tcp_socket(address, nonblocking)?;
    match begin {
        Begin::Usual => {}
        Begin::At(first) => {
            repair_from(&fd, first)?;
            set_option(&fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, 0_i32)?;
        }
        Begin::Restored => repair_from(&fd, RESTORED)?,
        Begin::WithData => set_option(&fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1_i32)?,
    }
    if let Some(source) = source {
        // Port 0 is then resolved when the target is known, so that a port can serve several targets.
        set_option(&fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1_i32)?;
        socket::bind(fd.as_raw_fd(), source)?;
    }
    match socket::connect(fd.as_raw_fd(), address) {
        Err(error) if error != Errno(libc::EINPROGRESS) => Err(error.into()),
        _ => Ok(fd.into()),
    }
}

/// Puts a socket into repair mode, with this sequence number for the first byte it sends.
fn repair_from(fd: &OwnedFd, first: u32) -> io::Result<()> {
    const SEND_QUEUE: i32 = 2;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, 1_i32)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, SEND_QUEUE)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, first)
}

/// One recv with flags.
pub fn receive(stream: &TcpStream, into: &mut [u8], flags: i32) -> io::Result<usize> {
    Ok(message::recv(stream.as_raw_fd(), into, flags)?)
}

/// One send with flags.
pub fn send(stream: &TcpStream, bytes: &[u8], flags: i32) -> io::Result<usize> {
    Ok(message::send(
        stream.as_raw_fd(),
        bytes,
        flags | libc::MSG_NOSIGNAL,
    )?)
}

/// Sets SO_ZEROCOPY, which changes nothing on its own.
pub fn allow_zerocopy(stream: &TcpStream) -> io::Result<()> {
    set_option(stream, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1_i32)
}

/// Sets SO_PEEK_OFF: from now on MSG_PEEK continues where the last one ended.
pub fn follow_peeks(stream: &TcpStream) -> io::Result<()> {
    set_option(stream, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0_i32)
}

/// Sets the sizes of the receive and send buffers, which also stops their autotuning.
pub fn set_buffers(stream: &TcpStream, receive: Option<i32>, send: Option<i32>) -> io::Result<()> {
    for (name, size) in [(libc::SO_RCVBUF, receive), (libc::SO_SNDBUF, send)] {
        if let Some(size) = size {
            set_option(stream, libc::SOL_SOCKET, name, size)?;
        }
    }
    Ok(())
}

/// The number of bytes that make a socket readable.
pub fn set_low_water(stream: &TcpStream, bytes: i32) -> io::Result<()> {
    set_option(stream, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
}

/// Makes the kernel drop every segment that arrives for a socket, or accept them again.
pub fn drop_incoming(stream: &TcpStream, drop: bool) -> io::Result<()> {
    if !drop {
        return set_option(stream, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0_i32);
    }
    let mut nothing = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut nothing,
    };
    set_option(stream, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
}

/// Makes the close of this socket a reset.
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    socket::reset_on_close(stream.as_raw_fd())?;
    Ok(())
}

/// The answer of FIONREAD for a socket.
pub fn unread(fd: RawFd) -> io::Result<usize> {
    Ok(file::ioctl(fd, libc::FIONREAD)? as usize)
}

/// Waits for events of a socket; false if none came within this many milliseconds.
pub fn wait_for(stream: &TcpStream, events: u32, milliseconds: i32) -> io::Result<bool> {
    // The bits of poll and epoll are the same.
    match poll(stream.as_raw_fd(), events as i16, milliseconds) {
        Err(Errno(libc::EINTR)) => Ok(false),
        other => Ok(other? != 0),
    }
}

/// A pipe between two sockets, or between a socket and a buffer, and the bytes in it.
pub struct Pipe {
    reader: File,
    writer: OwnedFd,
    held: usize,
}

impl Pipe {
    pub fn new() -> io::Result<Self> {
        let [reader, writer] = file::pipe()?;
        Ok(Self {
            reader: owner(reader).into(),
            writer: owner(writer),
            held: 0,
        })
    }

    pub fn held(&self) -> usize {
        self.held
    }

    /// One splice of at most this many bytes from a socket; 0 at the end of its stream.
    pub fn fill(&mut self, from: &TcpStream, most: usize) -> io::Result<usize> {
        let moved = splice(from, &self.writer, most)?;
        self.held += moved;
        Ok(moved)
    }

    /// One splice into a socket.
    pub fn flush(&mut self, into: &TcpStream) -> io::Result<usize> {
        let moved = splice(&self.reader, into, self.held)?;
        self.held -= moved;
        Ok(moved)
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.held -= count;
        Ok(count)
    }
}

fn splice(from: &impl AsRawFd, into: &impl AsRawFd, most: usize) -> Outcome {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    file::splice(from.as_raw_fd(), into.as_raw_fd(), most, flags)
}
