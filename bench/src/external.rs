//! Another accelerator, given as a command: started on a cgroup, waited for, and stopped.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::rounds::INTERRUPTED;

const READY: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(10);

/// A shell command line, and the name of its column.
#[derive(Clone, Debug)]
pub struct External {
    command: String,
    pub name: String,
}

impl FromStr for External {
    type Err = String;

    fn from_str(command: &str) -> Result<Self, String> {
        let program = command.split_whitespace().next().unwrap_or_default();
        let file = program.rsplit('/').next().unwrap_or_default();
        let name: String = file
            .chars()
            .filter(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(*letter))
            .collect();
        match name.as_str() {
            "" => Err("the command names no program".to_owned()),
            "plain" | "unix" => Err(format!("`{name}` is the name of another column")),
            _ => Ok(Self {
                command: command.to_owned(),
                name,
            }),
        }
    }
}

/// The running command. Dropping it interrupts the command, and kills it if that has no effect.
pub struct Running {
    child: Child,
}

impl External {
    /// Returns once it is ready; fails if interrupted.
    pub fn start(&self, cgroup: &Path, interrupted: &AtomicBool) -> Result<Running> {
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!("exec {} \"$1\"", self.command))
            .arg("sh")
            .arg(cgroup)
            // Ctrl-C is for this process, which ends the other.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start `{}`", self.command))?;
        let stdout = child.stdout.take();
        let running = Running { child };
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = stdout {
            // Reads until the command exits, so that the command never blocks on the pipe.
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    // Output after `ready` does not matter.
                    let _ = sender.send(line);
                }
            });
        }
        let deadline = Instant::now() + READY;
        let command = &self.command;
        loop {
            match lines.recv_timeout(STEP) {
                Ok(line) if line.starts_with("ready") => return Ok(running),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("`{command}` ended before it printed a line that begins with `ready`")
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            }
            ensure!(!interrupted.load(Ordering::Relaxed), "{INTERRUPTED}");
            ensure!(
                Instant::now() < deadline,
                "`{command}` printed no line that begins with `ready` within {} s",
                READY.as_secs()
            );
        }
    }
}

impl Running {
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() {
            // An unreaped child keeps its PID, so this cannot hit another process.
            let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT);
        }
        let deadline = Instant::now() + END;
        while self.is_running() && Instant::now() < deadline {
            thread::sleep(STEP);
        }
        // Both fail if it has exited, which is the goal.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_has_the_name_of_the_program() {
        let name = |command: &str| command.parse::<External>().map(|external| external.name);
        assert_eq!(name("/opt/x/aya-redirect --fast"), Ok("aya-redirect".to_owned()));
        assert_eq!(name("'a,b'"), Ok("ab".to_owned()));
        assert!(name(" ").is_err());
        assert!(name("./plain").is_err());
    }
}
