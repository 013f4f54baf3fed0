//! The processes of one run, server and client: started in place, their reports read, killed on drop.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use super::worker::{Address, ClientReport, Job, Location, ServerReport, Side, Task};

/// A running process of the benchmark. It exits by itself after a time, so that no read blocks for ever.
struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    fn start(job: &Job) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg("worker")
            .arg(serde_json::to_string(job)?)
            // Ctrl-C is for this process, which ends the others.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("failed to start a process of the benchmark")?;
        let stdout = child.stdout.take().context("a process has no output")?;
        Ok(Self {
            child,
            lines: BufReader::new(stdout),
        })
    }

    fn line<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        if line.is_empty() {
            bail!(self.failure()?);
        }
        serde_json::from_str(&line).with_context(|| format!("unexpected output of a process: {line}"))
    }

    /// Why it exited without a report.
    fn failure(&mut self) -> Result<String> {
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut text)?;
        }
        let status = self.child.wait()?;
        // The second line of a panic tells what happened.
        let line = text.trim().lines().take(2).collect::<Vec<_>>().join(" ");
        let line = line.trim_start_matches("sockredir-bench: ").to_owned();
        Ok(match (line.is_empty(), status.code()) {
            (false, _) => line,
            (true, None) => "it hung and was ended".to_owned(),
            (true, Some(code)) => format!("a process ended with status {code}"),
        })
    }

    fn has_failed(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(status)) if !status.success())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it has exited and was reaped, which is the goal.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the two processes run.
pub struct Locations {
    pub client: Location,
    pub server: Location,
}

/// Runs a server and a client to completion.
pub fn measure(task: &Task, address: Address, at: &Locations) -> Result<(ClientReport, ServerReport)> {
    let job = |side, location: &Location| Job {
        task: task.clone(),
        side,
        location: location.clone(),
    };
    let mut server = Process::start(&job(Side::Server(address), &at.server))?;
    let address = server.line()?;
    let mut client = Process::start(&job(Side::Client(address), &at.client))?;
    let report = client.line();
    if report.is_err() && server.has_failed() {
        bail!("the server failed: {}", server.failure()?);
    }
    Ok((report?, server.line()?))
}
