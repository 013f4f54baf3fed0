//! Owns poll, select and epoll, and what wakes an event loop.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::errno::{Errno, Outcome, descriptor, outcome, owned, owner};

pub const IN: u32 = libc::EPOLLIN as u32;
pub const OUT: u32 = libc::EPOLLOUT as u32;
pub const ERR: u32 = libc::EPOLLERR as u32;
pub const HUP: u32 = libc::EPOLLHUP as u32;
pub const RDHUP: u32 = libc::EPOLLRDHUP as u32;
pub const EDGE: u32 = libc::EPOLLET as u32;

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
    descriptor(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

fn control(epoll: RawFd, operation: i32, fd: RawFd, events: u32, token: u64) -> Outcome {
    let mut event = libc::epoll_event { events, u64: token };
    // SAFETY: one event, which lives until the call returns.
    outcome(unsafe { libc::epoll_ctl(epoll, operation, fd, &mut event) })
}

fn wait(epoll: RawFd, into: &mut [libc::epoll_event], milliseconds: i32) -> Outcome {
    // SAFETY: the pointer and the length describe `into`.
    outcome(unsafe { libc::epoll_wait(epoll, into.as_mut_ptr(), into.len() as i32, milliseconds) })
}

pub fn epoll_control(epoll: RawFd, operation: i32, fd: RawFd, events: u32) -> Outcome {
    control(epoll, operation, fd, events, fd as u64)
}

/// The events of one descriptor in an epoll instance; `None` after this many milliseconds without any.
pub fn epoll_wait(epoll: RawFd, milliseconds: i32) -> Outcome<Option<u32>> {
    let mut event = [libc::epoll_event { events: 0, u64: 0 }];
    let count = wait(epoll, &mut event, milliseconds)?;
    Ok((count > 0).then_some(event[0].events))
}

/// An epoll instance; tokens are the caller's.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            fd: epoll_create().map(owner)?,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; 256],
        })
    }

    fn control(&self, operation: i32, fd: &impl AsRawFd, interest: u32, token: u64) -> io::Result<()> {
        control(self.fd.as_raw_fd(), operation, fd.as_raw_fd(), interest, token)?;
        Ok(())
    }

    pub fn add(&self, fd: &impl AsRawFd, interest: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest, token)
    }

    pub fn modify(&self, fd: &impl AsRawFd, interest: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, interest, token)
    }

    /// Waits at most this many milliseconds and appends (token, events) to `into`.
    pub fn wait(&mut self, milliseconds: i32, into: &mut Vec<(u64, u32)>) -> io::Result<()> {
        let count = match wait(self.fd.as_raw_fd(), &mut self.events, milliseconds) {
            Err(Errno(libc::EINTR)) => 0,
            other => other?,
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
