//! Owns what can be done to any descriptor, pipes, and what moves data between files.

use std::os::fd::RawFd;
use std::ptr;

use super::errno::{Outcome, outcome};

pub fn close(fd: RawFd) -> Outcome {
    // SAFETY: the descriptors of a scenario belong to no owner that would close them again.
    outcome(unsafe { libc::close(fd) })
}

/// An ioctl that returns an int, such as FIONREAD and SIOCOUTQ.
pub fn ioctl(fd: RawFd, request: libc::c_ulong) -> Outcome<i32> {
    let mut value = 0_i32;
    // SAFETY: the requests that are asked here write one int.
    outcome(unsafe { libc::ioctl(fd, request as _, &mut value) })?;
    Ok(value)
}

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

/// A non-blocking pipe: its read end and its write end.
pub fn pipe() -> Outcome<[RawFd; 2]> {
    let mut ends = [-1; 2];
    // SAFETY: the kernel writes two numbers.
    outcome(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
    Ok(ends)
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
