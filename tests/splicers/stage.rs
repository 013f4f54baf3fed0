//! Owns the environment of one run: an arena, a directory with program copies that no tool has seen before, and the tool.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Arena, Process, Scans, Tool, built, is_fit_for_scans, patience};

/// Options of the tool, besides those for its location.
pub const ARGS: &[&str] = &["--trust-programs", "none"];

const READY: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(5);
/// The state of a listening TCP socket in /proc/net/tcp.
const LISTENS: &str = "0A";

/// Interval between scans; they are rare on a kernel that they would break.
const SCANS: Duration = Duration::from_millis(5);
const FEW_SCANS: Duration = Duration::from_millis(250);

/// Dropped in this order: the tool before what it runs in.
pub struct Stage {
    scans: Option<Scans>,
    tool: Option<Tool>,
    arena: Arena,
    folder: Folder,
}

impl Stage {
    /// An environment where nothing runs but the tool, freshly started if `accelerated`.
    pub fn new(accelerated: bool) -> Self {
        let arena = Arena::new();
        Self {
            scans: None,
            tool: accelerated.then(|| Tool::start(&arena, ARGS)),
            arena,
            folder: Folder::new(),
        }
    }

    /// As `new`, with a tool that scans for connections to adopt all the time.
    pub fn with_scans() -> Self {
        let arena = Arena::new();
        let pause = if is_fit_for_scans(&arena) {
            SCANS
        } else {
            FEW_SCANS
        };
        Self {
            tool: Some(Tool::start(&arena, ARGS)),
            scans: Some(Scans::begin(&arena, pause)),
            arena,
            folder: Folder::new(),
        }
    }

    /// A separate file for one of our programs, by which it may be told apart; the name stays the same.
    pub fn copy_of(&self, program: &str) -> PathBuf {
        let path = self.folder.next().join(program);
        // In another process: a thread that forks meanwhile would inherit the file open for writing, and exec would fail.
        let mut command = Command::new("cp");
        command.arg(built(program)).arg(&path);
        let copied = command.status().is_ok_and(|status| status.success());
        assert!(copied, "failed to make {}", path.display());
        path
    }

    pub fn executable(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.next().join(name);
        fs::write(&path, content)
            .unwrap_or_else(|error| panic!("failed to write {}: {error}", path.display()));
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("failed to make a program executable");
        path
    }

    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.next().join(name);
        fs::write(&path, content)
            .unwrap_or_else(|error| panic!("failed to write {}: {error}", path.display()));
        path
    }

    pub fn command(&self, program: &Path) -> Command {
        self.arena.command(program)
    }

    /// Starts a server and waits until it listens, without a connection to it: the first one is of interest.
    pub fn serve(&self, command: Command, address: &str) -> Process {
        let mut server = Process::start(command);
        let deadline = Instant::now() + patience(READY);
        while !self.listens(address) {
            assert!(
                server.is_running() && Instant::now() < deadline,
                "nobody listens at {address}: {}",
                server.transcript()
            );
            thread::sleep(STEP);
        }
        server
    }

    fn listens(&self, address: &str) -> bool {
        let port: u16 = address
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .expect("a port");
        let port = format!(":{port:04X}");
        let sockets = self
            .arena
            .in_namespace(|| fs::read_to_string("/proc/thread-self/net/tcp"));
        let sockets = sockets.expect("failed to read the sockets of the namespace");
        sockets.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            words.next().is_some_and(|local| local.ends_with(&port)) && words.nth(1) == Some(LISTENS)
        })
    }

    /// Ends the tool, which must still be running, and returns its totals.
    pub fn end(mut self) -> String {
        let Some(mut tool) = self.tool.take() else {
            return String::new();
        };
        self.scans = None;
        assert!(tool.is_running(), "the tool has ended");
        let report = tool.stop();
        assert!(report.status.success(), "{}", report.transcript);
        report.transcript
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sockredir-splicers-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("failed to make {}: {error}", path.display()));
        Self(path)
    }

    /// A new subdirectory.
    fn next(&self) -> PathBuf {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let path = self.0.join(NUMBER.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&path).unwrap_or_else(|error| panic!("failed to make {}: {error}", path.display()));
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("failed to remove {}: {error}", self.0.display());
        }
    }
}
