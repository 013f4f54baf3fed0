//! Owns the system calls of the scenarios, with all of their `unsafe`: results as numbers, errors by name.

use std::fmt;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An error number; transcripts show its name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Errno(pub i32);

pub const AGAIN: Errno = Errno(libc::EAGAIN);

pub type Outcome<T = usize> = Result<T, Errno>;

impl Errno {
    pub fn last() -> Self {
        Self(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "none",
            libc::EACCES => "EACCES",
            libc::EADDRINUSE => "EADDRINUSE",
            libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
            libc::EAGAIN => "EAGAIN",
            libc::EALREADY => "EALREADY",
            libc::EBADF => "EBADF",
            libc::EBADMSG => "EBADMSG",
            libc::EBUSY => "EBUSY",
            libc::ECANCELED => "ECANCELED",
            libc::ECONNABORTED => "ECONNABORTED",
            libc::ECONNREFUSED => "ECONNREFUSED",
            libc::ECONNRESET => "ECONNRESET",
            libc::EDESTADDRREQ => "EDESTADDRREQ",
            libc::EDOM => "EDOM",
            libc::EEXIST => "EEXIST",
            libc::EFAULT => "EFAULT",
            libc::EINPROGRESS => "EINPROGRESS",
            libc::EINTR => "EINTR",
            libc::EINVAL => "EINVAL",
            libc::EIO => "EIO",
            libc::EISCONN => "EISCONN",
            libc::EMSGSIZE => "EMSGSIZE",
            libc::ENOBUFS => "ENOBUFS",
            libc::ENOENT => "ENOENT",
            libc::ENOMEM => "ENOMEM",
            libc::ENOPROTOOPT => "ENOPROTOOPT",
            libc::ENOSYS => "ENOSYS",
            libc::ENOTCONN => "ENOTCONN",
            libc::ENOTSOCK => "ENOTSOCK",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            libc::EPERM => "EPERM",
            libc::EPIPE => "EPIPE",
            libc::EPROTO => "EPROTO",
            libc::ESPIPE => "ESPIPE",
            libc::ETIME => "ETIME",
            libc::ETIMEDOUT => "ETIMEDOUT",
            number => return write!(formatter, "error {number}"),
        };
        formatter.write_str(name)
    }
}

/// The result of a system call that returns a number, or -1 and an error number.
pub fn outcome(result: impl Into<i64>) -> Outcome {
    usize::try_from(result.into()).map_err(|_| Errno::last())
}

/// A successful call's number or an error's name, as transcripts show it.
pub fn text(outcome: Outcome) -> String {
    outcome.map_or_else(|error| error.to_string(), |value| value.to_string())
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Family {
    V4,
    V6,
}

/// A loopback address with this port, as the kernel expects it.
pub fn loopback(family: Family, port: u16) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all bytes zero is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let to = &raw mut storage;
    let length = match family {
        Family::V4 => {
            // SAFETY: a sockaddr_storage is larger than any address and aligned for all of them.
            let sin = unsafe { &mut *to.cast::<libc::sockaddr_in>() };
            sin.sin_family = libc::AF_INET as libc::sa_family_t;
            sin.sin_port = port.to_be();
            sin.sin_addr.s_addr = u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
            mem::size_of::<libc::sockaddr_in>()
        }
        Family::V6 => {
            // SAFETY: as above.
            let sin6 = unsafe { &mut *to.cast::<libc::sockaddr_in6>() };
            sin6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            sin6.sin6_port = port.to_be();
            sin6.sin6_addr.s6_addr = Ipv6Addr::LOCALHOST.octets();
            mem::size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

/// A TCP socket; `flags` are SOCK_NONBLOCK or 0.
pub fn socket(family: Family, flags: i32) -> Outcome<RawFd> {
    let domain = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    // SAFETY: no pointers.
    outcome(unsafe { libc::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags, 0) })
        .map(|fd| fd as RawFd)
}

pub fn bind_loopback(fd: RawFd, family: Family) -> Outcome {
    let (address, length) = loopback(family, 0);
    // SAFETY: the pointer and the length describe `address`.
    outcome(unsafe { libc::bind(fd, (&raw const address).cast(), length) })
}

pub fn listen(fd: RawFd) -> Outcome {
    // SAFETY: no pointers.
    outcome(unsafe { libc::listen(fd, 16) })
}

/// The port to which a socket is bound.
pub fn port(fd: RawFd) -> Outcome<u16> {
    let (mut address, mut length) = loopback(Family::V6, 0);
    // SAFETY: an IPv6 address, the longer one, fits what `length` says.
    outcome(unsafe { libc::getsockname(fd, (&raw mut address).cast(), &mut length) })?;
    // SAFETY: the port lies at the same place in both families.
    Ok(u16::from_be(unsafe {
        (*(&raw const address).cast::<libc::sockaddr_in>()).sin_port
    }))
}

pub fn connect(fd: RawFd, family: Family, port: u16) -> Outcome {
    let (address, length) = loopback(family, port);
    // SAFETY: the pointer and the length describe `address`.
    outcome(unsafe { libc::connect(fd, (&raw const address).cast(), length) })
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
    let accepted = unsafe { libc::accept4(fd, ptr::null_mut(), ptr::null_mut(), libc::SOCK_CLOEXEC | flags) };
    outcome(accepted).map(|fd| fd as RawFd)
}

pub fn send(fd: RawFd, bytes: &[u8], flags: i32) -> Outcome {
    // SAFETY: the pointer and the length describe `bytes`.
    outcome(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) } as i64)
}

pub fn write(fd: RawFd, bytes: &[u8]) -> Outcome {
    // SAFETY: the pointer and the length describe `bytes`.
    outcome(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) } as i64)
}

pub fn recv(fd: RawFd, into: &mut [u8], flags: i32) -> Outcome {
    // SAFETY: the pointer and the length describe `into`.
    outcome(unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), flags) } as i64)
}

pub fn read(fd: RawFd, into: &mut [u8]) -> Outcome {
    // SAFETY: the pointer and the length describe `into`.
    outcome(unsafe { libc::read(fd, into.as_mut_ptr().cast(), into.len()) } as i64)
}

/// recv of this many bytes without a buffer.
pub fn recv_nowhere(fd: RawFd, length: usize, flags: i32) -> Outcome {
    // SAFETY: the kernel checks the address, which is the point; nothing of ours lies at it.
    outcome(unsafe { libc::recv(fd, ptr::null_mut(), length, flags) } as i64)
}

fn pieces_of(into: &mut [Vec<u8>]) -> Vec<libc::iovec> {
    let piece = |bytes: &mut Vec<u8>| libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    into.iter_mut().map(piece).collect()
}

pub fn readv(fd: RawFd, into: &mut [Vec<u8>]) -> Outcome {
    let pieces = pieces_of(into);
    // SAFETY: the pieces describe the vectors of `into`.
    outcome(unsafe { libc::readv(fd, pieces.as_ptr(), pieces.len() as i32) } as i64)
}

pub fn writev(fd: RawFd, from: &mut [Vec<u8>]) -> Outcome {
    let pieces = pieces_of(from);
    // SAFETY: the pieces describe the vectors of `from`.
    outcome(unsafe { libc::writev(fd, pieces.as_ptr(), pieces.len() as i32) } as i64)
}

/// What recvmsg returns besides its result.
#[derive(Default)]
pub struct Message {
    pub flags: i32,
    /// The lengths of the control messages and of the name.
    pub control: usize,
    pub name: usize,
}

pub fn recvmsg(fd: RawFd, into: &mut [Vec<u8>], flags: i32) -> (Outcome, Message) {
    let mut pieces = pieces_of(into);
    let mut control = [0_u64; 64];
    let mut name = [0_u64; 16];
    // SAFETY: all bytes zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = pieces.as_mut_ptr();
    header.msg_iovlen = pieces.len() as _;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of_val(&control) as _;
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = mem::size_of_val(&name) as libc::socklen_t;
    // SAFETY: the header describes vectors and arrays that live until the call returns.
    let result = outcome(unsafe { libc::recvmsg(fd, &mut header, flags) } as i64);
    let message = match result {
        Ok(_) => Message {
            flags: header.msg_flags,
            control: header.msg_controllen as usize,
            name: header.msg_namelen as usize,
        },
        Err(_) => Message::default(),
    };
    (result, message)
}

pub fn shutdown(fd: RawFd, how: i32) -> Outcome {
    // SAFETY: no pointers.
    outcome(unsafe { libc::shutdown(fd, how) })
}

pub fn close(fd: RawFd) -> Outcome {
    // SAFETY: the descriptors of a scenario belong to no owner that would close them again.
    outcome(unsafe { libc::close(fd) })
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

/// Makes the close of this socket a reset.
pub fn reset_on_close(fd: RawFd) -> Outcome {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
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

/// The bytes that TCP itself has sent for a socket.
pub fn tcp_bytes_sent(fd: RawFd) -> Outcome<u64> {
    /// The offset of `tcpi_bytes_sent` in struct tcp_info, of which the libc crate has only the beginning.
    const BYTES_SENT: usize = 200;
    let mut info = [0_u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    outcome(unsafe {
        libc::getsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    })?;
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&info[BYTES_SENT..BYTES_SENT + 8]);
    Ok(u64::from_ne_bytes(bytes))
}

/// An ioctl that returns an int, such as FIONREAD and SIOCOUTQ.
pub fn ioctl(fd: RawFd, request: libc::c_ulong) -> Outcome<i32> {
    let mut value = 0_i32;
    // SAFETY: the requests that are asked here write one int.
    outcome(unsafe { libc::ioctl(fd, request as _, &mut value) })?;
    Ok(value)
}

/// Polls one descriptor: its events, or 0 after this many milliseconds (-1: no limit).
pub fn poll(fd: RawFd, events: i16, milliseconds: i32) -> Outcome<i16> {
    let mut entry = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // SAFETY: one entry, which lives until the call returns.
    outcome(unsafe { libc::poll(&mut entry, 1, milliseconds) })?;
    Ok(entry.revents)
}

/// Asks select if the descriptor is readable, writable and exceptional, without waiting.
pub fn select(fd: RawFd) -> Outcome<[bool; 3]> {
    // SAFETY: all bytes zero is an empty fd_set, and no time.
    let (mut sets, mut time): ([libc::fd_set; 3], libc::timeval) = unsafe { (mem::zeroed(), mem::zeroed()) };
    for set in &mut sets {
        // SAFETY: a scenario has few descriptors, far fewer than an fd_set holds.
        unsafe { libc::FD_SET(fd, set) };
    }
    let [read, write, except] = &mut sets;
    // SAFETY: three sets and a time that live until the call returns.
    outcome(unsafe { libc::select(fd + 1, read, write, except, &mut time) })?;
    // SAFETY: as above.
    Ok(sets.each_ref().map(|set| unsafe { libc::FD_ISSET(fd, set) }))
}

pub fn epoll_create() -> Outcome<RawFd> {
    // SAFETY: no pointers.
    outcome(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(|fd| fd as RawFd)
}

pub fn epoll_control(epoll: RawFd, operation: i32, fd: RawFd, events: u32) -> Outcome {
    let mut event = libc::epoll_event {
        events,
        u64: fd as u64,
    };
    // SAFETY: one event, which lives until the call returns.
    outcome(unsafe { libc::epoll_ctl(epoll, operation, fd, &mut event) })
}

/// The events of one descriptor in an epoll instance; `None` after this many milliseconds without any.
pub fn epoll_wait(epoll: RawFd, milliseconds: i32) -> Outcome<Option<u32>> {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: room for one event.
    let count = outcome(unsafe { libc::epoll_wait(epoll, &mut event, 1, milliseconds) })?;
    Ok((count > 0).then_some(event.events))
}

static CAUGHT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn catch(_signal: i32) {
    CAUGHT.fetch_add(1, Ordering::SeqCst);
}

/// Counts this signal from now on; `flags` are SA_RESTART or 0.
pub fn count_signal(signal: i32, flags: i32) -> Outcome {
    let handler: extern "C" fn(i32) = catch;
    // SAFETY: all bytes zero is a valid sigaction without flags.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = flags;
    // SAFETY: the handler only changes an atomic, which is safe in a signal handler.
    outcome(unsafe { libc::sigaction(signal, &action, ptr::null_mut()) })
}

/// Restores a signal's default action, which std changes for SIGPIPE.
pub fn default_action(signal: i32) -> Outcome {
    // SAFETY: the default is no handler of ours.
    let before = unsafe { libc::signal(signal, libc::SIG_DFL) };
    outcome(if before == libc::SIG_ERR { -1 } else { 0 })
}

/// The number of signals caught since the last call.
pub fn signals_caught() -> usize {
    CAUGHT.swap(0, Ordering::SeqCst)
}

pub fn thread_id() -> i32 {
    // SAFETY: no pointers.
    unsafe { libc::gettid() }
}

/// Sends a signal to one thread of this process.
pub fn signal_thread(thread: i32, signal: i32) -> Outcome {
    // SAFETY: no pointers.
    outcome(unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, signal) })
}

/// Asks if a child has exited, without reaping it.
pub fn has_ended(child: u32) -> Outcome<bool> {
    // SAFETY: all bytes zero is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the kernel writes one siginfo_t.
    outcome(unsafe { libc::waitid(libc::P_PID, child, &mut info, options) })?;
    // SAFETY: the kernel has filled it, or left it all zero.
    Ok(unsafe { info.si_pid() } != 0)
}

/// Kills a process group and its leader.
pub fn kill_group(leader: u32) -> Outcome {
    // SAFETY: no pointers.
    outcome(unsafe { libc::kill(-(leader as i32), libc::SIGKILL) })
}

/// send of this many bytes from a null pointer.
pub fn send_nothing(fd: RawFd, length: usize) -> Outcome {
    // SAFETY: the kernel checks the address, which is the point; nothing of ours lies at it.
    outcome(unsafe { libc::send(fd, ptr::null(), length, 0) } as i64)
}

pub const PAGE: usize = 4096;

/// A readable page followed by an inaccessible one.
pub struct Page(*mut libc::c_void);

impl Page {
    pub fn new() -> Self {
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: new memory, at an address that the kernel chooses.
        let pages = unsafe { libc::mmap(ptr::null_mut(), 2 * PAGE, access, kind, -1, 0) };
        assert!(
            pages != libc::MAP_FAILED,
            "failed to map memory: {}",
            Errno::last()
        );
        // SAFETY: the second of the two pages, which nobody uses.
        let taken = outcome(unsafe { libc::mprotect(pages.byte_add(PAGE), PAGE, libc::PROT_NONE) });
        taken.expect("failed to protect memory");
        Self(pages)
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the first page is mapped, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.0.cast(), PAGE) }
    }

    /// send of the page plus this many bytes beyond it.
    pub fn send_beyond(&self, fd: RawFd, beyond: usize) -> Outcome {
        // SAFETY: the kernel checks the addresses, which is the point; nobody uses what lies behind the page.
        outcome(unsafe { libc::send(fd, self.0, PAGE + beyond, 0) } as i64)
    }
}
