//! How one instance takes over from another: the new one asks; the old one makes an offer and keeps only its connections.
//!
//! The holder of the cgroup's lock is in charge. The old instance releases it with its offer, and takes it back if the new one
//! fails before it is ready.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{self, Command, ExitCode, Stdio};
use std::time::Duration;
use std::{env, io};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::notify::{Listening, Manager, Service};
use crate::cli::RunArgs;
use crate::datapath::cgroup::{Cgroup, Cgroups};
use crate::model::protocol::{REPLACE, connect, say};

/// What the new instance says when it is ready.
const READY: &str = "ready";
/// The size limit of an offer.
const OFFER_BYTES: u64 = 1 << 16;
/// How often `reload` checks whether the new instance has failed.
const STEP: Duration = Duration::from_millis(100);

/// What an instance offers to the one that takes over.
#[derive(Debug, Deserialize, Serialize)]
pub struct Offer {
    /// Its PID.
    pub pid: u32,
    /// The service manager that started it, if any.
    pub service: Option<Service>,
}

impl Offer {
    /// The offer of this process.
    pub fn own(manager: &Manager) -> Self {
        Self {
            pid: process::id(),
            service: manager.service().cloned(),
        }
    }
}

/// An accepted offer, on the side of the new instance. If it is dropped, the old instance goes on.
pub struct Takeover {
    talk: BufReader<UnixStream>,
    offer: Offer,
}

impl Takeover {
    /// Asks the instance on any of these cgroups, and takes the locks that it releases.
    pub fn begin(cgroups: &Cgroups) -> Result<Self> {
        let mut talk = BufReader::new(ask_to_hand_over(cgroups)?);
        let mut line = String::new();
        talk.by_ref()
            .take(OFFER_BYTES)
            .read_line(&mut line)
            .context("failed to read what the running sockredir offers")?;
        let offer = match serde_json::from_str::<Result<Offer, String>>(&line) {
            Ok(Ok(offer)) => offer,
            Ok(Err(refusal)) => bail!("the running sockredir does not hand over: {refusal}"),
            Err(_) => bail!(
                "the running sockredir does not know how to hand over, it has another version: stop it first"
            ),
        };
        cgroups.lock()?;
        Ok(Self { talk, offer })
    }

    /// The PID of the instance that hands over.
    pub fn from(&self) -> u32 {
        self.offer.pid
    }

    /// Tells the old instance that this one is ready and waits until it has notified its service manager, which is returned.
    pub fn finish(mut self) -> Result<Option<Manager>> {
        // The lock decides who is in charge, so it does not matter if the old instance has exited meanwhile.
        let told = writeln!(self.talk.get_ref(), "{READY}");
        if told.is_ok() {
            let _ = self.talk.read_to_end(&mut Vec::new());
        }
        self.offer.service.as_ref().map(Manager::of).transpose()
    }
}

/// Sends the offer to the new instance and waits until it is ready. False if it has failed.
pub fn offer(mut asker: &UnixStream, offer: &Result<Offer, String>) -> io::Result<bool> {
    let text = serde_json::to_string(offer)?;
    writeln!(asker, "{text}")?;
    let mut answer = String::new();
    BufReader::new(asker.take(READY.len() as u64 + 1)).read_line(&mut answer)?;
    Ok(answer.trim_end() == READY)
}

/// `sockredir reload`: starts a new instance that takes over and waits until it is ready. The new instance outlives it.
pub fn reload(args: &RunArgs) -> Result<ExitCode> {
    connect_to_any(&Cgroups::open(&args.cgroups)?)?;
    // The new instance treats this process as its service manager until it inherits a real one.
    let (listening, address) = Listening::begin().context("failed to make a socket for the new instance")?;
    let program = env::current_exe().context("failed to find the own program")?;
    let mut child = Command::new(&program)
        .arg("run")
        .args((!args.replace).then_some("--replace"))
        // Skips the names of the program and of the command.
        .args(env::args_os().skip(2))
        .env("NOTIFY_SOCKET", address)
        .env_remove("WATCHDOG_USEC")
        .stdin(Stdio::null())
        // Signals from this terminal are for the foreground job only.
        .process_group(0)
        .spawn()
        .with_context(|| format!("failed to start {}", program.display()))?;
    loop {
        if listening
            .is_ready(STEP)
            .context("failed to hear from the new instance")?
        {
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(status) = child.try_wait().context("failed to wait for the new instance")? {
            // It has already said why.
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
        }
    }
}

/// Connects to the instance on the first of the cgroups that has one.
fn connect_to_any(cgroups: &Cgroups) -> Result<UnixStream> {
    let connect = |cgroup: &Cgroup| connect(cgroup.inode(), cgroup.path());
    let stream = cgroups.iter().find_map(|cgroup| connect(cgroup).ok());
    stream.map_or_else(|| connect(cgroups.first()), Ok)
}

/// Asks the instance on the cgroups to hand over. Its offer follows.
fn ask_to_hand_over(cgroups: &Cgroups) -> Result<UnixStream> {
    let mut stream = connect_to_any(cgroups)?;
    say(&mut stream, REPLACE).context("failed to ask the running sockredir")?;
    Ok(stream)
}
