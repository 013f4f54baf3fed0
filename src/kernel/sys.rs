//! The few calls into the C library and libbpf that have no safe face.

use std::ffi::{CStr, c_int};
use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

/// The version of libbpf that this binary is linked with, such as v1.7.
pub fn libbpf_version() -> String {
    // SAFETY: libbpf returns a pointer to a constant string.
    let version = unsafe { CStr::from_ptr(libbpf_sys::libbpf_version_string()) };
    version.to_string_lossy().into_owned()
}

/// Takes the exclusive lock of an open folder, which ends with its last descriptor; false if somebody has it.
pub fn try_lock(folder: &File) -> io::Result<bool> {
    // SAFETY: the descriptor is open for the length of the call.
    if unsafe { libc::flock(folder.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock {
        Ok(false)
    } else {
        Err(error)
    }
}

/// What FIONREAD says: the bytes that wait to be read.
pub fn unread_bytes(stream: &TcpStream) -> io::Result<usize> {
    let mut unread: c_int = 0;
    // SAFETY: FIONREAD writes one int, to the variable that outlives the call.
    if unsafe { libc::ioctl(stream.as_raw_fd(), libc::FIONREAD, &raw mut unread) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(unread).unwrap_or(0))
}
