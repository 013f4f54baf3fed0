//! The few calls into the C library and libbpf that have no safe wrapper.

use std::ffi::{CStr, c_int};
use std::fs::{self, File};
use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

/// Starts the process in the cgroup `clone_args::cgroup` (linux/sched.h; libc's constant is too narrow).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The version of libbpf that this binary is linked with, such as v1.7.
pub fn libbpf_version() -> String {
    // SAFETY: libbpf returns a pointer to a constant string.
    let version = unsafe { CStr::from_ptr(libbpf_sys::libbpf_version_string()) };
    version.to_string_lossy().into_owned()
}

/// The kernel release, as in `uname -r`; empty if /proc is not mounted.
pub fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim_end().to_owned()
}

/// Takes the exclusive lock of an open folder, held until its last descriptor closes; false if someone else has it.
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

/// Releases the lock of a folder.
pub fn unlock(folder: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call.
    check(unsafe { libc::flock(folder.as_raw_fd(), libc::LOCK_UN) }).map(drop)
}

/// The IDs of the sockops programs in effect for a cgroup: its own, and those of its ancestors.
pub fn effective_programs(cgroup: RawFd) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; 64];
    let mut count = ids.len() as u32;
    // SAFETY: the kernel writes at most `count` IDs, to a buffer that outlives the call.
    check(unsafe {
        libbpf_sys::bpf_prog_query(
            cgroup,
            libbpf_sys::BPF_CGROUP_SOCK_OPS,
            libbpf_sys::BPF_F_QUERY_EFFECTIVE,
            std::ptr::null_mut(),
            ids.as_mut_ptr(),
            &raw mut count,
        )
    })?;
    ids.truncate(count as usize);
    Ok(ids)
}

/// True if the kernel allows a program to be attached to the entry of this function.
pub fn traces_function(name: &CStr) -> bool {
    // r0 = 0; exit
    let program = [
        libbpf_sys::bpf_insn {
            code: 0xb7,
            ..Default::default()
        },
        libbpf_sys::bpf_insn {
            code: 0x95,
            ..Default::default()
        },
    ];
    // SAFETY: the name is a C string.
    let function =
        unsafe { libbpf_sys::libbpf_find_vmlinux_btf_id(name.as_ptr(), libbpf_sys::BPF_TRACE_FENTRY) };
    let Ok(function) = u32::try_from(function) else {
        return false;
    };
    let mut options = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as libbpf_sys::size_t,
        expected_attach_type: libbpf_sys::BPF_TRACE_FENTRY,
        attach_btf_id: function,
        ..Default::default()
    };
    // SAFETY: everything pointed to outlives the call; nobody else owns the new descriptors.
    unsafe {
        let loaded = libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_TRACING,
            c"sockredir_try".as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr(),
            program.len() as libbpf_sys::size_t,
            &raw mut options,
        );
        let Ok(loaded) = check(loaded) else {
            return false;
        };
        let loaded = OwnedFd::from_raw_fd(loaded);
        let attached = libbpf_sys::bpf_raw_tracepoint_open(std::ptr::null(), loaded.as_raw_fd());
        check(attached)
            .map(|attached| drop(OwnedFd::from_raw_fd(attached)))
            .is_ok()
    }
}

/// Non-blocking TCP sockets in the cgroup of this process.
pub fn sockets(count: usize) -> io::Result<Vec<OwnedFd>> {
    let socket = |_| {
        let socket = check(tcp_socket())?;
        // SAFETY: the kernel just made this descriptor, and nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(socket) })
    };
    (0..count).map(socket).collect()
}

fn tcp_socket() -> c_int {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    unsafe { libc::socket(libc::AF_INET, kind, 0) }
}

/// Non-blocking TCP sockets in another cgroup, made by a process that starts there. It shares our table of open files,
/// so the sockets are ours, and puts them in place of descriptors that we hold.
pub fn sockets_of(cgroup: &File, count: usize) -> io::Result<Vec<OwnedFd>> {
    let places: Vec<OwnedFd> = (0..count)
        .map(|_| cgroup.try_clone().map(OwnedFd::from))
        .collect::<io::Result<_>>()?;
    // SAFETY: the structure holds integers, for each of which 0 means none.
    let mut how: libc::clone_args = unsafe { mem::zeroed() };
    how.flags = libc::CLONE_FILES as u64 | CLONE_INTO_CGROUP;
    how.exit_signal = libc::SIGCHLD as u64;
    how.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: the child has its own memory, as after fork. It only makes system calls and ends with _exit.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const how, size_of_val(&how)) } as libc::pid_t;
    if pid == 0 {
        let error = places.iter().find_map(|place| fill_with_socket(place).err());
        let status = error.and_then(|error| error.raw_os_error()).unwrap_or(0);
        // SAFETY: it ends the process.
        unsafe { libc::_exit(status) }
    }
    check(pid)?;
    match exit_status(pid)? {
        Some(0) => Ok(places),
        Some(error) => Err(io::Error::from_raw_os_error(error)),
        None => Err(io::Error::other("the process that makes the sockets was killed")),
    }
}

/// Runs in the child: no allocation, and nothing is dropped.
fn fill_with_socket(place: &OwnedFd) -> io::Result<()> {
    let socket = check(tcp_socket())?;
    // SAFETY: no pointers; nobody else owns the new descriptor.
    unsafe {
        check(libc::dup3(socket, place.as_raw_fd(), libc::O_CLOEXEC))?;
        check(libc::close(socket))?;
    }
    Ok(())
}

/// Waits for a child to exit; returns its exit status, or `None` if a signal killed it.
fn exit_status(pid: libc::pid_t) -> io::Result<Option<c_int>> {
    let mut status = 0;
    // SAFETY: the status outlives the call.
    while let Err(error) = check(unsafe { libc::waitpid(pid, &raw mut status, 0) }) {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)))
}

/// Fixes a socket's send and receive buffers at twice this size, whatever the host's limits.
pub fn fix_buffers(socket: &OwnedFd, size: c_int) -> io::Result<()> {
    for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        // SAFETY: the kernel reads one int, which outlives the call.
        check(unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const size).cast(),
                size_of_val(&size) as libc::socklen_t,
            )
        })?;
    }
    Ok(())
}

/// Makes a socket send through the interface with this index.
pub fn bind_to_interface(socket: &OwnedFd, interface: u32) -> io::Result<()> {
    // SAFETY: the kernel reads one int, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTOIFINDEX,
            (&raw const interface).cast(),
            size_of_val(&interface) as libc::socklen_t,
        )
    })
    .map(drop)
}

fn with_address<T>(
    address: SocketAddrV4,
    call: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> T,
) -> T {
    // SAFETY: the structure holds integers.
    let mut raw: libc::sockaddr_in = unsafe { mem::zeroed() };
    raw.sin_family = libc::AF_INET as libc::sa_family_t;
    raw.sin_port = address.port().to_be();
    raw.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
    call((&raw const raw).cast(), size_of_val(&raw) as libc::socklen_t)
}

/// Makes a socket listen on a free port of 127.0.0.1.
pub fn listen(socket: OwnedFd) -> io::Result<TcpListener> {
    // SAFETY: the address outlives the call.
    with_address(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), |address, length| {
        check(unsafe { libc::bind(socket.as_raw_fd(), address, length) })
    })?;
    // SAFETY: no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), 1) })?;
    Ok(TcpListener::from(socket))
}

/// Starts connecting a non-blocking socket.
pub fn connect(socket: OwnedFd, address: SocketAddrV4) -> io::Result<TcpStream> {
    // SAFETY: the address outlives the call.
    let connected = with_address(address, |address, length| {
        check(unsafe { libc::connect(socket.as_raw_fd(), address, length) })
    });
    match connected {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from(socket)),
    }
}

/// Waits, edge-triggered, for one socket to become readable.
#[derive(Debug)]
pub struct Edges(OwnedFd);

impl Edges {
    pub fn of(stream: &TcpStream) -> io::Result<Self> {
        // SAFETY: no pointers; nobody else owns the new descriptor.
        let edges = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLET) as u32,
            u64: 0,
        };
        // SAFETY: the kernel reads one event, which outlives the call.
        check(unsafe {
            libc::epoll_ctl(
                edges.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                stream.as_raw_fd(),
                &raw mut event,
            )
        })?;
        Ok(Self(edges))
    }

    /// True if there is an edge within this time.
    pub fn next(&self, within: Duration) -> io::Result<bool> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let timeout = c_int::try_from(within.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the kernel writes at most one event, which outlives the call.
        let events = unsafe { libc::epoll_wait(self.0.as_raw_fd(), &raw mut event, 1, timeout) };
        Ok(check(events)? > 0)
    }
}

/// Splices everything readable into a pipe; returns the number of bytes.
pub fn splice_all(stream: &TcpStream) -> io::Result<usize> {
    let (_reader, writer) = nix::unistd::pipe()?;
    // SAFETY: both pointers are null.
    let spliced = unsafe {
        libc::splice(
            stream.as_raw_fd(),
            std::ptr::null_mut(),
            writer.as_raw_fd(),
            std::ptr::null_mut(),
            1 << 16,
            libc::SPLICE_F_NONBLOCK,
        )
    };
    match usize::try_from(spliced) {
        Ok(spliced) => Ok(spliced),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// The result of FIONREAD: bytes waiting to be read.
pub fn unread_bytes(stream: &TcpStream) -> io::Result<usize> {
    let mut unread: c_int = 0;
    // SAFETY: FIONREAD writes one int, to a variable that outlives the call.
    check(unsafe { libc::ioctl(stream.as_raw_fd(), libc::FIONREAD, &raw mut unread) })?;
    Ok(usize::try_from(unread).unwrap_or(0))
}
