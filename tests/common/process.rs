//! Owns a running program: its output line by line, its exit within a deadline, and its certain death.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use workloads::pace::patience;

use super::sys;

pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Output {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    stdout: Vec<String>,
    stderr: Vec<String>,
    stdout_ended: bool,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn collect(self: &Arc<Self>, from: impl Read + Send + 'static, is_stdout: bool) -> JoinHandle<()> {
        let output = Arc::clone(self);
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while matches!(from.read_until(b'\n', &mut line), Ok(length) if length > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_string();
                line.clear();
                let mut lines = output.lock();
                if is_stdout {
                    lines.stdout.push(text)
                } else {
                    lines.stderr.push(text)
                }
                output.changed.notify_all();
            }
            output.lock().stdout_ended |= is_stdout;
            output.changed.notify_all();
        })
    }
}

impl Process {
    /// Starts a command with all three standard streams piped to us.
    pub fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let name = format!("{command:?}");
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("failed to start {name}: {error}"));
        let output = Arc::new(Output::default());
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|stdout| output.collect(stdout, true)));
        readers.extend(child.stderr.take().map(|stderr| output.collect(stderr, false)));
        Self {
            name,
            stdin: child.stdin.take(),
            child,
            output,
            readers,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> Vec<String> {
        self.output.lock().stdout.clone()
    }

    pub fn stderr(&self) -> Vec<String> {
        self.output.lock().stderr.clone()
    }

    /// Everything that it has printed, for the message of a failing test.
    pub fn transcript(&self) -> String {
        let lines = self.output.lock();
        let (stdout, stderr) = (lines.stdout.join("\n"), lines.stderr.join("\n"));
        format!("{}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---", self.name)
    }

    /// Waits for the `count`th line of standard output with this prefix.
    pub fn wait_for_line(&mut self, prefix: &str, count: usize, within: Duration) -> String {
        self.wait_for(|lines| &lines.stdout, prefix, count, within)
    }

    /// Waits for the first line of standard error with this prefix.
    pub fn wait_for_error(&mut self, prefix: &str, within: Duration) -> String {
        self.wait_for(|lines| &lines.stderr, prefix, 1, within)
    }

    fn wait_for(
        &mut self,
        output: fn(&Lines) -> &[String],
        prefix: &str,
        count: usize,
        within: Duration,
    ) -> String {
        let deadline = Instant::now() + patience(within);
        let mut lines = self.output.lock();
        loop {
            let found = output(&lines)
                .iter()
                .filter(|line| line.starts_with(prefix))
                .nth(count - 1)
                .cloned();
            if let Some(line) = found {
                return line;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.stdout_ended || left.is_zero() {
                drop(lines);
                let why = if left.is_zero() {
                    "in time"
                } else {
                    "before the end of its output"
                };
                panic!("no line `{prefix}` {why}: {}", self.transcript_after_end());
            }
            let waited = self.output.changed.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }

    pub fn send_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is closed already");
        if let Err(error) = writeln!(stdin, "{line}").and_then(|()| stdin.flush()) {
            panic!(
                "failed to write to standard input: {error}: {}",
                self.transcript_after_end()
            );
        }
    }

    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    pub fn signal(&mut self, signal: i32) {
        // An unreaped child keeps its pid, so the signal cannot hit another process.
        if matches!(self.child.try_wait(), Ok(None)) {
            sys::signal(self.pid(), signal).unwrap_or_else(|e| panic!("failed to signal {}: {e}", self.name));
        }
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its exit, with all of its output collected.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience(within);
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.join_readers();
                    return status;
                }
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                Ok(None) => panic!("did not end within {within:?}: {}", self.transcript()),
                Err(error) => panic!("failed to wait: {error}: {}", self.transcript()),
            }
        }
    }

    pub fn kill(&mut self) {
        // Both fail if it has exited and been reaped, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }

    /// Gives a program that has just exited a moment for its last words to arrive.
    fn transcript_after_end(&mut self) -> String {
        thread::sleep(Duration::from_millis(200));
        let status = self.child.try_wait();
        format!("{} status {status:?}", self.transcript())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
