//! Owns a running workload of the program `traffic`, and its report.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use super::built::built;
use super::process::Process;

/// Longer than any workload takes; each has its own deadline.
const DEADLINE: Duration = Duration::from_secs(900);
const LINE: Duration = Duration::from_secs(120);

pub struct Traffic(Process);

impl Traffic {
    pub fn program() -> PathBuf {
        built("traffic")
    }

    pub fn start(mut command: Command, arguments: &[&str]) -> Self {
        command.args(arguments);
        Self(Process::start(command))
    }

    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Waits for the `count`th line with this prefix.
    pub fn wait_for_line(&mut self, prefix: &str, count: usize) -> String {
        self.0.wait_for_line(prefix, count, LINE)
    }

    pub fn send_line(&mut self, line: &str) {
        self.0.send_line(line);
    }

    pub fn close_stdin(&mut self) {
        self.0.close_stdin();
    }

    pub fn signal(&mut self, signal: i32) {
        self.0.signal(signal);
    }

    pub fn is_running(&mut self) -> bool {
        self.0.is_running()
    }

    /// Waits for the workload to end, which must be with success.
    pub fn finish(self) -> TrafficReport {
        let report = self.wait();
        assert!(report.is_ok(), "the workload failed: {}", report.transcript);
        report
    }

    /// Waits for the workload to end, whatever its status.
    pub fn wait(mut self) -> TrafficReport {
        self.0.close_stdin();
        let status = self.0.wait(DEADLINE);
        TrafficReport {
            status,
            stdout: self.0.stdout(),
            stderr: self.0.stderr(),
            transcript: self.0.transcript(),
        }
    }
}

pub struct TrafficReport {
    pub status: ExitStatus,
    pub stdout: Vec<String>,
    pub stderr: Vec<String>,
    pub transcript: String,
}

impl TrafficReport {
    pub fn is_ok(&self) -> bool {
        self.status.success() && self.stdout.last().is_some_and(|line| line == "ok")
    }

    pub fn value(&self, name: &str) -> u64 {
        let value = self
            .stdout
            .iter()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        value.unwrap_or_else(|| panic!("no value `{name}`: {}", self.transcript))
    }
}
