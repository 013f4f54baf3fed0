//! Owns the workload `older`: connections in a given state when a tool finds them, which continue on demand.

use std::io::stdin;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use workloads::sys::{ring, stream};

use crate::conversation::Change;
use crate::direct::{Pair, STUCK_MILLISECONDS, connect};
use crate::options::{Common, Mode};
use crate::task;

const SIZE: usize = 512;
/// More messages than a direction is observed for.
const ROUNDS: usize = 64;
/// Room for the unread messages.
const BUFFER: i32 = 1 << 20;
const SMALL_BUFFER: i32 = 32 << 10;
/// The datapath lists four holders: with this process a sixth one comes after the list has overflowed.
const HOLDERS: usize = 5;
const OUT_OF_BAND: u8 = b'!';
const STUCK: Duration = Duration::from_millis(STUCK_MILLISECONDS as u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum State {
    /// Both ends wait for events
    Idle,
    /// They were blocking until now
    Turned,
    /// They are still blocking
    Blocking,
    /// One end has unread data
    Unread,
    /// One end has read a part of its data
    Partly,
    /// A thread sleeps in recv, and the file was made non-blocking after that
    Sleeping,
    /// One end reads whatever FIONREAD reports, all the time
    Reading,
    /// An urgent byte is unread
    Urgent,
    /// One end has shut down its sending side
    HalfClosed,
    /// One end has shut down its receiving side
    Deaf,
    /// One end has an option that redirected data cannot honour
    ZeroCopy,
    LowWater,
    /// Its receive buffer is small enough to fill
    SmallBuffer,
    PeekOffset,
    /// One end sends small messages without an answer
    OneWay,
    /// Other processes hold one end too
    Shared,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[arg(long, value_enum, default_value = "idle")]
    state: State,
    /// Messages each way after each line of standard input
    #[arg(long, default_value_t = ROUNDS)]
    rounds: usize,
    /// Create an io_uring before the sockets
    #[arg(long)]
    io_uring: bool,
    #[command(flatten)]
    common: Common,
}

impl State {
    /// The bytes one end sends and the peer leaves unread, and how many of those are read.
    fn unread(self) -> Option<(usize, usize)> {
        match self {
            State::Unread => Some((60_000, 0)),
            State::Partly => Some((60_000, 12_345)),
            _ => None,
        }
    }

    /// Only the server can send.
    fn is_one_way(self) -> bool {
        matches!(self, State::HalfClosed | State::Deaf)
    }

    fn begins_blocking(self) -> bool {
        matches!(self, State::Turned | State::Blocking | State::Reading)
    }
}

fn turn(pair: &Pair) -> Result<()> {
    pair.client.stream().set_nonblocking(true)?;
    Ok(pair.server.stream().set_nonblocking(true)?)
}

fn prepare(pair: &mut Pair, state: State, buffer: &mut [u8]) -> Result<()> {
    if state == State::Turned {
        turn(pair)?;
    }
    if let Some((sent, read)) = state.unread() {
        stream::set_buffers(pair.server.stream(), Some(BUFFER), None)?;
        pair.client.send_all(sent, buffer)?;
        while stream::unread(pair.server.stream().as_raw_fd())? < sent {
            thread::yield_now();
        }
        pair.server
            .receive_until(pair.client.sent - (sent - read) as u64, buffer)?;
    }
    match state {
        State::ZeroCopy => Change::ZeroCopy.apply(pair.server.stream())?,
        State::PeekOffset => Change::PeekOffset.apply(pair.server.stream())?,
        State::LowWater => stream::set_low_water(pair.server.stream(), 2)?,
        State::SmallBuffer => stream::set_buffers(pair.server.stream(), Some(SMALL_BUFFER), None)?,
        State::Urgent => drop(stream::send(pair.client.stream(), &[OUT_OF_BAND], libc::MSG_OOB)?),
        State::Deaf => pair.server.stream().shutdown(Shutdown::Read)?,
        State::HalfClosed => pair.client.stream().shutdown(Shutdown::Write)?,
        _ => {}
    }
    Ok(())
}

fn go_on(pair: &mut Pair, state: State, rounds: usize, buffer: &mut [u8]) -> Result<()> {
    if let Some((sent, read)) = state.unread() {
        let unread = stream::unread(pair.server.stream().as_raw_fd())?;
        ensure!(unread == sent - read, "FIONREAD is {unread} of {}", sent - read);
        pair.server.receive_until(pair.client.sent, buffer)?;
    }
    if state == State::Urgent {
        let mut byte = [0];
        stream::receive(pair.server.stream(), &mut byte, libc::MSG_OOB)
            .context("failed to read the urgent byte")?;
        ensure!(byte == [OUT_OF_BAND], "the urgent byte is {byte:?}");
    }
    if state == State::OneWay {
        for _ in 0..rounds {
            pair.client.send_all(SIZE, buffer)?;
            pair.server.receive_until(pair.client.sent, buffer)?;
        }
        return Ok(());
    }
    if state.is_one_way() {
        pair.server.send_all(SIZE, buffer)?;
        return pair.client.receive_until(pair.server.sent, buffer);
    }
    pair.echo(rounds, SIZE, buffer)
}

/// Processes that hold one end until they are dropped, which ends their standard input.
fn share(pair: &Pair) -> Result<Vec<Child>> {
    stream::let_inherit(pair.server.stream())?;
    let start = |_| {
        Command::new("cat")
            .stdin(Stdio::piped())
            .spawn()
            .context("failed to start cat")
    };
    (0..HOLDERS).map(start).collect()
}

/// A thread sleeps in recv until the line has come, whatever becomes of the file.
fn sleep(pair: &mut Pair, rounds: usize, buffer: &mut [u8]) -> Result<()> {
    let stream = pair.server.stream().try_clone()?;
    stream.set_nonblocking(false)?;
    let (sender, receiver) = channel();
    let (done, woken) = channel();
    let sleeper = thread::spawn(move || {
        // Errors are dropped: a receiver that waits for these has a deadline of its own.
        drop(sender.send(task::current()));
        drop(done.send(stream::receive(&stream, &mut [0; SIZE], libc::MSG_PEEK)));
    });
    let task = receiver.recv().context("the thread has ended")??;
    task::wait_for(&task, task::ASLEEP)?;
    pair.server.stream().set_nonblocking(true)?;
    wait_for_line()?;
    pair.client.send_all(SIZE, buffer)?;
    let count = woken
        .recv_timeout(STUCK)
        .map_err(|_| anyhow!("a thread is stuck in recv"))?;
    ensure!(count? == SIZE, "a thread woke up to less than was sent");
    sleeper
        .join()
        .map_err(|_| anyhow!("the thread in recv panicked"))?;
    pair.server.receive_until(pair.client.sent, buffer)?;
    pair.echo(rounds, SIZE, buffer)
}

/// Until the line arrives, the server calls FIONREAD and reads byte by byte without a pause.
fn read_on(pair: &mut Pair, buffer: &mut [u8]) -> Result<()> {
    turn(pair)?;
    let line = thread::spawn(wait_for_line);
    let mut told = 0;
    while !line.is_finished() {
        let unread = stream::unread(pair.server.stream().as_raw_fd())?;
        ensure!(unread >= told, "FIONREAD is {unread} where it was {told}");
        told = unread;
        if unread > 0 {
            let has_read = pair.server.receive(&mut buffer[..1])?;
            ensure!(has_read, "recv says EAGAIN where FIONREAD said {unread}");
            told -= 1;
        } else if pair.server.received == pair.client.sent {
            pair.client.send_all(BUFFER as usize / 8, buffer)?;
        }
    }
    pair.server.receive_until(pair.client.sent, buffer)
}

/// False at the end of standard input.
pub fn wait_for_line() -> Result<bool> {
    println!("waiting");
    let count = stdin()
        .read_line(&mut String::new())
        .context("failed to read a line")?;
    Ok(count > 0)
}

/// Each line lets the connections continue; the first finds them in their state.
pub fn main(mut options: Options) -> Result<()> {
    let _ring = options.io_uring.then(ring::idle).transpose()?;
    if options.state.begins_blocking() {
        options.common.mode = Mode::Blocking;
    }
    let seed = options.common.settle_seed();
    let mut buffer = vec![0; BUFFER as usize];
    let mut pairs = connect(&options.common, seed, options.common.connections.unwrap_or(1))?;
    let mut state = options.state;
    let mut holders = Vec::new();
    for pair in &mut pairs {
        pair.echo(1, SIZE, &mut buffer)?;
        match state {
            State::Sleeping => sleep(pair, options.rounds, &mut buffer)?,
            State::Reading => read_on(pair, &mut buffer)?,
            State::Shared => holders.extend(share(pair)?),
            _ => prepare(pair, state, &mut buffer)?,
        }
    }
    while wait_for_line()? {
        for pair in &mut pairs {
            go_on(pair, state, options.rounds, &mut buffer)?;
        }
        if !state.is_one_way() {
            state = State::Idle;
        }
    }
    Ok(())
}
