//! Owns every system call that std lacks: sockets, epoll, eventfd, signals and the scheduler, with all of this program's
//! `unsafe` except that in `fault.rs`.

use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

pub const IN: u32 = libc::EPOLLIN as u32;
pub const OUT: u32 = libc::EPOLLOUT as u32;
pub const ERR: u32 = libc::EPOLLERR as u32;
pub const HUP: u32 = libc::EPOLLHUP as u32;
pub const RDHUP: u32 = libc::EPOLLRDHUP as u32;
pub const EDGE: u32 = libc::EPOLLET as u32;

/// A send or recv with this flag does not wait, whatever the file's mode.
pub const DONTWAIT: i32 = libc::MSG_DONTWAIT;

/// The signal to kill with.
pub const KILL: i32 = libc::SIGKILL;

const BACKLOG: i32 = 4096;

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Turns a returned descriptor into its owner.
fn owned(result: i32) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A socket address as the kernel expects it.
struct RawAddress {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl RawAddress {
    fn empty() -> Self {
        // SAFETY: all bytes zero is a valid sockaddr_storage (family AF_UNSPEC).
        let storage = unsafe { mem::zeroed() };
        Self {
            storage,
            length: mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t,
        }
    }

    fn new(address: SocketAddr) -> Self {
        let mut raw = Self::empty();
        let storage = (&raw mut raw.storage).cast::<u8>();
        match address {
            SocketAddr::V4(v4) => {
                let sin = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                raw.length = mem::size_of_val(&sin) as libc::socklen_t;
                // SAFETY: sockaddr_storage is larger than any address and aligned for all of them.
                unsafe { storage.cast::<libc::sockaddr_in>().write(sin) };
            }
            SocketAddr::V6(v6) => {
                let sin6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: 0,
                };
                raw.length = mem::size_of_val(&sin6) as libc::socklen_t;
                // SAFETY: as above.
                unsafe { storage.cast::<libc::sockaddr_in6>().write(sin6) };
            }
        }
        raw
    }

    fn address(&self) -> io::Result<SocketAddr> {
        let storage = &raw const self.storage;
        match i32::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that a sockaddr_in is stored, and the storage is aligned for it.
                let sin = unsafe { storage.cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(sin.sin_addr.s_addr.to_ne_bytes());
                Ok(SocketAddr::from((ip, u16::from_be(sin.sin_port))))
            }
            libc::AF_INET6 => {
                // SAFETY: as above, for sockaddr_in6.
                let sin6 = unsafe { storage.cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(sin6.sin6_addr.s6_addr);
                Ok(SocketAddr::from((ip, u16::from_be(sin6.sin6_port))))
            }
            family => Err(io::Error::other(format!("an address of family {family}"))),
        }
    }
}

/// Switches the process to another user.
pub fn become_user(user: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setuid(user) })?;
    Ok(())
}

fn tcp_socket(address: SocketAddr, nonblocking: bool) -> io::Result<OwnedFd> {
    let domain = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    // SAFETY: no pointers.
    owned(unsafe { libc::socket(domain, flags, 0) })
}

/// Sets a socket option, whose value the kernel reads as it is in memory.
pub fn set_option<T>(fd: &impl AsRawFd, level: i32, name: i32, value: T) -> io::Result<()> {
    let length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which lives until the call returns.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), length) })?;
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
        let raw = RawAddress::new(address);
        // SAFETY: the pointer and the length describe `raw`.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const raw.storage).cast(), raw.length) })?;
        // SAFETY: no pointers.
        check(unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) })?;
        let mut bound = RawAddress::empty();
        let storage = (&raw mut bound.storage).cast();
        // SAFETY: the storage is as large as `length` says, and the kernel writes no more than that.
        check(unsafe { libc::getsockname(fd.as_raw_fd(), storage, &mut bound.length) })?;
        let address = bound.address()?;
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
        shutdown(self.fd.as_raw_fd())
    }

    /// The accepted socket, with `SOCK_NONBLOCK` if asked, and its peer's address.
    pub fn accept(&self, nonblocking: bool) -> io::Result<(TcpStream, SocketAddr)> {
        let flags = libc::SOCK_CLOEXEC | if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
        let mut peer = RawAddress::empty();
        let storage = (&raw mut peer.storage).cast();
        // SAFETY: the storage is as large as `length` says, and the kernel writes no more than that.
        let fd = unsafe { libc::accept4(self.fd.as_raw_fd(), storage, &mut peer.length, flags) };
        Ok((TcpStream::from(owned(fd)?), peer.address()?))
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// From now on programs started by this process inherit the descriptor.
pub fn let_inherit(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) })?;
    Ok(())
}

/// Ends both directions, and wakes a thread that waits in a call on the socket.
pub fn shutdown(fd: RawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::shutdown(fd, libc::SHUT_RDWR) })?;
    Ok(())
}

/// A socket that is connected or (non-blocking) connecting, from a given source address if there is one.
pub fn connect(source: Option<SocketAddr>, address: SocketAddr, nonblocking: bool) -> io::Result<TcpStream> {
    connect_so(Begin::Usual, source, address, nonblocking)
}

fn connect_socket(fd: OwnedFd, source: Option<SocketAddr>, address: SocketAddr) -> io::Result<TcpStream> {
    if let Some(source) = source {
        // Port 0 is then resolved when the target is known, so that a port can serve several targets.
        set_option(&fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1_i32)?;
        let raw = RawAddress::new(source);
        // SAFETY: the pointer and the length describe `raw`.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const raw.storage).cast(), raw.length) })?;
    }
    let raw = RawAddress::new(address);
    // SAFETY: the pointer and the length describe `raw`.
    let result = unsafe { libc::connect(fd.as_raw_fd(), (&raw const raw.storage).cast(), raw.length) };
    match check(result) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from(fd)),
    }
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
    connect_socket(fd, source, address)
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
    // SAFETY: the pointer and the length describe `into`.
    let count = unsafe { libc::recv(stream.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// One send with flags.
pub fn send(stream: &TcpStream, bytes: &[u8], flags: i32) -> io::Result<usize> {
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: the pointer and the length describe `bytes`.
    let count = unsafe { libc::send(stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// An idle io_uring.
pub fn io_uring() -> io::Result<OwnedFd> {
    // struct io_uring_params (linux/io_uring.h), whose members may all be 0.
    let mut parameters = [0_u32; 30];
    // SAFETY: the kernel reads and writes the structure, which outlives the call.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    owned(ring as RawFd)
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

/// Gives this thread priority over all others on its processor.
pub fn become_urgent() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to `parameters`.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) })?;
    Ok(())
}

/// Makes the close of this socket a reset.
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    set_option(stream, libc::SOL_SOCKET, libc::SO_LINGER, linger)
}

/// The answer of FIONREAD for a socket.
pub fn unread(fd: RawFd) -> io::Result<usize> {
    let mut bytes: i32 = 0;
    // SAFETY: FIONREAD writes one int.
    check(unsafe { libc::ioctl(fd, libc::FIONREAD, &mut bytes) })?;
    Ok(bytes as usize)
}

/// TCP's send state: names and offsets in struct tcp_info (linux/tcp.h).
const SENDING: [(&str, usize); 5] = [
    ("unacknowledged segments", 24),
    ("unsent bytes", 144),
    ("window", 228),
    ("retransmission timeout in microseconds", 8),
    ("retransmissions", 100),
];

/// A socket's send state in one line, to help find the cause of a stall.
pub fn sending(fd: RawFd) -> io::Result<String> {
    let mut info = [0_u8; 232];
    let mut length = info.len() as libc::socklen_t;
    let bytes = info.as_mut_ptr().cast();
    // SAFETY: the kernel writes no more than `length` bytes, and a shorter structure leaves zeros.
    check(unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, bytes, &mut length) })?;
    let value = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    let mut words = vec![format!("backoff {}", info[4])];
    words.extend(SENDING.map(|(name, at)| format!("{name} {}", value(at))));
    Ok(words.join(", "))
}

/// A pipe for data spliced from a socket.
pub struct Pipe {
    reader: File,
    writer: OwnedFd,
}

impl Pipe {
    pub fn new() -> io::Result<Self> {
        let mut ends = [-1; 2];
        // SAFETY: the kernel writes two descriptors, which nobody else owns.
        check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
        Ok(Self {
            reader: owned(ends[0])?.into(),
            writer: owned(ends[1])?,
        })
    }

    /// Splices once from the socket, and returns the data as `read` would.
    pub fn splice_from(&mut self, stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: no offsets, and both descriptors are open.
        let moved = unsafe {
            libc::splice(
                stream.as_raw_fd(),
                ptr::null_mut(),
                self.writer.as_raw_fd(),
                ptr::null_mut(),
                buffer.len(),
                libc::SPLICE_F_NONBLOCK,
            )
        };
        let moved = usize::try_from(moved).map_err(|_| io::Error::last_os_error())?;
        self.reader.read_exact(&mut buffer[..moved])?;
        Ok(moved)
    }
}

/// An epoll instance; tokens are the caller's.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Self {
            fd,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; 256],
        })
    }

    fn control(&self, operation: i32, fd: RawFd, interest: u32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest,
            u64: token,
        };
        // SAFETY: `event` lives until the call returns.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &mut event) })?;
        Ok(())
    }

    pub fn add(&self, fd: &impl AsRawFd, interest: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), interest, token)
    }

    pub fn modify(&self, fd: &impl AsRawFd, interest: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_raw_fd(), interest, token)
    }

    /// Waits at most this many milliseconds and appends (token, events) to `into`.
    pub fn wait(&mut self, milliseconds: i32, into: &mut Vec<(u64, u32)>) -> io::Result<()> {
        let room = self.events.len() as i32;
        // SAFETY: the pointer and `room` describe the vector.
        let result =
            unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), room, milliseconds) };
        let count = match check(result) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            other => other? as usize,
        };
        into.extend(self.events[..count].iter().map(|event| (event.u64, event.events)));
        Ok(())
    }
}

/// Wakes an event loop from another thread.
pub struct Waker(OwnedFd);

impl Waker {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        Ok(Self(owned(unsafe {
            libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)
        })?))
    }

    pub fn wake(&self) {
        let one: u64 = 1;
        // SAFETY: eight bytes of `one`. A full counter is a wake-up too, so the result does not matter.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    pub fn clear(&self) {
        let mut count: u64 = 0;
        // SAFETY: eight bytes of `count`. Nothing to read means nothing to clear.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Waits for events of a socket; false if none came within this many milliseconds.
pub fn wait_for(stream: &TcpStream, events: u32, milliseconds: i32) -> io::Result<bool> {
    // The bits of poll and epoll are the same.
    let mut entry = libc::pollfd {
        fd: stream.as_raw_fd(),
        events: events as i16,
        revents: 0,
    };
    // SAFETY: one entry, which lives until the call returns.
    match check(unsafe { libc::poll(&mut entry, 1, milliseconds) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        other => Ok(other? > 0),
    }
}

static TERMINATED: AtomicBool = AtomicBool::new(false);

extern "C" fn terminate(_signal: i32) {
    TERMINATED.store(true, Ordering::Relaxed);
}

/// From now on SIGTERM and SIGINT are recorded instead of ending the process.
pub fn catch_termination() -> io::Result<()> {
    let handler: extern "C" fn(i32) = terminate;
    // SAFETY: all bytes zero is a valid sigaction without flags.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_RESTART;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler only stores to an atomic, which is safe in a signal handler.
        check(unsafe { libc::sigaction(signal, &action, ptr::null_mut()) })?;
    }
    Ok(())
}

pub fn terminated() -> bool {
    TERMINATED.load(Ordering::Relaxed)
}

/// Raises the limit on open files to its hard limit.
pub fn raise_file_limit() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads one rlimit.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(())
}
