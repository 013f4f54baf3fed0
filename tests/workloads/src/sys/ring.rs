//! Owns a small io_uring: requests on sockets, and their completions, one at a time.

use std::mem;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::errno::{Errno, Outcome, outcome, owned};
use super::memory;

pub const POLL_ADD: u8 = 6;
pub const CANCEL: u8 = 14;
pub const READ: u8 = 22;
pub const WRITE: u8 = 23;
pub const SEND: u8 = 26;
pub const RECV: u8 = 27;
pub const SEND_ZC: u8 = 47;

/// More completions of the same request will follow.
pub const MORE: u32 = 2;

const ENTRIES: u32 = 8;
const SINGLE_MMAP: u32 = 1;
const OFFSET_OF_REQUESTS: i64 = 0x1000_0000;
const GET_EVENTS: u32 = 1;

/// struct io_sqring_offsets and struct io_cqring_offsets, whose fields only differ in their names.
#[repr(C)]
#[derive(Default)]
struct Offsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    fifth: u32,
    /// Submission ring: the number of dropped requests. Completion ring: the offset of the entries.
    sixth: u32,
    /// Submission ring: the offset of the index array.
    seventh: u32,
    reserved: u32,
    address: u64,
}

/// struct io_uring_params.
#[repr(C)]
#[derive(Default)]
struct Parameters {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    thread: [u32; 2],
    features: u32,
    other: [u32; 4],
    requests: Offsets,
    completions: Offsets,
}

/// struct io_uring_sqe.
#[repr(C)]
#[derive(Default)]
struct Request {
    operation: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    operation_flags: u32,
    user_data: u64,
    rest: [u64; 3],
}

/// struct io_uring_cqe.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    user_data: u64,
    result: i32,
    flags: u32,
}

pub struct Completion {
    pub id: u64,
    pub outcome: Outcome,
    pub flags: u32,
}

/// Lives as long as the process.
pub struct Ring {
    fd: RawFd,
    ring: *mut u8,
    requests: *mut Request,
    parameters: Parameters,
}

/// io_uring_setup(2), with room for this many requests.
fn set_up(entries: u32, parameters: &mut Parameters) -> Outcome<OwnedFd> {
    // SAFETY: the kernel reads and writes one struct io_uring_params.
    owned(unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, &raw mut *parameters) })
}

/// A ring without any request, which is enough to be a program with an io_uring.
pub fn idle() -> Outcome<OwnedFd> {
    set_up(1, &mut Parameters::default())
}

fn map(fd: RawFd, length: usize, offset: i64) -> Outcome<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    memory::map(length, protection, flags, fd, offset).map(|address| address.cast())
}

/// Memory that a request may fill for as long as it likes: it is never freed.
pub struct Lent {
    bytes: *const u8,
    length: usize,
}

impl Lent {
    /// What the request has received by its completion.
    pub fn received(&self, completion: &Completion) -> &[u8] {
        let count = completion.outcome.unwrap_or(0).min(self.length);
        // SAFETY: the memory is never freed, and the request that wrote `count` bytes to it is complete.
        unsafe { std::slice::from_raw_parts(self.bytes, count) }
    }
}

impl Ring {
    pub fn new() -> Outcome<Self> {
        let mut parameters = Parameters::default();
        let fd = set_up(ENTRIES, &mut parameters)?.into_raw_fd();
        // Kernels since 5.4 map both rings at once.
        assert!(parameters.features & SINGLE_MMAP != 0, "an io_uring of old");
        let completions =
            parameters.completions.sixth as usize + parameters.cq_entries as usize * mem::size_of::<Entry>();
        let numbers =
            parameters.requests.seventh as usize + parameters.sq_entries as usize * mem::size_of::<u32>();
        let requests = parameters.sq_entries as usize * mem::size_of::<Request>();
        Ok(Self {
            fd,
            ring: map(fd, completions.max(numbers), 0)?,
            requests: map(fd, requests, OFFSET_OF_REQUESTS)?.cast(),
            parameters,
        })
    }

    /// A shared counter at this offset from the start of the rings.
    fn at(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the offsets that the kernel gave lie in the mapping and are aligned, and the mapping stays.
        unsafe { AtomicU32::from_ptr(self.ring.add(offset as usize).cast()) }
    }

    fn enter(&self, submit: u32, wait: u32) -> Outcome {
        let flags = if wait > 0 { GET_EVENTS } else { 0 };
        let nothing = ptr::null::<u8>();
        // SAFETY: no signal mask.
        outcome(unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.fd,
                submit,
                wait,
                flags,
                nothing,
                0_usize,
            )
        })
    }

    fn submit(&self, request: Request) -> Outcome {
        let requests = &self.parameters.requests;
        let tail = self.at(requests.tail).load(Ordering::Relaxed);
        let index = tail & self.at(requests.ring_mask).load(Ordering::Relaxed);
        // SAFETY: the index is below the number of entries, and the kernel has taken whatever was there at submission.
        unsafe { self.requests.add(index as usize).write(request) };
        self.at(requests.seventh + index * mem::size_of::<u32>() as u32)
            .store(index, Ordering::Relaxed);
        self.at(requests.tail).store(tail + 1, Ordering::Release);
        self.enter(1, 0)
    }

    fn transfer(&self, operation: u8, fd: RawFd, bytes: &'static mut [u8], flags: i32, id: u64) {
        let request = Request {
            operation,
            fd,
            address: bytes.as_mut_ptr() as u64,
            length: bytes.len() as u32,
            operation_flags: flags as u32,
            user_data: id,
            ..Request::default()
        };
        self.submit(request).expect("failed to submit a request");
    }

    /// Sends these bytes; `flags` are the operation's own.
    pub fn send(&self, operation: u8, fd: RawFd, bytes: Vec<u8>, flags: i32, id: u64) {
        self.transfer(operation, fd, bytes.leak(), flags, id);
    }

    /// Receives this many bytes; `flags` are the operation's own.
    pub fn receive(&self, operation: u8, fd: RawFd, length: usize, flags: i32, id: u64) -> Lent {
        let bytes = vec![0; length].leak();
        let lent = Lent {
            bytes: bytes.as_ptr(),
            length,
        };
        self.transfer(operation, fd, bytes, flags, id);
        lent
    }

    /// A one-shot poll for any of these events.
    pub fn poll(&self, fd: RawFd, events: i16, id: u64) {
        let request = Request {
            operation: POLL_ADD,
            fd,
            operation_flags: events as u32,
            user_data: id,
            ..Request::default()
        };
        self.submit(request).expect("failed to submit a request");
    }

    /// A request to cancel an earlier one.
    pub fn cancel(&self, earlier: u64, id: u64) {
        let request = Request {
            operation: CANCEL,
            fd: -1,
            address: earlier,
            user_data: id,
            ..Request::default()
        };
        self.submit(request).expect("failed to submit a request");
    }

    /// The next completion, if there is one.
    pub fn look(&self) -> Option<Completion> {
        self.enter(0, 0).expect("failed to enter the ring");
        let completions = &self.parameters.completions;
        let head = self.at(completions.head).load(Ordering::Relaxed);
        if head == self.at(completions.tail).load(Ordering::Acquire) {
            return None;
        }
        let index = head & self.at(completions.ring_mask).load(Ordering::Relaxed);
        let offset = completions.sixth as usize + index as usize * mem::size_of::<Entry>();
        // SAFETY: the entry lies in the mapping, and the kernel has filled it before it moved the tail.
        let entry = unsafe { self.ring.add(offset).cast::<Entry>().read() };
        self.at(completions.head).store(head + 1, Ordering::Release);
        Some(Completion {
            id: entry.user_data,
            outcome: usize::try_from(entry.result).map_err(|_| Errno(-entry.result)),
            flags: entry.flags,
        })
    }

    /// Waits for the next completion.
    pub fn wait(&self) -> Completion {
        loop {
            if let Some(completion) = self.look() {
                return completion;
            }
            self.enter(0, 1).expect("failed to enter the ring");
        }
    }
}
