//! Owns the environment of one run: an arena, a directory, the servers in it, the answers to the clients and, in the
//! second run, the tool.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Arena, Process, Tool, ToolReport};

const READY: Duration = Duration::from_secs(60);
/// Longer than any client takes: a connection that hangs must not hang the test.
const DEADLINE: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(20);

/// Fields are dropped in this order: servers before what they run in, and the files once nobody writes to them.
pub struct Stage {
    servers: Vec<Server>,
    tool: Option<Tool>,
    accelerated: bool,
    pub results: Results,
    arena: Arena,
    folder: Folder,
}

/// The results of a run: answers must match between runs, rates are only printed.
#[derive(Default)]
pub struct Results {
    pub answers: Vec<(String, String)>,
    pub rates: Vec<(String, f64)>,
}

impl Stage {
    pub fn new(accelerated: bool) -> Self {
        Self {
            servers: Vec::new(),
            tool: None,
            accelerated,
            results: Results::default(),
            arena: Arena::new(),
            folder: Folder::new(),
        }
    }

    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }

    /// Writes a file into the directory.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content)
            .unwrap_or_else(|error| panic!("failed to write {}: {error}", path.display()));
        path
    }

    /// A program from the distribution, to be run in the arena.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.arena.command(find(program));
        command.current_dir(self.folder());
        command
    }

    /// As `command`, run by an unprivileged user.
    pub fn command_as(&self, user: &str, program: &str) -> Command {
        let mut command = self.command("setpriv");
        command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
        command.arg(find(program));
        command
    }

    /// A script of ours next to this file, run by an interpreter.
    pub fn script(&self, interpreter: &str, name: &str) -> Command {
        let mut command = self.command(interpreter);
        command.arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/programs")
                .join(name),
        );
        command
    }

    /// Starts a server and waits until all of its addresses, or Unix socket paths, accept connections.
    pub fn serve(&mut self, command: Command, addresses: &[&str]) {
        let mut server = Server(Process::start(command));
        for address in addresses {
            let deadline = Instant::now() + READY;
            while let Err(error) = self.arena.in_namespace(|| connect(address)) {
                assert!(
                    server.0.is_running() && Instant::now() < deadline,
                    "no server at {address}: {error}: {}",
                    server.0.transcript()
                );
                thread::sleep(Duration::from_millis(20));
            }
        }
        self.servers.push(server);
    }

    /// From here on connections may be accelerated, if this run has the tool.
    pub fn accelerate(&mut self) {
        self.accelerate_with(&[]);
    }

    /// As `accelerate`, with options of the tool. No program is known to it, as after an installation.
    pub fn accelerate_with(&mut self, arguments: &[&str]) {
        assert!(self.tool.is_none(), "the tool runs already");
        let trust: &[&str] = match arguments.contains(&"--trust-programs") {
            true => &[],
            false => &["--trust-programs", "none"],
        };
        let arguments = [trust, arguments].concat();
        self.tool = self.accelerated.then(|| Tool::start(&self.arena, &arguments));
    }

    /// Stops the tool while the servers keep running, and checks that none has exited.
    pub fn end(&mut self) -> Option<ToolReport> {
        let report = self.tool.take().map(Tool::stop);
        for Server(process) in &mut self.servers {
            assert!(process.is_running(), "a server ended: {}", process.transcript());
        }
        report
    }

    /// Runs a client to completion, which must succeed, and returns its output.
    pub fn run(&self, command: Command) -> Vec<String> {
        let mut process = Process::start(command);
        process.close_stdin();
        let status = process.wait(DEADLINE);
        let servers: Vec<_> = self
            .servers
            .iter()
            .map(|Server(server)| server.transcript())
            .collect();
        assert!(
            status.success(),
            "{status}: {}\n{}",
            process.transcript(),
            servers.join("\n")
        );
        process.stdout()
    }

    /// Runs a client of ours: lines `rate <name> <value>` are rates, all others are answers.
    pub fn run_script(&mut self, what: &str, command: Command) {
        for line in self.run(command) {
            match line.strip_prefix("rate ").and_then(|rest| rest.rsplit_once(' ')) {
                Some((name, value)) => self.rate(name, value),
                None => self.answer(what, line),
            }
        }
    }

    pub fn answer(&mut self, what: &str, answer: impl ToString) {
        self.results.answers.push((what.to_string(), answer.to_string()));
    }

    pub fn rate(&mut self, what: &str, value: &str) {
        let value = value.parse();
        let value = value.unwrap_or_else(|error| panic!("{what}: not a rate: {error}"));
        self.results.rates.push((what.to_string(), value));
    }

    /// The lines in the servers' error output that contain this word.
    pub fn complaints(&self, word: &str) -> Vec<String> {
        let lines = self.servers.iter().flat_map(|Server(server)| server.stderr());
        lines.filter(|line| line.contains(word)).collect()
    }
}

fn connect(address: &str) -> io::Result<()> {
    if address.starts_with('/') {
        return UnixStream::connect(address).map(drop);
    }
    let address: SocketAddr = address.parse().expect("an address and a port");
    TcpStream::connect(address).map(drop)
}

/// Ended with SIGINT, so that it cleans up what only it knows about, such as shared memory.
struct Server(Process);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.signal(libc::SIGINT);
        let deadline = Instant::now() + STOP;
        while self.0.is_running() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sockredir-programs-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("failed to make {}: {error}", path.display()));
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("failed to remove {}: {error}", self.0.display());
        }
    }
}

/// The distribution's path of a program, or the one found in PATH. Debian installs each PostgreSQL release separately.
fn find(program: &str) -> PathBuf {
    let releases = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut folders: Vec<_> = releases.map(|release| release.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    folders.extend(["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from));
    folders.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let found = folders
        .into_iter()
        .map(|folder| folder.join(program))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{program} is missing: run 'sudo make deps'"))
}

/// Random-looking bytes that are the same in each run.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// The length and a digest of a file, in place of its content.
pub fn digest(path: &Path) -> String {
    let content = fs::read(path).unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display()));
    digest_of(&content)
}

pub fn digest_of(content: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("{} bytes {:016x}", content.len(), hasher.finish())
}
