//! The few calls into the C library and libbpf that have no safe face.

use std::ffi::{CStr, c_int};
use std::fs::{self, File};
use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

/// The process begins in the cgroup `clone_args::cgroup` (linux/sched.h; libc's constant is too narrow).
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

/// The release of the running kernel, as `uname -r` has it; empty where /proc is not mounted.
pub fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim_end().to_owned()
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

/// Gives the lock of a folder up.
pub fn unlock(folder: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call.
    check(unsafe { libc::flock(folder.as_raw_fd(), libc::LOCK_UN) }).map(drop)
}

/// The ids of the sockops programs in effect for a cgroup: its own, and those above it.
pub fn effective_programs(cgroup: RawFd) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; 64];
    let mut count = ids.len() as u32;
    // SAFETY: the kernel writes at most as many ids as the count says, to a buffer that outlives the call.
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

/// Whether the kernel lets a program be attached to the begin of one of its functions.
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
    // SAFETY: all that is pointed to outlives the call; the new descriptors are nobody else's.
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

/// Non-blocking TCP sockets that belong to the cgroup of this process.
pub fn sockets(count: usize) -> io::Result<Vec<OwnedFd>> {
    let socket = |_| {
        let socket = check(tcp_socket())?;
        // SAFETY: the kernel just made this descriptor and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(socket) })
    };
    (0..count).map(socket).collect()
}

fn tcp_socket() -> c_int {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    unsafe { libc::socket(libc::AF_INET, kind, 0) }
}

/// Non-blocking TCP sockets that belong to a cgroup: a process is started there that makes them. It shares the table of
/// open files, so that they are ours, and puts them in places that we hold.
pub fn sockets_of(cgroup: &File, count: usize) -> io::Result<Vec<OwnedFd>> {
    let places: Vec<OwnedFd> = (0..count)
        .map(|_| cgroup.try_clone().map(OwnedFd::from))
        .collect::<io::Result<_>>()?;
    // SAFETY: the structure holds numbers, and 0 stands for none of each.
    let mut how: libc::clone_args = unsafe { mem::zeroed() };
    how.flags = libc::CLONE_FILES as u64 | CLONE_INTO_CGROUP;
    how.exit_signal = libc::SIGCHLD as u64;
    how.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: the child has memory of its own, as after fork. It makes system calls only and ends with _exit.
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

/// In the child: no allocation, and nothing is dropped.
fn fill_with_socket(place: &OwnedFd) -> io::Result<()> {
    let socket = check(tcp_socket())?;
    // SAFETY: no pointers; the new descriptor is nobody else's.
    unsafe {
        check(libc::dup3(socket, place.as_raw_fd(), libc::O_CLOEXEC))?;
        check(libc::close(socket))?;
    }
    Ok(())
}

/// Waits for the end of a child: its exit status, or none if a signal ended it.
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

/// Gives a socket send and receive buffers of twice this size, whatever the host's limits are, and no growth.
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

/// Lets what a socket sends leave by an interface, named by its number.
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
    // SAFETY: the structure holds numbers.
    let mut raw: libc::sockaddr_in = unsafe { mem::zeroed() };
    raw.sin_family = libc::AF_INET as libc::sa_family_t;
    raw.sin_port = address.port().to_be();
    raw.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
    call((&raw const raw).cast(), size_of_val(&raw) as libc::socklen_t)
}

/// Lets a socket listen on a free port of 127.0.0.1.
pub fn listen(socket: OwnedFd) -> io::Result<TcpListener> {
    // SAFETY: the address outlives the call.
    with_address(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), |address, length| {
        check(unsafe { libc::bind(socket.as_raw_fd(), address, length) })
    })?;
    // SAFETY: no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), 1) })?;
    Ok(TcpListener::from(socket))
}

/// Begins to connect a non-blocking socket.
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

/// An edge-triggered wait for one socket to become readable.
#[derive(Debug)]
pub struct Edges(OwnedFd);

impl Edges {
    pub fn of(stream: &TcpStream) -> io::Result<Self> {
        // SAFETY: no pointers; the descriptor is new and nobody else's.
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

    /// Whether there is an edge within the time.
    pub fn next(&self, within: Duration) -> io::Result<bool> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let timeout = c_int::try_from(within.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the kernel writes at most one event, which outlives the call.
        let events = unsafe { libc::epoll_wait(self.0.as_raw_fd(), &raw mut event, 1, timeout) };
        Ok(check(events)? > 0)
    }
}

/// Splices what there is to a pipe: how much it was.
pub fn splice_all(stream: &TcpStream) -> io::Result<usize> {
    let (_reader, writer) = nix::unistd::pipe()?;
    // SAFETY: no pointers that are not null.
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

/// What FIONREAD says: the bytes that wait to be read.
pub fn unread_bytes(stream: &TcpStream) -> io::Result<usize> {
    let mut unread: c_int = 0;
    // SAFETY: FIONREAD writes one int, to the variable that outlives the call.
    check(unsafe { libc::ioctl(stream.as_raw_fd(), libc::FIONREAD, &raw mut unread) })?;
    Ok(usize::try_from(unread).unwrap_or(0))
}
