//! TCP and Unix stream sockets behind one interface, so that every column makes the same system calls.

use std::net::{SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixSocketAddr, UnixListener};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, SockaddrIn, SockaddrLike, UnixAddr, sockopt,
};
use serde::{Deserialize, Serialize};

use crate::cases::Programs;

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Address {
    Tcp(SocketAddrV4),
    /// A name in the abstract namespace, which leaves no file behind.
    Unix(String),
}

/// Whether small messages are sent at once, and whether calls block.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    pub programs: Programs,
    pub no_delay: bool,
}

impl Manner {
    fn is_nonblocking(self) -> bool {
        self.programs == Programs::Nonblocking
    }
}

/// A connected socket.
pub struct Socket(OwnedFd);

/// `None` if a call on a non-blocking socket had nothing to do.
fn unless_it_would_block<T>(result: nix::Result<T>) -> nix::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::EAGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Socket {
    /// Connects, and waits for the connection. The socket has its final settings from its creation on.
    pub fn connect(address: &Address, manner: Manner) -> Result<Self> {
        let family = match address {
            Address::Tcp(_) => AddressFamily::Inet,
            Address::Unix(_) => AddressFamily::Unix,
        };
        let mut flags = SockFlag::SOCK_CLOEXEC;
        flags.set(SockFlag::SOCK_NONBLOCK, manner.is_nonblocking());
        let socket = Self(socket::socket(family, SockType::Stream, flags, None)?);
        match address {
            Address::Tcp(address) => {
                socket.set_no_delay(manner)?;
                socket.connect_to(&SockaddrIn::from(*address))
            }
            Address::Unix(name) => socket.connect_to(&UnixAddr::new_abstract(name.as_bytes())?),
        }
        .context("failed to connect")?;
        Ok(socket)
    }

    fn connect_to(&self, address: &dyn SockaddrLike) -> Result<()> {
        match socket::connect(self.raw(), address) {
            Err(Errno::EINPROGRESS) => {
                let mut wait = [PollFd::new(self.as_fd(), PollFlags::POLLOUT)];
                poll(&mut wait, PollTimeout::NONE)?;
                let error = socket::getsockopt(&self.0, sockopt::SocketError)?;
                (error == 0).then_some(()).ok_or(Errno::from_raw(error).into())
            }
            result => Ok(result?),
        }
    }

    fn set_no_delay(&self, manner: Manner) -> nix::Result<()> {
        if manner.no_delay {
            socket::setsockopt(&self.0, sockopt::TcpNoDelay, &true)?;
        }
        Ok(())
    }

    /// The bytes taken; `None` if there is no room.
    pub fn send(&self, bytes: &[u8]) -> nix::Result<Option<usize>> {
        unless_it_would_block(socket::send(self.raw(), bytes, MsgFlags::MSG_NOSIGNAL))
    }

    /// The bytes received, 0 at the end; `None` if nothing has arrived.
    pub fn receive(&self, buffer: &mut [u8]) -> nix::Result<Option<usize>> {
        unless_it_would_block(socket::recv(self.raw(), buffer, MsgFlags::empty()))
    }

    pub fn end_sending(&self) -> nix::Result<()> {
        socket::shutdown(self.raw(), Shutdown::Write)
    }

    fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub enum Listener {
    Tcp(TcpListener, Manner),
    Unix(UnixListener, Manner),
}

impl Listener {
    /// Port 0 stands for any free port.
    pub fn bind(address: &Address, manner: Manner) -> Result<Self> {
        let listener = match address {
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(manner.is_nonblocking())?;
                Self::Tcp(listener, manner)
            }
            Address::Unix(name) => {
                let listener = UnixListener::bind_addr(&UnixSocketAddr::from_abstract_name(name)?)?;
                listener.set_nonblocking(manner.is_nonblocking())?;
                Self::Unix(listener, manner)
            }
        };
        Ok(listener)
    }

    /// The address for clients.
    pub fn address(&self, bound: &Address) -> Result<Address> {
        let mut address = bound.clone();
        if let (Self::Tcp(listener, _), Address::Tcp(address)) = (self, &mut address) {
            address.set_port(listener.local_addr()?.port());
        }
        Ok(address)
    }

    pub fn accept(&self) -> Result<Socket> {
        match self {
            Self::Tcp(listener, manner) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(manner.is_nonblocking())?;
                let socket = Socket(stream.into());
                socket.set_no_delay(*manner)?;
                Ok(socket)
            }
            Self::Unix(listener, manner) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(manner.is_nonblocking())?;
                Ok(Socket(stream.into()))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener, _) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

/// The event loop's epoll instance, level-triggered.
pub struct Events {
    epoll: Epoll,
    ready: Vec<EpollEvent>,
}

impl Events {
    pub fn new() -> nix::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            ready: vec![EpollEvent::empty(); 64],
        })
    }

    pub fn watch(&self, socket: &impl AsFd, token: u64, what: EpollFlags) -> nix::Result<()> {
        self.epoll.add(socket, EpollEvent::new(what, token))
    }

    /// Waits for this instead from now on.
    pub fn change(&self, socket: &impl AsFd, token: u64, what: EpollFlags) -> nix::Result<()> {
        self.epoll.modify(socket, &mut EpollEvent::new(what, token))
    }

    pub fn forget(&self, socket: &impl AsFd) -> nix::Result<()> {
        self.epoll.delete(socket)
    }

    /// Waits, and returns the tokens that are ready.
    pub fn wait(&mut self) -> nix::Result<impl Iterator<Item = (u64, EpollFlags)> + use<'_>> {
        let count = self.epoll.wait(&mut self.ready, EpollTimeout::NONE)?;
        let ready = self.ready[..count].iter();
        Ok(ready.map(|event| (event.data(), event.events())))
    }
}
