//! Owns memory whose first access blocks: it stalls a send or a recv that holds its socket's lock.

use std::fs::File;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use anyhow::{Context, Result, ensure};

use super::errno::{outcome, owned};
use super::memory;

/// The ioctls of linux/userfaultfd.h.
const API: libc::c_ulong = 0xc018_aa3f;
const REGISTER: libc::c_ulong = 0xc020_aa00;
const COPY: libc::c_ulong = 0xc028_aa03;

const API_VERSION: u64 = 0xaa;
const MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;
/// Size of struct uffd_msg.
const MESSAGE: usize = 32;

/// Pages that are missing until they are supplied.
pub struct Pages {
    faults: File,
    start: NonNull<libc::c_void>,
    length: usize,
}

// SAFETY: it is memory of the process, and all that is written there is written by the kernel before anybody sees it.
unsafe impl Sync for Pages {}

impl Pages {
    /// `length` is in bytes, a multiple of the page size.
    pub fn new(length: usize) -> Result<Self> {
        // SAFETY: the call takes flags only.
        let faults = owned(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) })
            .context("failed to make a userfaultfd")?;
        let start = memory::map_private(length).context("failed to map memory")?;
        let start = NonNull::new(start).context("the mapping is at address 0")?;
        let pages = Self {
            faults: faults.into(),
            start,
            length,
        };
        pages.ask(API, &mut [API_VERSION, 0, 0])?;
        pages.ask(REGISTER, &mut [pages.address(), length as u64, MODE_MISSING, 0])?;
        Ok(pages)
    }

    fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    fn ask<const WORDS: usize>(&self, request: libc::c_ulong, argument: &mut [u64; WORDS]) -> Result<()> {
        // SAFETY: each request above reads and writes a struct of so many 64-bit words.
        outcome(unsafe { libc::ioctl(self.faults.as_raw_fd(), request, argument.as_mut_ptr()) })
            .context("userfaultfd failed")?;
        Ok(())
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has this length, lives as long as `self`, and nobody writes to what has been read.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.length) }
    }

    /// Receives one byte into the pages.
    pub fn receive(&self, stream: &TcpStream) -> Result<()> {
        let (fd, into) = (stream.as_raw_fd(), self.start.as_ptr());
        // SAFETY: there is room for a byte in the mapping, and nobody has read it.
        let count = outcome(unsafe { libc::recv(fd, into, 1, 0) } as i64).context("a recv failed")?;
        ensure!(count == 1, "a recv returned {count}");
        Ok(())
    }

    /// Waits until someone faults on the pages.
    pub fn wait_for_touch(&self) -> Result<()> {
        let mut message = [0; MESSAGE];
        (&self.faults)
            .read_exact(&mut message)
            .context("failed to wait for a fault")?;
        ensure!(message[0] == EVENT_PAGEFAULT, "userfaultfd told something else");
        Ok(())
    }

    /// Supplies all of the pages.
    pub fn give(&self, bytes: &[u8]) -> Result<()> {
        ensure!(bytes.len() == self.length, "not as many bytes as there are");
        self.ask(
            COPY,
            &mut [self.address(), bytes.as_ptr() as u64, self.length as u64, 0, 0],
        )
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: nobody has a reference to the mapping any more.
        unsafe { libc::munmap(self.start.as_ptr(), self.length) };
    }
}
