//! Owns the system calls of the harness that std lacks, with all of its `unsafe`.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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

/// Creates a tunnel interface that carries whole IP packets in the calling thread's network namespace.
pub fn open_tunnel(name: &str) -> io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all bytes zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the kernel reads and writes one ifreq.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) })?;
    Ok(file)
}

/// Waits for a file to become readable; false on timeout.
pub fn wait_readable(file: &File, within: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the kernel reads and writes one pollfd.
    unsafe { libc::poll(&mut poll, 1, within.as_millis() as libc::c_int) > 0 }
}

/// Runs a closure in the child before exec; it must only make system calls.
pub fn before_exec(command: &mut Command, work: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: the callers in this harness make system calls that are safe between fork and exec, and allocate nothing.
    unsafe { command.pre_exec(work) };
}

/// Moves the child into a cgroup (an open `cgroup.procs`) and a network namespace before exec.
pub fn start_inside(command: &mut Command, procs: File, namespace: Arc<OwnedFd>) {
    before_exec(command, move || {
        // SAFETY: one byte of a constant.
        if unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) } != 1 {
            return Err(io::Error::last_os_error());
        }
        enter_network(namespace.as_fd())
    });
}

/// Makes the calling process lose a capability at exec.
pub fn drop_capability(number: u64) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) })?;
    Ok(())
}

/// Gives the calling process a private mount namespace.
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

/// Makes a mount read-only for the calling process.
pub fn make_read_only(path: &CStr) -> io::Result<()> {
    bind_mount(path, path)?;
    let flags = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY;
    let none = std::ptr::null();
    // SAFETY: the path ends with a zero byte, and a remount uses no other pointer.
    check(unsafe { libc::mount(none, path.as_ptr(), none, flags, none.cast()) })?;
    Ok(())
}

/// Makes FIONREAD succeed in the calling process without an effect, so its answer stays 0.
pub fn silence_fionread() -> io::Result<()> {
    let statement = |code: u32, k: u32, skip: u8| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: skip,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    // Offsets in struct seccomp_data: the system call number, and the low half of its second argument.
    let mut filter = [
        statement(load, 0, 0),
        statement(equals, libc::SYS_ioctl as u32, 3),
        statement(load, 24, 0),
        statement(equals, libc::FIONREAD as u32, 1),
        statement(answer, libc::SECCOMP_RET_ERRNO, 0),
        statement(answer, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel reads the program and its filter, which outlive the call.
    check(unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    })?;
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

/// Reaps a child that was killed; a pid that is not (or no longer) our child is ignored.
pub fn reap(pid: u32) {
    // SAFETY: a null status pointer is allowed.
    unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), 0) };
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_signal: i32) {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// While it lives, Ctrl-C lets the test finish by itself and clean up; once dropped, it ends the process as usual.
pub struct Interrupts {
    usual: libc::sigaction,
}

impl Interrupts {
    pub fn catch() -> Self {
        let handler: extern "C" fn(i32) = interrupt;
        // SAFETY: all bytes zero is a valid sigaction without flags.
        let (mut action, mut usual): (libc::sigaction, libc::sigaction) = unsafe { mem::zeroed() };
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler only stores to an atomic, which is safe in a signal handler.
        check(unsafe { libc::sigaction(libc::SIGINT, &action, &mut usual) }).expect("SIGINT can be caught");
        Self { usual }
    }

    pub fn happened(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst)
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // SAFETY: the action is what the kernel gave.
        let restored = check(unsafe { libc::sigaction(libc::SIGINT, &self.usual, ptr::null_mut()) });
        if restored.is_ok() && self.happened() {
            // SAFETY: no pointers.
            unsafe { libc::raise(libc::SIGINT) };
        }
    }
}
