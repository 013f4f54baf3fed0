//! Owns the workload `serve`: an echo server for clients in other processes, built as some real servers are.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use anyhow::{Context, Result};
use workloads::sys::stream::{self, Listener, Pipe};
use workloads::sys::{self, Epoll, ring};

use crate::options::{Family, Mode};
use crate::run::listen;

const LISTENER: u64 = u64::MAX;
const BUFFER: usize = 1 << 16;

/// Prints its address and serves until it is killed or standard input ends.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Mode of the listening socket
    #[arg(long, value_enum, default_value = "nonblocking")]
    listener: Mode,
    /// Mode of the accepted sockets
    #[arg(long, value_enum, default_value = "nonblocking")]
    accepted: Mode,
    /// Read with splice(2) through a pipe instead of recv
    #[arg(long)]
    splice: bool,
    /// Create an io_uring once it listens
    #[arg(long)]
    io_uring: bool,
    #[arg(long, value_enum, default_value = "v4")]
    family: Family,
    /// Run as this user
    #[arg(long)]
    user: Option<u32>,
    /// Accept data in the SYN
    #[arg(long)]
    fast_open: bool,
    /// Listen address, perhaps shared with others, instead of a free port
    #[arg(long)]
    address: Option<SocketAddr>,
}

pub fn main(options: Options) -> Result<()> {
    if let Some(user) = options.user {
        sys::become_user(user).context("failed to change the user")?;
    }
    let nonblocking = options.listener == Mode::Nonblocking;
    let (listener, target) = match options.address {
        Some(address) => (Listener::bind(address, nonblocking, true)?, address),
        None => listen(options.family, 0, nonblocking)?,
    };
    if options.fast_open {
        listener
            .take_fast_open()
            .context("failed to take data in the SYN")?;
    }
    let _ring = options.io_uring.then(ring::idle).transpose()?;
    let mut epoll = Epoll::new()?;
    epoll.add(&listener, sys::IN, LISTENER)?;
    let mut pipe = options.splice.then(Pipe::new).transpose()?;
    let mut streams = HashMap::new();
    let mut events = Vec::new();
    thread::spawn(|| {
        // Standard input only serves to end the server, so its content does not matter.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        println!("ok");
        std::process::exit(0);
    });
    println!("address={target}");
    for token in 0.. {
        events.clear();
        epoll.wait(-1, &mut events)?;
        for (ready, _) in events.drain(..) {
            if ready == LISTENER {
                let (stream, _) = listener.accept(options.accepted == Mode::Nonblocking)?;
                epoll.add(&stream, sys::IN, token)?;
                streams.insert(token, stream);
            } else if !echo(&streams[&ready], pipe.as_mut())? {
                streams.remove(&ready);
            }
        }
    }
    Ok(())
}

/// Splices once from the socket, and returns the data as `read` would.
fn splice(stream: &TcpStream, pipe: &mut Pipe, buffer: &mut [u8]) -> io::Result<usize> {
    let moved = pipe.fill(stream, buffer.len())?;
    pipe.read_exact(&mut buffer[..moved])?;
    Ok(moved)
}

/// Sends back what one read returns; false at the end of the connection.
fn echo(stream: &TcpStream, pipe: Option<&mut Pipe>) -> Result<bool> {
    let mut buffer = [0; BUFFER];
    let read = match pipe {
        Some(pipe) => splice(stream, pipe, &mut buffer),
        None => (&*stream).read(&mut buffer),
    };
    let mut rest = match read {
        Ok(0) => return Ok(false),
        Ok(count) => &buffer[..count],
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
        Err(error) => return Err(error).context("failed to read a request"),
    };
    while !rest.is_empty() {
        match (&*stream).write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stream::wait_for(stream, sys::OUT, -1)?;
            }
            Err(error) => return Err(error).context("failed to send an answer"),
        }
    }
    Ok(true)
}
