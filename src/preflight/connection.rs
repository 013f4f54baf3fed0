//! The connections of the self-test: both ends in a cgroup of their own, with a payload that is known by its position.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::datapath::{cgroup, sys};

/// Longer than any delivery takes on a busy machine; only a kernel that fails a check makes us wait this long.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// The interval of polling.
const STEP: Duration = Duration::from_micros(100);
/// Every byte is its position in the stream modulo this, which divides no buffer size.
const PERIOD: usize = 251;

/// A cgroup for test connections. Sockets created in it keep the programs attached to it.
pub struct TestCgroup {
    folder: File,
    /// The folder that was created, which is removed on drop.
    made: Option<PathBuf>,
}

impl TestCgroup {
    /// Creates one without processes.
    pub fn below(parent: &Path) -> io::Result<Self> {
        let path = parent.join(format!("sockredir-self-test-{}", process::id()));
        match fs::create_dir(&path) {
            // Left by a killed process with the same PID.
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        File::open(&path)
            .inspect_err(|_| drop(fs::remove_dir(&path)))
            .map(|folder| Self {
                folder,
                made: Some(path.clone()),
            })
    }

    /// The cgroup of this process if it is alone there, as in a service or a container: a test must not touch connections of
    /// other programs.
    pub fn own() -> Option<Self> {
        let folder = File::open(cgroup::own_alone()?).ok()?;
        Some(Self { folder, made: None })
    }

    pub fn folder(&self) -> &File {
        &self.folder
    }

    /// Non-blocking TCP sockets in this cgroup.
    pub fn sockets(&self, count: usize) -> io::Result<Vec<OwnedFd>> {
        match self.made {
            Some(_) => sys::sockets_of(&self.folder, count),
            None => sys::sockets(count),
        }
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        // A process that has just exited may still be listed. A cgroup that cannot be removed is empty and harmless.
        if let Some(path) = &self.made {
            let _ = until(|| Ok(fs::remove_dir(path).is_ok()));
        }
    }
}

/// Retries until it is done or `PATIENCE` has passed.
pub fn until(mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(STEP);
    }
    Ok(true)
}

/// One end: its socket and byte counts.
pub struct TestSocket {
    pub stream: TcpStream,
    pub sent: usize,
    pub received: usize,
}

/// The result of one call of `recv`.
pub enum Received {
    Bytes(usize),
    Nothing,
    End,
}

impl TestSocket {
    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nonblocking(true)?;
        // Small messages must not wait for earlier ones to be acknowledged.
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            sent: 0,
            received: 0,
        })
    }

    /// Sends one message; returns how many bytes the kernel took.
    pub fn send(&mut self, size: usize) -> Result<usize> {
        let message: Vec<u8> = (self.sent..self.sent + size).map(byte_at).collect();
        match self.stream.write(&message) {
            Ok(taken) => {
                self.sent += taken;
                Ok(taken)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error).context("a send failed"),
        }
    }

    /// One call of `recv`. Fails if a byte is not the expected one.
    pub fn receive(&mut self) -> Result<Received> {
        let mut buffer = vec![0; 1 << 16];
        let got = match self.stream.read(&mut buffer) {
            Ok(0) => return Ok(Received::End),
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Received::Nothing),
            Err(error) => return Err(error).context("a receive failed"),
        };
        let wrong = (0..got).find(|place| buffer[*place] != byte_at(self.received + place));
        if let Some(place) = wrong {
            bail!(
                "byte {} is not the one that was sent there",
                self.received + place
            );
        }
        self.received += got;
        Ok(Received::Bytes(got))
    }

    /// Receives up to exactly this many bytes in all.
    pub fn receive_until(&mut self, total: usize) -> Result<()> {
        until(|| {
            while self.received < total {
                match self.receive()? {
                    Received::Bytes(_) => {}
                    Received::Nothing => return Ok(false),
                    Received::End => bail!("the connection ended early"),
                }
            }
            Ok(true)
        })?;
        ensure!(
            self.received == total,
            "{} of {total} bytes arrived",
            self.received
        );
        Ok(())
    }
}

fn byte_at(place: usize) -> u8 {
    (place % PERIOD) as u8
}

pub struct Connection {
    pub client: TestSocket,
    pub server: TestSocket,
}

impl Connection {
    pub fn establish(listener: &TcpListener, socket: OwnedFd) -> Result<Self> {
        let SocketAddr::V4(address) = listener.local_addr()? else {
            bail!("the listener is not one of IPv4");
        };
        let client = sys::connect(socket, address)?;
        let mut server = None;
        until(|| match listener.accept() {
            // Anyone on this host may connect.
            Ok((accepted, peer)) => {
                server = (peer == client.local_addr()?).then_some(accepted);
                Ok(server.is_some())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        })?;
        Ok(Self {
            client: TestSocket::new(client)?,
            server: TestSocket::new(server.context("nothing arrived at the listener")?)?,
        })
    }

    /// Round trips of messages of one size.
    pub fn converse(&mut self, rounds: usize, size: usize) -> Result<()> {
        for _ in 0..rounds {
            self.client.send(size)?;
            self.server.receive_until(self.client.sent)?;
            self.server.send(size)?;
            self.client.receive_until(self.server.sent)?;
        }
        Ok(())
    }
}
