//! Owns the workload `hold`: connections that are warmed up, stay open, and echo again for each line of standard input.

use std::io::{BufRead, stdin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::conversation::{Op, Progress, Script, Side, Workload};
use crate::options::Common;
use crate::run::Run;

const WARM_UP: u64 = 64;
const ROUND: u64 = 16;
const SIZE: u64 = 512;

/// Every line of standard input makes each connection echo again; end of file closes all.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
}

struct Hold {
    connections: u64,
    ending: Arc<AtomicBool>,
}

impl Workload for Hold {
    fn more(&self, opened: u64) -> bool {
        opened < self.connections
    }

    fn script(&self, _connection: u64, side: Side) -> Box<dyn Script> {
        match side {
            Side::Client => Box::new(Holder {
                ending: Arc::clone(&self.ending),
                round: 0,
                echoes: WARM_UP,
                step: Step::Send,
            }),
            Side::Server => Box::new(Answerer {
                received: 0,
                waiting: true,
            }),
        }
    }
}

enum Step {
    Send,
    Await,
    Released,
}

/// The client: echoes, then waits for the gate, and so on.
struct Holder {
    ending: Arc<AtomicBool>,
    round: u64,
    echoes: u64,
    step: Step,
}

impl Script for Holder {
    fn next(&mut self, progress: &Progress) -> Op {
        match self.step {
            Step::Released if self.ending.load(Ordering::SeqCst) => return Op::Close,
            Step::Released => self.echoes = ROUND,
            Step::Send if self.echoes == 0 => {
                self.round += 1;
                self.step = Step::Released;
                return Op::Gate(self.round);
            }
            Step::Send => {}
            Step::Await => {
                self.step = Step::Send;
                self.echoes -= 1;
                return Op::Await(progress.received + SIZE);
            }
        }
        self.step = Step::Await;
        Op::Send(SIZE as usize)
    }
}

/// The server: answers every request until the client closes between two of them.
struct Answerer {
    received: u64,
    waiting: bool,
}

impl Script for Answerer {
    fn next(&mut self, progress: &Progress) -> Op {
        if self.waiting {
            self.waiting = false;
            return Op::AwaitOrEof(self.received + SIZE);
        }
        if progress.eof && progress.received == self.received {
            return Op::Close;
        }
        if progress.received < self.received + SIZE {
            return Op::Fault(format!("end of file within a request, at {}", progress.received));
        }
        self.waiting = true;
        self.received += SIZE;
        Op::Send(SIZE as usize)
    }
}

pub fn main(mut options: Options) -> Result<()> {
    options.common.settle_seed();
    let connections = options.common.connections.unwrap_or(64);
    let until = options
        .common
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let ending = Arc::new(AtomicBool::new(false));
    let hold = Hold {
        connections,
        ending: Arc::clone(&ending),
    };
    let run = Run::new(&options.common, connections, Box::new(hold))?;
    let running = run.start();

    let (sender, lines) = channel();
    // Never joined: it ends with standard input or with the process.
    thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut rounds = 1;
    run.gate.wait_arrivals(connections);
    println!("holding");
    loop {
        let patience = until.map_or(Duration::MAX, |until| {
            until.saturating_duration_since(Instant::now())
        });
        match lines.recv_timeout(patience) {
            Ok(_) => {
                rounds += 1;
                run.release_gate();
                run.gate.wait_arrivals(connections * rounds);
                println!("echoed");
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    ending.store(true, Ordering::SeqCst);
    run.release_gate();
    let tally = running.finish()?;
    println!("payload_bytes={}\nmessages={}", tally.bytes, tally.messages);
    Ok(())
}
