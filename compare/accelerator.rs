//! Owns the accelerators that are compared: what each is called, and how it is started for a cgroup and ended.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::{Arena, Process};

const READY: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(60);

/// An accelerator, or plain TCP, which has no program.
pub struct Accelerator {
    pub name: &'static str,
    pub program: Option<PathBuf>,
    /// Before the path of the cgroup.
    arguments: Vec<OsString>,
}

/// Plain TCP first, against which the others are judged.
pub fn all(aya: Option<&Path>) -> Vec<Accelerator> {
    let accelerator = |name, program: Option<&Path>, arguments: &[&str]| Accelerator {
        name,
        program: program.map(Path::to_owned),
        arguments: arguments.iter().map(OsString::from).collect(),
    };
    let sockredir = Path::new(env!("CARGO_BIN_EXE_sockredir"));
    let mut all = vec![
        accelerator("plain TCP", None, &[]),
        accelerator("sockredir", Some(sockredir), &["--cgroup"]),
    ];
    all.extend(aya.map(|aya| accelerator("aya", Some(aya), &[])));
    all
}

impl Accelerator {
    pub fn is_plain(&self) -> bool {
        self.program.is_none()
    }

    /// Starts it for the cgroup of an arena, itself outside of it, and waits until it is ready.
    pub fn start(&self, arena: &Arena) -> Running {
        let start = Instant::now();
        let process = self.program.as_ref().map(|program| {
            let mut command = arena.host_command(program);
            command.args(&self.arguments).arg(arena.cgroup());
            let mut process = Process::start(command);
            process.wait_for_line("ready", 1, READY);
            process
        });
        Running {
            process,
            ready_after: start.elapsed(),
        }
    }
}

/// An accelerator at work. It is killed when it is dropped without a stop.
pub struct Running {
    process: Option<Process>,
    /// From its start to its line that begins with `ready`.
    pub ready_after: Duration,
}

impl Running {
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Ends it as a user does. How long that took.
    pub fn stop(self) -> Duration {
        let start = Instant::now();
        if let Some(mut process) = self.process {
            process.signal(libc::SIGINT);
            let status = process.wait(STOP);
            assert!(status.success(), "{status}: {}", process.transcript());
        }
        start.elapsed()
    }
}
