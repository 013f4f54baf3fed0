//! Owns the splice of this program, with its `unsafe`: a pipe between two sockets, and the bytes in it.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// What Go's io.Copy asks for: as much as the pipe takes.
const MOST: usize = 1 << 20;

pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
}

impl Pipe {
    pub fn new() -> io::Result<Self> {
        let mut ends = [-1; 2];
        // SAFETY: the kernel writes two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made them and nobody else knows them.
        let [reader, writer] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Self {
            reader,
            writer,
            held: 0,
        })
    }

    pub fn held(&self) -> usize {
        self.held
    }

    /// One splice from a socket; 0 at the end of its stream.
    pub fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let moved = splice(from, &self.writer, MOST)?;
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

fn splice(from: &impl AsRawFd, into: &impl AsRawFd, most: usize) -> io::Result<usize> {
    let (from, into) = (from.as_raw_fd(), into.as_raw_fd());
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: no offsets, and both descriptors are open.
    let moved = unsafe { libc::splice(from, ptr::null_mut(), into, ptr::null_mut(), most, flags) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}
