//! Owns the environment of a test: a cgroup and a network namespace of its own, removed with the test.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use workloads::pace::patience;

use super::kernel::remember_earlier_objects;
use super::network::Network;
use super::sys;
use super::traffic::Traffic;

/// Minimum, default and maximum size of a socket's buffers, in bytes.
const BUFFERS: [(&str, &str, &str); 2] = [
    ("tcp_rmem", "4096 131072 33554432", "4096 65536 131072"),
    ("tcp_wmem", "4096 16384 4194304", "4096 8192 16384"),
];
/// How long a cgroup may stay busy after its processes have been killed.
const REMOVAL: Duration = Duration::from_secs(10);

/// BPF objects and the kernel's memory counters are global, so tests with an arena run one at a time; a single test may
/// have several.
#[derive(Default)]
struct Turns {
    holder: Mutex<Option<(ThreadId, usize)>>,
    changed: Condvar,
}

static TURNS: LazyLock<Turns> = LazyLock::new(Turns::default);

struct Turn;

impl Turn {
    fn take() -> Self {
        let this = thread::current().id();
        let mut holder = TURNS.holder.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &mut *holder {
                Some((thread, count)) if *thread == this => *count += 1,
                Some(_) => {
                    holder = TURNS.changed.wait(holder).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                None => *holder = Some((this, 1)),
            }
            return Self;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut holder = TURNS.holder.lock().unwrap_or_else(PoisonError::into_inner);
        *holder = holder
            .take()
            .filter(|(_, count)| *count > 1)
            .map(|(thread, count)| (thread, count - 1));
        TURNS.changed.notify_all();
    }
}

pub struct Arena {
    root: PathBuf,
    inside: PathBuf,
    outside: PathBuf,
    network: Network,
    _turn: Turn,
}

impl Arena {
    pub fn new() -> Self {
        assert!(
            sys::is_root(),
            "the integration tests need root: they make cgroups and namespaces and load BPF"
        );
        let turn = Turn::take();
        remember_earlier_objects();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = cgroup2_mount().join(format!("sockredir-test-{}-{number}", std::process::id()));
        let arena = Self {
            inside: root.join("inside"),
            outside: root.join("outside"),
            root,
            network: Network::new(),
            _turn: turn,
        };
        for path in [&arena.root, &arena.inside, &arena.outside] {
            fs::create_dir(path)
                .unwrap_or_else(|e| panic!("failed to make the cgroup {}: {e}", path.display()));
        }
        arena
    }

    /// The sibling cgroup, for programs that no tool covers.
    pub fn outside(&self) -> &Path {
        &self.outside
    }

    /// The cgroup whose connections a tool may accelerate.
    pub fn cgroup(&self) -> &Path {
        &self.inside
    }

    /// A cgroup below the arena's.
    pub fn subcgroup(&self, name: &str) -> PathBuf {
        let path = self.inside.join(name);
        if !path.is_dir() {
            fs::create_dir(&path)
                .unwrap_or_else(|e| panic!("failed to make the cgroup {}: {e}", path.display()));
        }
        path
    }

    /// The network namespace, whose connections go over loopback.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The bytes that the namespace's loopback interface has received.
    pub fn loopback_bytes(&self) -> u64 {
        self.network.bytes("lo").0
    }

    /// Gives the namespace's sockets little memory, or the usual amount.
    pub fn squeeze(&self, little: bool) {
        for (name, usual, small) in BUFFERS {
            let path = Path::new("/proc/sys/net/ipv4").join(name);
            let value = if little { small } else { usual };
            let written = self.in_namespace(|| fs::write(&path, value));
            written.unwrap_or_else(|error| panic!("failed to set {}: {error}", path.display()));
        }
    }

    /// Runs a closure in a thread that has entered the namespace.
    pub fn in_namespace<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.network.inside(work)
    }

    /// A command that will run in the cgroup and the namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_in(&self.inside, program)
    }

    /// A command that will run in the namespace, outside the cgroup.
    pub fn host_command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_in(&self.outside, program)
    }

    /// A command that will run in the namespace and a given cgroup.
    pub fn command_in(&self, cgroup: &Path, program: impl AsRef<OsStr>) -> Command {
        self.command_at(&self.network, cgroup, program)
    }

    /// A command that will run in a given namespace and cgroup.
    pub fn command_at(&self, network: &Network, cgroup: &Path, program: impl AsRef<OsStr>) -> Command {
        let procs = cgroup.join("cgroup.procs");
        let file = OpenOptions::new().write(true).open(&procs);
        let file = file.unwrap_or_else(|error| panic!("failed to open {}: {error}", procs.display()));
        let mut command = Command::new(program);
        network.take(&mut command, file);
        command
    }

    /// Starts a workload in the cgroup and the namespace.
    pub fn traffic(&self, arguments: &[&str]) -> Traffic {
        Traffic::start(self.command(Traffic::program()), arguments)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let deadline = Instant::now() + patience(REMOVAL);
        while let Err(error) = remove(&self.root) {
            if Instant::now() > deadline {
                eprintln!("failed to remove the cgroup {}: {error}", self.root.display());
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Kills everything in a cgroup and below it, and removes it.
fn remove(cgroup: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    for pid in fs::read_to_string(cgroup.join("cgroup.procs"))?
        .lines()
        .filter_map(|line| line.parse().ok())
    {
        // It may have exited by itself.
        let _ = sys::signal(pid, libc::SIGKILL);
        sys::reap(pid);
    }
    fs::remove_dir(cgroup)
}

/// The mount points of the cgroup2 hierarchy, on hybrid hosts too.
pub fn cgroup2_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("failed to read /proc/self/mountinfo");
    let mount = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let path = front.split(' ').nth(4)?.replace("\\040", " ");
        (back.split(' ').next() == Some("cgroup2")).then(|| PathBuf::from(path))
    };
    mounts.lines().filter_map(mount).collect()
}

fn cgroup2_mount() -> PathBuf {
    let mounts = cgroup2_mounts();
    mounts
        .into_iter()
        .next()
        .expect("the integration tests need cgroup2, and no cgroup2 hierarchy is mounted")
}
