//! Owns the workload `get`: clients of a memcached on one event loop, each with one request at a time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use workloads::sys::{self, Epoll, stream};

use crate::direct::STUCK_MILLISECONDS;

const REQUEST: &[u8] = b"get value\r\n";

/// Prints the number of answered requests, the microseconds they took, and percentiles of the latency.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// An address and port, or the path of a Unix socket
    server: String,
    #[arg(long, default_value_t = 50)]
    connections: u64,
    /// Bytes of the value
    #[arg(long, default_value_t = 100)]
    size: usize,
    #[arg(long, default_value_t = 1000)]
    milliseconds: u64,
}

/// A non-blocking stream of either kind.
struct Connection {
    file: std::fs::File,
    asked: Instant,
    received: usize,
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

impl Connection {
    fn open(server: &str) -> Result<Self> {
        let socket = if server.starts_with('/') {
            let stream = UnixStream::connect(server)?;
            stream.set_nonblocking(true)?;
            OwnedFd::from(stream)
        } else {
            let stream: TcpStream = stream::connect(None, server.parse()?, true)?;
            ensure!(
                stream::wait_for(&stream, sys::OUT, STUCK_MILLISECONDS)?,
                "the connect does not end"
            );
            stream.take_error()?.map_or(Ok(()), Err)?;
            stream.set_nodelay(true)?;
            OwnedFd::from(stream)
        };
        Ok(Self {
            file: socket.into(),
            asked: Instant::now(),
            received: 0,
        })
    }

    fn ask(&mut self) -> Result<()> {
        self.asked = Instant::now();
        self.received = 0;
        // The previous request was answered, so there is room.
        self.file.write_all(REQUEST).context("failed to send a request")
    }

    /// Reads what there is; returns the latency once the answer is complete.
    fn read(&mut self, answer: &[u8], buffer: &mut [u8]) -> Result<Option<Duration>> {
        let count = match self.file.read(buffer) {
            Ok(0) => bail!("the server has closed a connection"),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).context("failed to read an answer"),
        };
        let expected = answer.get(self.received..self.received + count);
        ensure!(
            expected == Some(&buffer[..count]),
            "the answer is not what was stored"
        );
        self.received += count;
        Ok((self.received == answer.len()).then(|| self.asked.elapsed()))
    }
}

/// Stores the value; returns the expected answer to a request for it.
fn store(options: &Options) -> Result<Vec<u8>> {
    let value = vec![b'x'; options.size];
    let header = format!("set value 0 0 {}\r\n", value.len());
    let mut connection = Connection::open(&options.server).context("failed to connect")?;
    let mut epoll = Epoll::new()?;
    epoll.add(&connection, sys::IN, 0)?;
    connection
        .file
        .write_all(&[header.as_bytes(), &value, b"\r\n"].concat())?;
    epoll.wait(STUCK_MILLISECONDS, &mut Vec::new())?;
    let mut stored = [0; 64];
    let count = connection
        .file
        .read(&mut stored)
        .context("failed to store a value")?;
    ensure!(stored[..count] == *b"STORED\r\n", "the value was not stored");
    let header = format!("VALUE value 0 {}\r\n", value.len());
    Ok([header.as_bytes(), &value, b"\r\nEND\r\n"].concat())
}

pub fn main(options: Options) -> Result<()> {
    let answer = store(&options)?;
    let mut epoll = Epoll::new()?;
    let mut connections = Vec::new();
    for token in 0..options.connections {
        let mut connection = Connection::open(&options.server).context("failed to connect")?;
        epoll.add(&connection, sys::IN, token)?;
        connection.ask()?;
        connections.push(connection);
    }
    let start = Instant::now();
    let end = start + Duration::from_millis(options.milliseconds);
    let (mut times, mut events) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 64 << 10];
    while Instant::now() < end {
        events.clear();
        epoll.wait(STUCK_MILLISECONDS, &mut events)?;
        ensure!(!events.is_empty(), "the server does not answer");
        for (token, _) in events.drain(..) {
            let connection = &mut connections[token as usize];
            if let Some(time) = connection.read(&answer, &mut buffer)? {
                times.push(time);
                connection.ask()?;
            }
        }
    }
    let microseconds = start.elapsed().as_micros();
    ensure!(!times.is_empty(), "nothing was answered");
    times.sort_unstable();
    let percentile = |percent: usize| times[(times.len() - 1) * percent / 100].as_nanos();
    println!("requests={}\nmicroseconds={microseconds}", times.len());
    println!(
        "p50_nanoseconds={}\np99_nanoseconds={}",
        percentile(50),
        percentile(99)
    );
    Ok(())
}
