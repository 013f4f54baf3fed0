//! Programs whose first call on a new connection could expose acceleration: a blocking recv on a socket that connected
//! without blocking, or was accepted by a non-blocking listener, and FIONREAD.
//!
//! Results are lines `name=value` on standard output, `ok` the last one.

mod end;
mod signals;

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use workloads::pattern::Random;
use workloads::sys;
use workloads::sys::stream::{self, Listener};

use crate::end::{End, Manner, RESETS, count, print_counts};

/// Connections take a few milliseconds, so one that takes longer hangs.
const HANGS: Duration = Duration::from_secs(60);
const CONNECT_MILLISECONDS: i32 = 60_000;

#[derive(Parser)]
#[command(
    name = "mixture",
    about = "First calls on new connections, and what they answer"
)]
enum Cli {
    /// Serves until standard input ends
    Server(Server),
    Client(Client),
}

#[derive(Clone, clap::Args)]
struct Server {
    #[arg(value_enum)]
    manner: Manner,
    /// Port 0 selects a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Speak first, or reset or end the connection instead
    #[arg(long)]
    greets: bool,
    #[arg(long)]
    seed: u64,
}

#[derive(Clone, clap::Args)]
struct Client {
    #[arg(value_enum)]
    manner: Manner,
    #[arg(long)]
    target: SocketAddr,
    /// The server speaks first
    #[arg(long)]
    greeted: bool,
    #[arg(long, default_value_t = u64::MAX)]
    connections: u64,
    /// Start no connection later than this
    #[arg(long, default_value_t = 3600.0)]
    seconds: f64,
    /// Be interrupted by signals
    #[arg(long)]
    signals: bool,
    #[arg(long)]
    seed: u64,
}

fn main() -> Result<()> {
    sys::raise_file_limit()?;
    match Cli::parse() {
        Cli::Server(options) => serve(&options),
        Cli::Client(options) => call(&options),
    }
}

fn pause(random: &mut Random) {
    if random.chance(2) {
        thread::sleep(Duration::from_micros(random.spread(50, 5000)));
    }
}

fn serve(options: &Server) -> Result<()> {
    let listener = Listener::bind(options.listen, true, false).context("failed to listen")?;
    println!("address={}", listener.address());
    thread::spawn(|| {
        // Standard input only serves to end the server, so its content does not matter.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        print_counts();
        std::process::exit(0);
    });
    let mut epoll = sys::Epoll::new()?;
    epoll.add(&listener, sys::IN, 0)?;
    let mut events = Vec::new();
    let mut random = Random::of(options.seed, u64::MAX, 0);
    for number in 0.. {
        events.clear();
        while events.is_empty() {
            epoll.wait(-1, &mut events)?;
        }
        if random.chance(4) {
            // The first message may be there when the connection is accepted.
            pause(&mut random);
        }
        let nonblocking = options.manner != Manner::Blocks;
        let (stream, _) = match listener.accept(nonblocking) {
            // Its client has reset it in the meantime.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            other => other.context("failed to accept")?,
        };
        let options = options.clone();
        thread::spawn(move || {
            let random = Random::of(options.seed, number, 1);
            let end = End::new(stream, options.manner, false);
            if end.and_then(|end| answer(&options, end, random)).is_err() {
                count(&RESETS);
            }
        });
    }
    Ok(())
}

fn answer(options: &Server, mut end: End, mut random: Random) -> io::Result<()> {
    if options.greets {
        pause(&mut random);
        match random.range(0, 5) {
            0 => return stream::reset_on_close(&end.stream),
            1 => return Ok(()),
            _ => end.send()?,
        }
    }
    while end.receive()? {
        pause(&mut random);
        end.send()?;
    }
    Ok(())
}

/// When the open connection began, in milliseconds.
static BEGAN: AtomicU64 = AtomicU64::new(0);

fn call(options: &Client) -> Result<()> {
    let start = Instant::now();
    let now = move || start.elapsed().as_millis() as u64;
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(1));
            if now() > BEGAN.load(Ordering::Relaxed) + HANGS.as_millis() as u64 {
                eprintln!("fault: a connection hangs");
                std::process::exit(1);
            }
        }
    });
    if options.signals {
        let restart = options.seed % 2 == 0;
        signals::interrupt_this_thread(restart, Random::of(options.seed, 0, 2))?;
    }
    for number in 0..options.connections {
        if start.elapsed().as_secs_f64() > options.seconds {
            break;
        }
        BEGAN.store(now(), Ordering::Relaxed);
        let mut random = Random::of(options.seed, number, 0);
        let end = connect(options, &mut random)?;
        if talk(options, end, &mut random).is_err() {
            count(&RESETS);
        }
    }
    print_counts();
    Ok(())
}

/// Connects without blocking, whatever mode the socket has afterwards.
fn connect(options: &Client, random: &mut Random) -> Result<End> {
    let stream = stream::connect(None, options.target, true).context("failed to connect")?;
    let deadline = Instant::now() + Duration::from_millis(CONNECT_MILLISECONDS as u64);
    // A signal ends the wait too.
    while !stream::wait_for(&stream, sys::OUT, CONNECT_MILLISECONDS)? {
        ensure!(Instant::now() < deadline, "a connect does not end");
    }
    if random.chance(4) {
        pause(random);
    }
    if options.manner == Manner::Blocks {
        stream.set_nonblocking(false)?;
    }
    Ok(End::new(stream, options.manner, true)?)
}

fn talk(options: &Client, mut end: End, random: &mut Random) -> io::Result<()> {
    if options.greeted && !end.receive()? {
        return Ok(());
    }
    if !options.greeted {
        // The server waits for the first message in the meantime.
        pause(random);
        match random.range(0, 7) {
            0 => return stream::reset_on_close(&end.stream),
            1 => return Ok(()),
            _ => {}
        }
    }
    for _ in 0..random.range(0, 4) {
        end.send()?;
        if !end.receive()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if random.chance(2) {
        end.stream.shutdown(Shutdown::Write)?;
        end.receive()?;
    }
    Ok(())
}
