//! Owns the workload `refuse`: readers that read a part, answer, shut down their sending side and end later in one of several
//! ways, each group in a process of its own, and when and how their senders learn of it.

use std::io::{self, BufRead as _, BufReader, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use workloads::pattern::{Random, Stream};
use workloads::sys::{self, Listener};

use crate::options::{Common, Mode};
use crate::run::listen;

/// Connections per reader process.
const GROUP: u64 = 10;
/// Maximum milliseconds between a reader's shutdown and its end.
const LONGEST: u64 = 5000;
const LARGEST: u64 = 1 << 20;
const MOST_READ: u64 = 256 << 10;
const ANSWER: usize = 100;
/// Bytes of the first message, which identifies the connection.
const NAME: usize = 8;
const ECHO: usize = 64;
const MOST_ECHOES: u64 = 32;
/// Senders of messages below this size pause after each run of them: they should last, not saturate the processors.
const SMALL: u64 = 4096;
const RUN: u64 = 16;
const PAUSE: Duration = Duration::from_millis(5);
/// The size of all buffers of senders and readers, except some that are as large as TCP makes them.
const BUFFER: i32 = 64 << 10;
const LARGE_OF: u64 = 16;
/// On any TCP every sender gets its error within this time, in milliseconds.
const STUCK: i32 = 150_000;

/// How a reader ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Ending {
    /// By close
    Close,
    /// Its process is killed
    Killed,
    /// It closes, and another process that holds the socket closes it later
    Held,
    /// By close, after reading some more
    Partly,
    /// It reads to the end, so the sender ends first
    ReadsOn,
    /// By close, once it has read all that the sender has for it, while the sender has not ended
    ReadsAll,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How the readers end; all but the last two by default
    #[arg(long, value_enum)]
    ending: Vec<Ending>,
    /// Number of connections
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Be the readers of this group
    #[arg(long)]
    group: Option<u64>,
    /// Address of a single group of readers, started apart from its senders
    #[arg(long)]
    at: Option<SocketAddr>,
    #[command(flatten)]
    common: Common,
}

/// What one connection does, the same on both sides and in every run of a seed.
struct Plan {
    echoes: u64,
    /// Bytes per message
    size: u64,
    /// Bytes the reader reads before it answers; `more` is for before it ends
    first: u64,
    more: u64,
    is_large: bool,
    /// The sender stops after this many bytes and waits for its error
    most: Option<u64>,
    /// Bytes in all, for a reader that reads to the end
    total: u64,
}

impl Plan {
    fn of(seed: u64, id: u64) -> Self {
        let mut random = Random::of(seed, id, 0);
        let size = random.spread(1, LARGEST);
        let reach = (size * RUN).min(MOST_READ);
        Self {
            echoes: random.range(0, 1) * random.range(0, MOST_ECHOES),
            size,
            first: random.range(1, reach),
            more: random.range(1, reach),
            is_large: random.chance(LARGE_OF),
            most: random.chance(4).then(|| 4 * reach),
            total: (size * random.range(1, 2 * RUN)).max(2 * reach),
        }
    }
}

impl Options {
    fn endings(&self) -> &[Ending] {
        const TOLD: [Ending; 4] = [Ending::Close, Ending::Killed, Ending::Held, Ending::Partly];
        if self.ending.is_empty() {
            &TOLD
        } else {
            &self.ending
        }
    }

    fn ending(&self, group: u64) -> Ending {
        let endings = self.endings();
        endings[group as usize % endings.len()]
    }

    fn delay(&self, seed: u64, group: u64) -> Duration {
        // The first few end at once.
        let longest = if group < 8 { 0 } else { LONGEST };
        Duration::from_millis(Random::of(seed, group, 1).range(0, longest))
    }
}

pub fn main(mut options: Options) -> Result<()> {
    let seed = match options.group {
        Some(_) => options.common.seed.context("a group of readers has no seed")?,
        None => options.common.settle_seed(),
    };
    match options.group {
        Some(group) => read_group(&options, seed, group),
        None => send_all(&options, seed),
    }
}

/// A clock that all processes share.
fn clock() -> Result<Duration> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("failed to read the clock")?;
    Ok(Duration::from(now))
}

/// The readers of a group, in their process.
struct Group {
    ending: Ending,
    process: Child,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Group {
    /// The time of their end, which they reported just before.
    fn end(&mut self) -> Result<Duration> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let end = line.trim().parse().context("a group does not say when it ends")?;
        // Drains the rest of its output.
        io::copy(&mut self.output, &mut io::sink())?;
        let status = self.process.wait()?;
        ensure!(
            status.success() || self.ending == Ending::Killed,
            "readers have failed: {status}"
        );
        Ok(Duration::from_nanos(end))
    }
}

fn start(options: &Options, seed: u64, group: u64) -> Result<Group> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([
        "refuse",
        "--group",
        &group.to_string(),
        "--seed",
        &seed.to_string(),
    ]);
    for ending in options.endings() {
        command.arg("--ending").arg(name(ending));
    }
    command.args(["--family", &name(&options.common.family)]);
    command.args(["--mode", &name(&options.common.mode)]);
    let mut process = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
    let mut output = BufReader::new(process.stdout.take().context("it has an output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    Ok(Group {
        ending: options.ending(group),
        process,
        output,
        address: line
            .trim()
            .parse()
            .context("a group does not say where it listens")?,
    })
}

fn name(value: &impl clap::ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Prints a line for each sender that got its error: the error, and the milliseconds since the end of its reader, or else
/// since the beginning.
fn send_all(options: &Options, seed: u64) -> Result<()> {
    let begin = clock()?;
    let mut groups = match options.at {
        Some(_) => Vec::new(),
        None => (0..options.count.div_ceil(GROUP))
            .map(|group| start(options, seed, group))
            .collect::<Result<Vec<_>>>()?,
    };
    let senders: Vec<_> = (0..options.count)
        .map(|id| {
            let group = id / GROUP;
            let there = options
                .at
                .or_else(|| groups.get(group as usize).map(|group| group.address));
            let (ending, mode) = (options.ending(group), options.common.mode);
            let address = there.ok_or_else(|| io::Error::other("a group is missing"))?;
            let sender = move || send(seed, id, ending, address, mode);
            thread::Builder::new().stack_size(128 << 10).spawn(sender)
        })
        .collect::<io::Result<_>>()?;
    let ends = groups.iter_mut().map(Group::end).collect::<Result<Vec<_>>>()?;
    let mut failed = 0;
    for (id, sender) in senders.into_iter().enumerate() {
        let group = id / GROUP as usize;
        match sender.join().map_err(|_| anyhow!("a sender panicked"))? {
            Ok(Some((error, at))) => {
                let end = ends.get(group).copied().unwrap_or(begin);
                let later = at.saturating_sub(end).as_millis();
                println!("told={id} {} {later}", error.raw_os_error().unwrap_or(0));
            }
            Ok(None) => {}
            Err(error) => {
                failed += 1;
                let ending = options.ending(group as u64);
                eprintln!("fault: connection {id} {ending:?}: {error:#}");
            }
        }
    }
    ensure!(failed == 0, "{failed} senders have failed");
    Ok(())
}

/// One non-blocking read, whatever the file's mode.
fn read_now(stream: &TcpStream, into: &mut [u8]) -> io::Result<Option<usize>> {
    match sys::receive(stream, into, libc::MSG_DONTWAIT) {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a sender has received of the answer.
#[derive(Default)]
struct Answer {
    bytes: usize,
    is_over: bool,
}

impl Answer {
    fn read(&mut self, stream: &TcpStream) -> io::Result<()> {
        if self.is_over {
            return Ok(());
        }
        match read_now(stream, &mut [0; 1 << 12])? {
            Some(0) => self.is_over = true,
            count => self.bytes += count.unwrap_or(0),
        }
        Ok(())
    }

    fn read_to_end(&mut self, stream: &TcpStream) -> Result<()> {
        while !self.is_over {
            ensure!(sys::wait_for(stream, sys::IN, STUCK)?, "no answer");
            self.read(stream).context("failed to receive the answer")?;
        }
        ensure!(self.bytes == ANSWER, "{} bytes of the answer", self.bytes);
        Ok(())
    }
}

/// Sends until an error shows that nobody reads, or, to a reader that reads to the end, everything: the error, and when.
fn send(
    seed: u64,
    id: u64,
    ending: Ending,
    address: SocketAddr,
    mode: Mode,
) -> Result<Option<(io::Error, Duration)>> {
    let plan = Plan::of(seed, id);
    let nonblocking = mode == Mode::Nonblocking;
    let stream = sys::connect(None, address, nonblocking).context("failed to connect")?;
    ensure!(sys::wait_for(&stream, sys::OUT, STUCK)?, "a connect does not end");
    if !plan.is_large {
        sys::set_buffers(&stream, None, Some(BUFFER))?;
    }
    stream.set_nodelay(true)?;
    sys::send(&stream, &id.to_be_bytes(), 0).context("failed to send the name")?;
    let mut echo = [1; ECHO];
    for _ in 0..plan.echoes {
        sys::send(&stream, &echo, 0).context("failed to send what is echoed")?;
        receive_exactly(&stream, &mut echo).context("no echo")?;
    }

    let mut answer = Answer::default();
    let told = match (
        send_on(seed, id, ending, &plan, &stream, nonblocking, &mut answer)?,
        ending,
    ) {
        (Some(error), _) => error,
        (None, Ending::ReadsOn | Ending::ReadsAll) => {
            if ending == Ending::ReadsOn {
                stream.shutdown(Shutdown::Write).context("failed to shut down")?;
            }
            answer.read_to_end(&stream)?;
            // By then the reader has closed.
            thread::sleep(Duration::from_millis(LONGEST + LONGEST / 10));
            ensure!(
                stream.take_error()?.is_none(),
                "an error after a reader that has read all"
            );
            return Ok(None);
        }
        (None, _) => {
            answer.read_to_end(&stream)?;
            ensure!(sys::wait_for(&stream, 0, STUCK)?, "one that waits was not told");
            match sys::send(&stream, b"?", 0) {
                Err(error) => error,
                Ok(_) => bail!("a send goes on after an error"),
            }
        }
    };
    let now = clock()?;
    // Data that arrived before the reset can still be read.
    while answer.bytes < ANSWER && !answer.is_over && answer.read(&stream).is_ok() {}
    ensure!(
        answer.bytes == ANSWER,
        "{} bytes of the answer, then {told}",
        answer.bytes
    );
    Ok(Some((told, now)))
}

/// Returns the error that ends it, or `None` if everything was sent.
fn send_on(
    seed: u64,
    id: u64,
    ending: Ending,
    plan: &Plan,
    stream: &TcpStream,
    nonblocking: bool,
    answer: &mut Answer,
) -> Result<Option<io::Error>> {
    let outgoing = Stream::new(seed, id, 0);
    let mut message = vec![0; plan.size as usize];
    let most = match ending {
        Ending::ReadsOn | Ending::ReadsAll => Some(plan.total),
        _ => plan.most,
    };
    let (mut sent, mut calls) = (0, 0);
    while most.is_none_or(|most| sent < most) {
        let left = most.map_or(plan.size, |most| plan.size.min(most - sent));
        if nonblocking {
            let reads = if !answer.is_over { sys::IN } else { 0 };
            ensure!(
                sys::wait_for(stream, sys::OUT | reads, STUCK)?,
                "not told after {} s, {sent} bytes sent",
                STUCK / 1000
            );
        }
        answer.read(stream).context("failed to receive the answer")?;
        let message = &mut message[..left as usize];
        outgoing.fill(sent, message);
        match sys::send(stream, message, 0) {
            Ok(count) => sent += count as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Ok(Some(error)),
        }
        calls += 1;
        if plan.size < SMALL && calls % RUN == 0 {
            thread::sleep(PAUSE);
        }
    }
    Ok(None)
}

fn read_group(options: &Options, seed: u64, group: u64) -> Result<()> {
    let nonblocking = options.common.nonblocking();
    let (listener, target) = match options.at {
        Some(address) => (Listener::bind(address, nonblocking, false)?, address),
        None => listen(options.common.family, 0, nonblocking)?,
    };
    println!("{target}");
    let count = GROUP as usize;
    let ending = options.ending(group);
    let delay = options.delay(seed, group);
    // All have half-closed before the first one ends, and all stay until the process is killed.
    let half_closed = Arc::new(Barrier::new(count + 1));
    let readers: Vec<_> = (0..count)
        .map(|_| {
            let stream = accept(&listener, nonblocking)?;
            let half_closed = Arc::clone(&half_closed);
            Ok(thread::spawn(move || {
                read(seed, ending, &stream, &half_closed, delay)
            }))
        })
        .collect::<io::Result<_>>()?;
    half_closed.wait();
    let tell = || clock().map(|now| println!("{}", now.as_nanos()));
    match ending {
        Ending::Killed => {
            thread::sleep(delay);
            tell()?;
            kill(Pid::this(), Signal::SIGKILL)?;
        }
        Ending::Held => {
            let mut sleep = Command::new("sleep");
            let mut sleep = sleep.arg(format!("{:.3}", delay.as_secs_f64())).spawn()?;
            half_closed.wait();
            sleep.wait()?;
            tell()?;
        }
        _ => {
            thread::sleep(delay);
            tell()?;
        }
    }
    for reader in readers {
        reader.join().map_err(|_| anyhow!("a reader panicked"))??;
    }
    Ok(())
}

fn accept(listener: &Listener, nonblocking: bool) -> io::Result<TcpStream> {
    loop {
        match listener.accept(nonblocking) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
            accepted => return accepted.map(|(stream, _)| stream),
        }
    }
}

fn receive_exactly(stream: &TcpStream, into: &mut [u8]) -> Result<()> {
    let mut got = 0;
    while got < into.len() {
        ensure!(sys::wait_for(stream, sys::IN, STUCK)?, "nothing to read");
        got += match sys::receive(stream, &mut into[got..], 0)? {
            0 => bail!("the sender has ended"),
            count => count,
        };
    }
    Ok(())
}

fn read(seed: u64, ending: Ending, stream: &TcpStream, half_closed: &Barrier, delay: Duration) -> Result<()> {
    let mut name = [0; NAME];
    receive_exactly(stream, &mut name)?;
    let id = u64::from_be_bytes(name);
    let plan = Plan::of(seed, id);
    if !plan.is_large {
        sys::set_buffers(stream, Some(BUFFER), None)?;
    }
    stream.set_nodelay(true)?;
    let mut echo = [0; ECHO];
    for _ in 0..plan.echoes {
        receive_exactly(stream, &mut echo)?;
        sys::send(stream, &echo, 0)?;
    }
    let incoming = Stream::new(seed, id, 0);
    let mut buffer = vec![0; plan.first.max(plan.more).max(64 << 10) as usize];
    receive_exactly(stream, &mut buffer[..plan.first as usize])?;
    let check = |at: u64, bytes: &[u8]| {
        let checked = incoming.check(at, bytes);
        checked.map_err(|wrong| anyhow!("connection {id}: wrong bytes: {wrong:?}"))
    };
    check(0, &buffer[..plan.first as usize])?;
    sys::send(stream, &[2; ANSWER], 0)?;
    stream.shutdown(Shutdown::Write)?;
    if ending == Ending::Held {
        sys::let_inherit(stream)?;
    }
    half_closed.wait();
    match ending {
        Ending::Close => thread::sleep(delay),
        Ending::Partly => {
            thread::sleep(delay);
            if let Some(count) = read_now(stream, &mut buffer[..plan.more as usize])? {
                check(plan.first, &buffer[..count])?;
            }
        }
        Ending::Held => drop(half_closed.wait()),
        Ending::Killed => loop {
            thread::park();
        },
        Ending::ReadsOn | Ending::ReadsAll => {
            thread::sleep(delay);
            let mut got = plan.first;
            while ending == Ending::ReadsOn || got < plan.total {
                ensure!(sys::wait_for(stream, sys::IN, STUCK)?, "no end of the upload");
                match sys::receive(stream, &mut buffer, 0)? {
                    0 => break,
                    count => {
                        check(got, &buffer[..count])?;
                        got += count as u64;
                    }
                }
            }
            ensure!(
                got == plan.total,
                "connection {id}: {got} of {} bytes",
                plan.total
            );
        }
    }
    Ok(())
}
