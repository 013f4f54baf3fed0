//! Owns the client: connections in sequence and in parallel, and the time of each answer.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use workloads::pattern::Random;
use workloads::sys::{self, stream};

use crate::message::{ANSWER, Framing, GREETING, Message, REQUEST};
use crate::wire::{Wire, is_early_end};

/// Missing answers from this many connections make it give up on the rest.
const HOPELESS: u64 = 3;
const SALT: u64 = 0x7461_6c6b;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[arg(long)]
    target: SocketAddr,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    connections: u32,
    /// Parallel connections in the second and third quarter of the run
    #[arg(long, default_value_t = 8)]
    together: u32,
    /// Maximum messages per connection
    #[arg(long, default_value_t = 8)]
    rounds: u64,
    #[arg(long, value_enum, default_value = "bare")]
    framing: Framing,
    /// The server speaks first
    #[arg(long)]
    greeted: bool,
    /// Milliseconds before the first message of a connection
    #[arg(long, default_value_t = 0)]
    pause: u64,
    #[arg(long, default_value_t = 8)]
    large_one_in: u64,
    /// End connections by close, never by a half-close
    #[arg(long)]
    whole: bool,
    /// Milliseconds without a byte after which an answer counts as missing
    #[arg(long)]
    patience: u64,
}

/// The outcome of the connections.
#[derive(Default)]
struct Tally {
    answers: u64,
    slowest: Duration,
    missing: u64,
    wrong: u64,
    /// Connections ended before the client did so, and the longest time from the last byte to such an end.
    early: u64,
    slowest_early: Duration,
    complaints: Vec<String>,
}

pub fn main(options: &Options) -> Result<()> {
    let tally = Mutex::new(Tally::default());
    let quarter = options.connections / 4;
    let next = AtomicU32::new(0);
    for (until, together) in [
        (quarter, 1),
        (options.connections - quarter, options.together),
        (options.connections, 1),
    ] {
        thread::scope(|scope| {
            for _ in 0..together {
                scope.spawn(|| {
                    while let Ok(connection) =
                        next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                            (next < until).then_some(next + 1)
                        })
                    {
                        if tally.lock().unwrap().missing < HOPELESS {
                            run(options, connection, &tally);
                        }
                    }
                });
            }
        });
    }
    let tally = tally.into_inner()?;
    println!("answers={}", tally.answers);
    println!("slowest_us={}", tally.slowest.as_micros());
    println!("missing={}", tally.missing);
    println!("wrong={}", tally.wrong);
    println!("early={}", tally.early);
    println!("slowest_early_us={}", tally.slowest_early.as_micros());
    for complaint in tally.complaints {
        println!("{complaint}");
    }
    Ok(())
}

/// How a connection ends, after its last answer or while that is still due.
#[derive(PartialEq, Eq)]
enum Ending {
    Close,
    HalfClose,
    HalfCloseWithLastMessage,
}

fn run(options: &Options, connection: u32, tally: &Mutex<Tally>) {
    let begin = Instant::now();
    let patience = Duration::from_millis(options.patience);
    let mut done = 0;
    let mut moved = begin;
    let result = stream::connect(None, options.target, true)
        .and_then(|stream| Wire::new(stream, patience))
        .and_then(|mut wire| {
            let result = talk(options, connection, &mut wire, &mut |took| {
                done += 1;
                let mut tally = tally.lock().unwrap();
                tally.answers += 1;
                tally.slowest = tally.slowest.max(took);
            });
            moved = wire.moved;
            result
        });
    let Err(error) = result else { return };
    let idle = moved.elapsed();
    let mut tally = tally.lock().unwrap();
    if is_early_end(&error) {
        tally.early += 1;
        tally.slowest_early = tally.slowest_early.max(idle);
    } else if error.kind() == io::ErrorKind::TimedOut {
        tally.missing += 1;
    } else {
        tally.wrong += 1;
    }
    tally.complaints.push(format!(
        "connection {connection}: {error} after {done} answers, {idle:?} after the last byte"
    ));
}

/// `answered` receives the time that each greeting, answer and end took.
fn talk(
    options: &Options,
    connection: u32,
    wire: &mut Wire,
    answered: &mut impl FnMut(Duration),
) -> io::Result<()> {
    let Options { framing, seed, .. } = *options;
    let mut random = Random::of(seed, connection.into(), SALT);
    let mut begin = Instant::now();
    if !stream::wait_for(&wire.stream, sys::OUT, options.patience as i32)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    if options.greeted {
        let greeting = wire.head(|bytes| Message::parse(framing, bytes))?;
        let greeting = greeting.ok_or(io::ErrorKind::UnexpectedEof)?;
        wire.body(&greeting.stream(seed, GREETING), greeting.body)?;
        answered(begin.elapsed());
    }
    let ending = match random.range(0, 2) {
        _ if options.whole => Ending::Close,
        0 => Ending::Close,
        1 => Ending::HalfClose,
        _ => Ending::HalfCloseWithLastMessage,
    };
    thread::sleep(Duration::from_millis(options.pause));
    let rounds = random.spread(1, options.rounds) as u32;
    for number in 0..rounds {
        begin = Instant::now();
        let message = Message::draw(&mut random, connection, number, options.large_one_in);
        wire.send(
            &message.head(framing),
            &message.stream(seed, REQUEST),
            message.body,
        )?;
        if number + 1 == rounds && ending == Ending::HalfCloseWithLastMessage {
            wire.stream.shutdown(Shutdown::Write)?;
        }
        let head = wire.head(|bytes| Ok(message.parse_answer(framing, bytes)?.map(|length| ((), length))))?;
        head.ok_or(io::ErrorKind::UnexpectedEof)?;
        wire.body(&message.stream(seed, ANSWER), message.answer)?;
        answered(begin.elapsed());
    }
    if ending != Ending::Close {
        begin = Instant::now();
        if ending == Ending::HalfClose {
            wire.stream.shutdown(Shutdown::Write)?;
        }
        wire.end()?;
        answered(begin.elapsed());
    }
    Ok(())
}
