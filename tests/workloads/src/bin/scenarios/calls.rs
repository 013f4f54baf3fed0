//! Owns the system calls that only a few groups use: descriptors and files, several messages at once, control
//! messages, memory shared between processes, children.

use std::mem;
use std::os::fd::RawFd;
use std::ptr;

use crate::sys::{Errno, Family, Outcome, loopback, outcome, set_option};

/// fcntl with an integer argument.
pub fn fcntl(fd: RawFd, command: i32, value: i32) -> Outcome {
    // SAFETY: the commands that are asked here take a number.
    outcome(unsafe { libc::fcntl(fd, command, value) })
}

/// Sets or clears one file status flag: O_NONBLOCK, O_ASYNC.
pub fn set_flag(fd: RawFd, flag: i32, is_set: bool) -> Outcome {
    let flags = fcntl(fd, libc::F_GETFL, 0)? as i32;
    fcntl(
        fd,
        libc::F_SETFL,
        if is_set { flags | flag } else { flags & !flag },
    )
}

/// Another descriptor for the same open file, closed on exec.
pub fn duplicate(fd: RawFd) -> Outcome<RawFd> {
    fcntl(fd, libc::F_DUPFD_CLOEXEC, 0).map(|fd| fd as RawFd)
}

/// Duplicates a descriptor to a chosen number that survives exec.
pub fn duplicate_as(fd: RawFd, number: RawFd) -> Outcome {
    // SAFETY: no pointers.
    outcome(unsafe { libc::dup2(fd, number) })
}

/// The two ends of a pipe, or of a pair of connected Unix sockets.
fn two_ends(make: impl FnOnce(*mut RawFd) -> i32) -> Outcome<[RawFd; 2]> {
    let mut ends = [-1; 2];
    outcome(make(ends.as_mut_ptr()))?;
    Ok(ends)
}

/// A non-blocking pipe: its read end and its write end.
pub fn pipe() -> Outcome<[RawFd; 2]> {
    // SAFETY: the kernel writes two numbers.
    two_ends(|ends| unsafe { libc::pipe2(ends, libc::O_CLOEXEC | libc::O_NONBLOCK) })
}

pub fn unix_pair() -> Outcome<[RawFd; 2]> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes two numbers.
    two_ends(|ends| unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends) })
}

/// An in-memory file with this content, positioned at its beginning.
pub fn file(content: &[u8]) -> Outcome<RawFd> {
    // SAFETY: the name is a constant.
    let fd = outcome(unsafe { libc::memfd_create(c"scenario".as_ptr(), libc::MFD_CLOEXEC) })? as RawFd;
    // SAFETY: the pointer and the length describe `content`.
    outcome(unsafe { libc::pwrite(fd, content.as_ptr().cast(), content.len(), 0) } as i64)?;
    Ok(fd)
}

pub fn sendfile(to: RawFd, from: RawFd, length: usize) -> Outcome {
    // SAFETY: without an offset the file has its own.
    outcome(unsafe { libc::sendfile(to, from, ptr::null_mut(), length) } as i64)
}

pub fn splice(from: RawFd, to: RawFd, length: usize, flags: u32) -> Outcome {
    // SAFETY: without offsets the files have their own.
    outcome(unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), length, flags) } as i64)
}

pub fn tee(from: RawFd, to: RawFd, length: usize) -> Outcome {
    // SAFETY: no pointers.
    outcome(unsafe { libc::tee(from, to, length, libc::SPLICE_F_NONBLOCK) } as i64)
}

/// One message header for each piece.
fn headers(pieces: &mut [libc::iovec]) -> Vec<libc::mmsghdr> {
    let header = |piece: &mut libc::iovec| {
        // SAFETY: all bytes zero is a valid mmsghdr.
        let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
        header.msg_hdr.msg_iov = piece;
        header.msg_hdr.msg_iovlen = 1;
        header
    };
    pieces.iter_mut().map(header).collect()
}

fn piece(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }
}

/// sendmmsg: the bytes sent of each message that was sent.
pub fn send_messages(fd: RawFd, messages: &mut [Vec<u8>]) -> Outcome<Vec<usize>> {
    let mut pieces: Vec<_> = messages.iter_mut().map(|bytes| piece(bytes)).collect();
    let mut headers = headers(&mut pieces);
    // SAFETY: the headers describe the pieces, and these the messages.
    let count = outcome(unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), headers.len() as u32, 0) })?;
    Ok(lengths(&headers[..count]))
}

/// recvmmsg: the bytes received into each buffer that was used.
pub fn recv_messages(fd: RawFd, messages: &mut [Vec<u8>], flags: i32) -> Outcome<Vec<usize>> {
    let mut pieces: Vec<_> = messages.iter_mut().map(|bytes| piece(bytes)).collect();
    let mut headers = headers(&mut pieces);
    let (start, count) = (headers.as_mut_ptr(), headers.len() as u32);
    // SAFETY: as above; there is no time limit.
    let count = outcome(unsafe { libc::recvmmsg(fd, start, count, flags as _, ptr::null_mut()) })?;
    Ok(lengths(&headers[..count]))
}

fn lengths(headers: &[libc::mmsghdr]) -> Vec<usize> {
    headers.iter().map(|header| header.msg_len as usize).collect()
}

/// A control message: its level, its type, its bytes.
pub type Control = (i32, i32, Vec<u8>);

/// recvmsg into one buffer: the result, the flags of the message, its control messages.
pub fn recv_control(fd: RawFd, into: &mut [u8], flags: i32) -> (Outcome, i32, Vec<Control>) {
    let mut space = [0_u64; 64];
    let mut piece = piece(into);
    // SAFETY: all bytes zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &mut piece;
    header.msg_iovlen = 1;
    header.msg_control = space.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of_val(&space) as _;
    // SAFETY: the header describes a buffer and an array that live until the call returns.
    let result = outcome(unsafe { libc::recvmsg(fd, &mut header, flags) } as i64);
    let mut found = Vec::new();
    if result.is_err() {
        return (result, 0, found);
    }
    // SAFETY: the kernel has filled the control messages of this header.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&header) };
    while !next.is_null() {
        // SAFETY: it points to a control message in `space`, of which `cmsg_len` bytes are filled.
        let (control, bytes) = unsafe {
            let length = (*next).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
            (
                *next,
                std::slice::from_raw_parts(libc::CMSG_DATA(next), length).to_vec(),
            )
        };
        found.push((control.cmsg_level, control.cmsg_type, bytes));
        // SAFETY: as above.
        next = unsafe { libc::CMSG_NXTHDR(&header, next) };
    }
    (result, header.msg_flags, found)
}

/// Sends a descriptor over a Unix socket.
pub fn send_descriptor(over: RawFd, fd: RawFd) -> Outcome {
    let mut byte = [0];
    let mut piece = piece(&mut byte);
    let mut space = [0_u64; 8];
    // SAFETY: all bytes zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &mut piece;
    header.msg_iovlen = 1;
    header.msg_control = space.as_mut_ptr().cast();
    // SAFETY: it only computes.
    header.msg_controllen = unsafe { libc::CMSG_SPACE(mem::size_of::<RawFd>() as u32) } as _;
    // SAFETY: `space` has room for the one control message of one descriptor.
    unsafe {
        let control = libc::CMSG_FIRSTHDR(&header);
        (*control).cmsg_level = libc::SOL_SOCKET;
        (*control).cmsg_type = libc::SCM_RIGHTS;
        (*control).cmsg_len = libc::CMSG_LEN(mem::size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(control).cast::<RawFd>().write_unaligned(fd);
    }
    // SAFETY: the header describes arrays that live until the call returns.
    outcome(unsafe { libc::sendmsg(over, &header, 0) } as i64)
}

/// Receives a descriptor over a Unix socket.
pub fn recv_descriptor(over: RawFd) -> Outcome<RawFd> {
    let (result, _, controls) = recv_control(over, &mut [0], 0);
    result?;
    let rights = controls.iter().find(|(_, kind, _)| *kind == libc::SCM_RIGHTS);
    let bytes = rights.and_then(|(_, _, bytes)| bytes.first_chunk::<4>());
    bytes
        .map(|bytes| RawFd::from_ne_bytes(*bytes))
        .ok_or(Errno(libc::EBADMSG))
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

/// A stream socket of a protocol other than TCP; `flags` are SOCK_NONBLOCK or 0.
pub fn stream_socket(domain: i32, flags: i32, protocol: i32) -> Outcome<RawFd> {
    // SAFETY: no pointers.
    outcome(unsafe { libc::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags, protocol) })
        .map(|fd| fd as RawFd)
}

/// sendto with an address, as MSG_FASTOPEN requires.
pub fn send_to(fd: RawFd, bytes: &[u8], flags: i32, address: &[u8]) -> Outcome {
    let (start, length) = (bytes.as_ptr().cast(), bytes.len());
    let name_length = address.len() as libc::socklen_t;
    // SAFETY: pointers and lengths describe `bytes` and `address`, and the kernel copies an address of any alignment.
    outcome(unsafe { libc::sendto(fd, start, length, flags, address.as_ptr().cast(), name_length) } as i64)
}

/// Runs a closure in a forked child, which then exits at once; the child has only the calling thread.
pub fn fork(work: impl FnOnce()) -> Outcome<i32> {
    // SAFETY: a scenario forks while it has one thread, so no lock is held by another one.
    match outcome(unsafe { libc::fork() })? {
        0 => {
            work();
            // SAFETY: no pointers; nothing of the parent's is to be run at the end of the child.
            unsafe { libc::_exit(0) }
        }
        child => Ok(child as i32),
    }
}

/// Waits for a child to exit: its exit status, or 128 plus the signal.
pub fn wait_for(child: i32) -> Outcome {
    let mut status = 0;
    // SAFETY: the kernel writes one int.
    outcome(unsafe { libc::waitpid(child, &mut status, 0) })?;
    let code = if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128 + libc::WTERMSIG(status)
    };
    Ok(code as usize)
}

/// Executes another program.
pub fn execute(path: &std::ffi::CStr, arguments: &[&std::ffi::CStr]) -> Errno {
    let mut list: Vec<_> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    list.push(ptr::null());
    // SAFETY: the list ends with a null pointer, and its strings with a zero byte.
    unsafe { libc::execv(path.as_ptr(), list.as_ptr()) };
    Errno::last()
}

/// Sends a signal to a child.
pub fn kill(child: i32, signal: i32) -> Outcome {
    // SAFETY: no pointers.
    outcome(unsafe { libc::kill(child, signal) })
}

/// TCP_ZEROCOPY_RECEIVE of at most one page: the bytes that were mapped, and the bytes left to copy.
pub fn zerocopy_receive(fd: RawFd) -> Outcome<(u32, u32)> {
    const PAGE: usize = 4096;
    /// The first fields of struct tcp_zerocopy_receive.
    #[repr(C)]
    struct Receive {
        address: u64,
        length: u32,
        recv_skip_hint: u32,
    }
    // SAFETY: a new mapping, of the socket, where the kernel likes.
    let page = unsafe { libc::mmap(ptr::null_mut(), PAGE, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
    if page == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    let mut receive = Receive {
        address: page as u64,
        length: PAGE as u32,
        recv_skip_hint: 0,
    };
    let (value, mut length) = (&raw mut receive, mem::size_of::<Receive>() as libc::socklen_t);
    let name = libc::TCP_ZEROCOPY_RECEIVE;
    // SAFETY: the kernel writes at most `length` bytes, and maps at most a page at the address.
    let result = outcome(unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, name, value.cast(), &mut length) });
    // SAFETY: the mapping is ours, and nobody refers to it.
    unsafe { libc::munmap(page, PAGE) };
    result.map(|_| (receive.length, receive.recv_skip_hint))
}

/// SO_LINGER: close waits for at most this many seconds.
pub fn set_linger(fd: RawFd, seconds: i32) -> Outcome {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: seconds,
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, linger)
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
        address: loopback(family, 0).0,
        flags: 0,
        prefix_length: 0,
        key_length: key.len() as u16,
        interface: 0,
        key: [0; 80],
    };
    signature.key[..key.len()].copy_from_slice(key);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_MD5SIG, signature)
}

pub fn bind(fd: RawFd, family: Family, port: u16) -> Outcome {
    let (address, length) = loopback(family, port);
    // SAFETY: the pointer and the length describe `address`.
    outcome(unsafe { libc::bind(fd, (&raw const address).cast(), length) })
}
