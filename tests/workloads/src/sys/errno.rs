//! Owns the results of system calls: a number, or an error by its name.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

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

impl Error for Errno {}

impl From<Errno> for io::Error {
    fn from(error: Errno) -> Self {
        Self::from_raw_os_error(error.0)
    }
}

/// The result of a system call that returns a number, or -1 and an error number.
pub fn outcome(result: impl Into<i64>) -> Outcome {
    usize::try_from(result.into()).map_err(|_| Errno::last())
}

/// The descriptor that a call returned.
pub fn descriptor(result: impl Into<i64>) -> Outcome<RawFd> {
    outcome(result).map(|fd| fd as RawFd)
}

/// As [`descriptor`], which is then closed with its owner.
pub fn owned(result: impl Into<i64>) -> Outcome<OwnedFd> {
    descriptor(result).map(owner)
}

/// The owner of a descriptor that a call has just made.
pub fn owner(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel just made this descriptor, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A successful call's number or an error's name, as transcripts show it.
pub fn text(outcome: Outcome) -> String {
    outcome.map_or_else(|error| error.to_string(), |value| value.to_string())
}
