//! Owns sends and receives: one buffer or several, one message or several, with control messages and without.

use std::mem;
use std::os::fd::RawFd;
use std::ptr;

use super::errno::{Errno, Outcome, outcome};

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

/// send of this many bytes from a null pointer.
pub fn send_nothing(fd: RawFd, length: usize) -> Outcome {
    // SAFETY: the kernel checks the address, which is the point; nothing of ours lies at it.
    outcome(unsafe { libc::send(fd, ptr::null(), length, 0) } as i64)
}

/// sendto with an address, as MSG_FASTOPEN requires.
pub fn send_to(fd: RawFd, bytes: &[u8], flags: i32, address: &[u8]) -> Outcome {
    let (start, length) = (bytes.as_ptr().cast(), bytes.len());
    let name_length = address.len() as libc::socklen_t;
    // SAFETY: pointers and lengths describe `bytes` and `address`, and the kernel copies an address of any alignment.
    outcome(unsafe { libc::sendto(fd, start, length, flags, address.as_ptr().cast(), name_length) } as i64)
}

fn piece(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }
}

fn pieces_of(buffers: &mut [Vec<u8>]) -> Vec<libc::iovec> {
    buffers.iter_mut().map(|bytes| piece(bytes)).collect()
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

/// sendmmsg: the bytes sent of each message that was sent.
pub fn send_messages(fd: RawFd, messages: &mut [Vec<u8>]) -> Outcome<Vec<usize>> {
    let mut pieces = pieces_of(messages);
    let mut headers = headers(&mut pieces);
    // SAFETY: the headers describe the pieces, and these the messages.
    let count = outcome(unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), headers.len() as u32, 0) })?;
    Ok(lengths(&headers[..count]))
}

/// recvmmsg: the bytes received into each buffer that was used.
pub fn recv_messages(fd: RawFd, messages: &mut [Vec<u8>], flags: i32) -> Outcome<Vec<usize>> {
    let mut pieces = pieces_of(messages);
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
