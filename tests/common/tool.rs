//! Owns a running `sockredir`: started for an arena, stopped or killed, and the totals that it prints on exit.

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use super::arena::Arena;
use super::process::Process;

const READY: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(60);

pub struct Tool(Process);

impl Tool {
    /// Starts the tool outside the arena's cgroup, to cover it, and waits until it is ready.
    pub fn start(arena: &Arena, arguments: &[&str]) -> Self {
        Self::start_for(arena, arena.cgroup(), arguments)
    }

    /// As `start`, for a cgroup below the arena's. Scans are enabled on every kernel unless the arguments say otherwise.
    pub fn start_for(arena: &Arena, cgroup: &Path, arguments: &[&str]) -> Self {
        let mut command = arena.host_command(env!("CARGO_BIN_EXE_sockredir"));
        command.arg("--cgroup").arg(cgroup).args(arguments);
        if !arguments.contains(&"--adopt") {
            command.args(["--adopt", "auto"]);
        }
        Self::start_by(command)
    }

    /// As `start`, through a command that becomes the tool. Unless the command says otherwise, every program counts as known,
    /// and nothing learnt is kept.
    pub fn start_by(mut command: Command) -> Self {
        for [option, value] in [["--trust-programs", "all"], ["--known-programs", "none"]] {
            if !command.get_args().any(|argument| argument == option) {
                command.args([option, value]);
            }
        }
        let mut tool = Self(Process::start(command));
        tool.0.wait_for_line("ready", 1, READY);
        tool
    }

    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    pub fn wait_for_line(&mut self, prefix: &str, count: usize) -> String {
        self.0.wait_for_line(prefix, count, READY)
    }

    /// Waits for a line of standard error with this prefix.
    pub fn wait_for_error(&mut self, prefix: &str, within: Duration) -> String {
        self.0.wait_for_error(prefix, within)
    }

    pub fn signal(&mut self, signal: i32) {
        self.0.signal(signal);
    }

    pub fn is_running(&mut self) -> bool {
        self.0.is_running()
    }

    pub fn stdout(&self) -> Vec<String> {
        self.0.stdout()
    }

    /// Asks the tool to stop and waits for it.
    pub fn stop(mut self) -> ToolReport {
        self.0.signal(libc::SIGINT);
        self.wait()
    }

    /// As `stop`; the tool must succeed.
    #[track_caller]
    pub fn end(self) -> ToolReport {
        let report = self.stop();
        report.assert_success();
        report
    }

    /// Waits for the tool to exit by itself.
    pub fn wait(mut self) -> ToolReport {
        let status = self.0.wait(STOP);
        ToolReport {
            status,
            stdout: self.0.stdout(),
            stderr: self.0.stderr(),
            transcript: self.0.transcript(),
        }
    }

    /// Kills the tool without a chance to clean up.
    pub fn kill(mut self) {
        self.0.kill();
    }
}

pub struct ToolReport {
    pub status: ExitStatus,
    pub stdout: Vec<String>,
    pub stderr: Vec<String>,
    pub transcript: String,
}

impl ToolReport {
    /// Demands success without any error output.
    #[track_caller]
    pub fn assert_success(&self) {
        assert!(
            self.status.success() && self.stderr.is_empty(),
            "{}",
            self.transcript
        );
    }

    /// A total that the tool printed on exit; 0 if it did not print it.
    pub fn counter(&self, name: &str) -> u64 {
        counter_of(&self.stdout, name).unwrap_or_else(|| panic!("no totals: {}", self.transcript))
    }

    #[track_caller]
    pub fn assert_above(&self, name: &str, bound: u64) {
        let value = self.counter(name);
        assert!(value > bound, "{name} is {value}: {}", self.transcript);
    }
}

/// The value of a name in the lines after `totals`; `None` without totals.
pub fn counter_of(stdout: &[String], name: &str) -> Option<u64> {
    let start = stdout.iter().rposition(|line| line.trim() == "totals")?;
    let value = stdout[start + 1..].iter().find_map(|line| {
        let mut columns = line.split_whitespace();
        (columns.next()? == name)
            .then(|| columns.next()?.parse().ok())
            .flatten()
    });
    Some(value.unwrap_or(0))
}
