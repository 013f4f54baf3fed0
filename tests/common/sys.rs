//! Owns the system calls of the harness that std lacks, with all of its `unsafe`.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

pub fn is_root() -> bool {
    // SAFETY: no pointers, and it cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Gives the calling thread a network namespace of its own.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    Ok(())
}

/// Moves the calling thread into a network namespace.
pub fn enter_network(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })?;
    Ok(())
}

/// Brings up the loopback interface of the calling thread's network namespace.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all bytes zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    // SAFETY: the kernel reads and writes one ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request) })?;
    // SAFETY: SIOCGIFFLAGS has filled the flags.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: as above.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) })?;
    Ok(())
}

/// Runs something in the child before it executes; it must only make system calls.
pub fn before_exec(command: &mut Command, work: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: the callers in this harness make system calls that are safe between fork and exec, and allocate nothing.
    unsafe { command.pre_exec(work) };
}

/// Lets the child move into a cgroup (an open `cgroup.procs`) and a network namespace before it executes.
pub fn start_inside(command: &mut Command, procs: File, namespace: Arc<OwnedFd>) {
    before_exec(command, move || {
        // SAFETY: one byte of a constant.
        if unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) } != 1 {
            return Err(io::Error::last_os_error());
        }
        enter_network(namespace.as_fd())
    });
}

/// Makes sure that the calling process loses a capability when it executes.
pub fn drop_capability(number: u64) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) })?;
    Ok(())
}

/// Gives the calling process mounts of its own; what it changes nobody else sees.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    let none = std::ptr::null();
    // SAFETY: the target is a constant, and a change of propagation uses no other pointer.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, flags, none.cast()) })?;
    Ok(())
}

pub fn unmount(path: &CStr) -> io::Result<()> {
    // SAFETY: the path ends with a zero byte.
    check(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) })?;
    Ok(())
}

pub fn bind_mount(file: &CStr, over: &CStr) -> io::Result<()> {
    let none = std::ptr::null();
    // SAFETY: both paths end with a zero byte, and a bind mount uses no other pointer.
    check(unsafe { libc::mount(file.as_ptr(), over.as_ptr(), none, libc::MS_BIND, none.cast()) })?;
    Ok(())
}

pub fn unlink(path: &CStr) -> io::Result<()> {
    // SAFETY: the path ends with a zero byte.
    check(unsafe { libc::unlink(path.as_ptr()) })?;
    Ok(())
}

pub fn signal(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid as libc::pid_t, signal) })?;
    Ok(())
}

/// Reaps a child that was killed; a process that is no child (any more) is not our business.
pub fn reap(pid: u32) {
    // SAFETY: a null status pointer is allowed.
    unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), 0) };
}
