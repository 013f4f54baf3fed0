//! Owns the part `victims` of the soak: one side of its connections is a process that is killed in mid-connection, then
//! replaced by another. What the survivor reads must be right up to the end, and the end must come.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use workloads::pattern::Random;

use crate::conversation::Side;
use crate::monitor::Monitor;
use crate::options::{Common, Family, Mode};
use crate::run::{Parts, Run, Sides};
use crate::soak::connections::Soak;
use crate::soak::{Control, Known, Sums};

/// A victim not killed within this time, in seconds, has lost the process that should kill it.
const LONGEST: u64 = 600;
const SHORTEST_LIFE: u64 = 20_000;
const LONGEST_LIFE: u64 = 2_000_000;

/// One side of the connections of a soak; the other side is in the process that starts this one and kills it.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Which run of the soak
    #[arg(long)]
    run: u64,
    /// Where the servers listen, if this process runs the clients
    #[arg(long)]
    target: Vec<SocketAddr>,
    #[arg(long, value_enum)]
    known: Vec<Known>,
    #[command(flatten)]
    common: Common,
}

/// The process that gets killed.
pub fn main(mut options: Options) -> Result<()> {
    let seed = options.common.settle_seed();
    let life = Life {
        run: options.run,
        connections: options.common.connections.unwrap_or(1),
    };
    let sides = if options.target.is_empty() {
        Sides::Servers
    } else {
        Sides::Clients(options.target)
    };
    let mode = options.common.mode;
    let control = Control::new(options.common, seed, LONGEST, options.known, None);
    let run = life.half(&Arc::new(control), mode, sides, &Arc::default())?;
    for target in run.targets() {
        println!("target={target}");
    }
    println!("running");
    let running = run.start();
    // When standard input ends, nobody is left to kill this process.
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(1);
    });
    running.finish()?;
    bail!("it came to its end before it was killed")
}

/// What a victim and its survivor must agree on.
struct Life {
    run: u64,
    connections: u64,
}

impl Life {
    /// The ends that belong to one of the two processes.
    fn half(
        &self,
        control: &Arc<Control>,
        mode: Mode,
        sides: Sides,
        closing: &Arc<AtomicBool>,
    ) -> Result<Arc<Run>> {
        let broken = match sides {
            Sides::Clients(_) => Side::Client,
            Sides::Both | Sides::Servers => Side::Server,
        };
        let parts = Parts {
            name: format!("victims-{} ", self.run),
            number: self.run,
            modes: [mode; 2],
            // A client's address identifies its connection, and IPv6 loopback has only ::1.
            families: vec![Family::V4, Family::Mapped],
            sides,
        };
        let soak = Box::new(Soak::new(control, broken, closing));
        let monitor = Arc::clone(&control.monitor);
        Run::of(parts, &control.common, self.connections, soak, monitor)
    }

    /// The command of the other process.
    fn victim(&self, control: &Control, mode: Mode, targets: &[SocketAddr]) -> Result<Command> {
        fn name(value: impl ValueEnum) -> String {
            let value = value.to_possible_value();
            value.map_or_else(String::new, |value| value.get_name().into())
        }
        let program = std::env::current_exe().context("failed to find this program")?;
        let mut command = Command::new(program);
        command.arg("victim").args(["--run", &self.run.to_string()]);
        command.args(["--seed", &control.seed.to_string()]);
        command.args(["--connections", &self.connections.to_string()]);
        command.args(["--mode", &name(mode)]);
        command.args(["--stall", &control.common.stall.to_string()]);
        for known in &control.known {
            command.args(["--known", &name(*known)]);
        }
        if let Some(flip) = control.common.flip {
            command.args(["--flip", &flip.to_string()]);
        }
        for target in targets {
            command.args(["--target", &target.to_string()]);
        }
        Ok(command)
    }
}

/// A victim as its killer sees it.
struct Victim {
    child: Child,
    /// Closing it would end the victim.
    _stdin: Option<ChildStdin>,
    targets: Vec<SocketAddr>,
}

impl Victim {
    fn start(mut command: Command, monitor: &Arc<Monitor>) -> Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Ctrl-C is for the soak, which kills its victims itself.
        command.process_group(0);
        let mut child = command.spawn().context("failed to start a victim")?;
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let monitor = Arc::clone(monitor);
        thread::spawn(move || {
            for line in stderr
                .into_iter()
                .flat_map(|stderr| BufReader::new(stderr).lines())
            {
                monitor.fault(format!("a victim says: {}", line.unwrap_or_default()));
            }
        });
        let mut victim = Self {
            child,
            _stdin: stdin,
            targets: Vec::new(),
        };
        for line in stdout
            .into_iter()
            .flat_map(|stdout| BufReader::new(stdout).lines())
        {
            let line = line.context("failed to read from a victim")?;
            if line == "running" {
                return Ok(victim);
            }
            if let Some(target) = line.strip_prefix("target=") {
                victim.targets.push(target.parse()?);
            }
        }
        bail!("a victim did not start")
    }

    fn kill(mut self) -> Result<()> {
        self.child.kill().context("failed to kill a victim")?;
        let status = self.child.wait().context("failed to wait for a victim")?;
        ensure!(
            status.signal() == Some(libc::SIGKILL),
            "a victim ended before it was killed: {status}"
        );
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Both fail if it is already dead, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts and kills victims until time is up.
pub fn work(control: &Arc<Control>, first: u64, connections: u64) -> Result<Sums> {
    let mut sums = Sums::default();
    for run in first.. {
        if control.is_over() {
            break;
        }
        let mut random = Random::of(control.seed, run, 0);
        let life = Life { run, connections };
        let [dead, alive] = [random.chance(3), random.chance(3)].map(Mode::blocking);
        let length = Duration::from_micros(random.spread(SHORTEST_LIFE, LONGEST_LIFE));
        let closing = Arc::new(AtomicBool::new(false));
        let (victim, survivor) = if random.chance(2) {
            let survivor = life.half(control, alive, Sides::Servers, &closing)?;
            let victim = life.victim(control, dead, survivor.targets())?;
            (Victim::start(victim, &control.monitor)?, survivor)
        } else {
            let victim = Victim::start(life.victim(control, dead, &[])?, &control.monitor)?;
            let clients = Sides::Clients(victim.targets.clone());
            (victim, life.half(control, alive, clients, &closing)?)
        };
        let running = survivor.start();
        thread::sleep(length);
        // From here on a connect may be refused.
        closing.store(true, Ordering::SeqCst);
        victim.kill()?;
        survivor.peer_died();
        sums.tally.add(running.finish()?);
        sums.connections += survivor.opened();
        sums.killed += 1;
    }
    Ok(sums)
}
