//! Owns mappings: memory that ends where it says, and memory that a socket fills.

use std::mem;
use std::os::fd::RawFd;
use std::ptr;

use super::errno::{Errno, Outcome, outcome};

pub const PAGE: usize = 4096;

/// New pages, at an address that the kernel chooses.
pub fn map(length: usize, protection: i32, flags: i32, fd: RawFd, offset: i64) -> Outcome<*mut libc::c_void> {
    // SAFETY: without an address and MAP_FIXED, no memory in use is replaced.
    let pages = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, fd, offset) };
    if pages == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    Ok(pages)
}

/// As [`map`], for memory that is read and written by this process alone.
pub fn map_private(length: usize) -> Outcome<*mut libc::c_void> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    map(length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
}

/// A readable page followed by an inaccessible one.
pub struct Page(*mut libc::c_void);

impl Page {
    pub fn new() -> Outcome<Self> {
        let pages = map_private(2 * PAGE)?;
        // SAFETY: the second of the two pages, which nobody uses.
        outcome(unsafe { libc::mprotect(pages.byte_add(PAGE), PAGE, libc::PROT_NONE) })?;
        Ok(Self(pages))
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

/// TCP_ZEROCOPY_RECEIVE of at most one page: the bytes that were mapped, and the bytes left to copy.
pub fn zerocopy_receive(fd: RawFd) -> Outcome<(u32, u32)> {
    /// The first fields of struct tcp_zerocopy_receive.
    #[repr(C)]
    struct Receive {
        address: u64,
        length: u32,
        recv_skip_hint: u32,
    }
    let page = map(PAGE, libc::PROT_READ, libc::MAP_SHARED, fd, 0)?;
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
