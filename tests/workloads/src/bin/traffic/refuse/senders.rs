//! Owns the senders: they start the readers, and send until they learn that nobody reads.

use std::io::{self, BufRead as _, BufReader, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use workloads::pattern::Stream;
use workloads::sys;
use workloads::sys::stream;

use super::{
    ANSWER, BUFFER, ECHO, Ending, GROUP, LONGEST, Options, Plan, RUN, STUCK, clock, read_now, receive_exactly,
};
use crate::options::Mode;

/// Senders of messages below this size pause after each run of them: they should last, not saturate the processors.
const SMALL: u64 = 4096;
const PAUSE: Duration = Duration::from_millis(5);

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
pub fn send_all(options: &Options, seed: u64) -> Result<()> {
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
            ensure!(stream::wait_for(stream, sys::IN, STUCK)?, "no answer");
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
    let stream = stream::connect(None, address, nonblocking).context("failed to connect")?;
    ensure!(
        stream::wait_for(&stream, sys::OUT, STUCK)?,
        "a connect does not end"
    );
    if !plan.is_large {
        stream::set_buffers(&stream, None, Some(BUFFER))?;
    }
    stream.set_nodelay(true)?;
    stream::send(&stream, &id.to_be_bytes(), 0).context("failed to send the name")?;
    let mut echo = [1; ECHO];
    for _ in 0..plan.echoes {
        stream::send(&stream, &echo, 0).context("failed to send what is echoed")?;
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
            ensure!(
                stream::wait_for(&stream, 0, STUCK)?,
                "one that waits was not told"
            );
            match stream::send(&stream, b"?", 0) {
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
                stream::wait_for(stream, sys::OUT | reads, STUCK)?,
                "not told after {} s, {sent} bytes sent",
                STUCK / 1000
            );
        }
        answer.read(stream).context("failed to receive the answer")?;
        let message = &mut message[..left as usize];
        outgoing.fill(sent, message);
        match stream::send(stream, message, 0) {
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
