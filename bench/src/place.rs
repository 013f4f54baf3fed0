//! Where the benchmark's processes run: cgroups, network namespaces and processors, the first two removed on drop.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, setns, unshare};
use nix::unistd::Pid;
use serde::Serialize;

/// How long a cgroup may stay busy after its processes were killed.
const REMOVAL: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(5);

/// Two sibling cgroups with nothing else in them.
pub struct CgroupPair {
    root: PathBuf,
}

impl CgroupPair {
    pub fn below(parent: &Path) -> Result<Self> {
        let cgroups = Self {
            root: parent.join(format!("sockredir-bench-{}", process::id())),
        };
        // Left by a killed benchmark with the same PID.
        for path in cgroups.inner_first() {
            let _ = fs::remove_dir(path);
        }
        for path in cgroups.inner_first().into_iter().rev() {
            fs::create_dir(&path).with_context(|| {
                format!(
                    "failed to make the cgroup {} (run as root where cgroup2 can be written, or name another with --cgroup)",
                    path.display()
                )
            })?;
        }
        Ok(cgroups)
    }

    fn inner_first(&self) -> [PathBuf; 3] {
        [self.plain(), self.accelerated(), self.root.clone()]
    }

    pub fn plain(&self) -> PathBuf {
        self.root.join("plain")
    }

    pub fn accelerated(&self) -> PathBuf {
        self.root.join("accelerated")
    }
}

impl Drop for CgroupPair {
    fn drop(&mut self) {
        // It holds only processes of the benchmark.
        let _ = fs::write(self.root.join("cgroup.kill"), "1");
        let deadline = Instant::now() + REMOVAL;
        for path in self.inner_first() {
            while path.is_dir() && fs::remove_dir(&path).is_err() {
                if Instant::now() > deadline {
                    eprintln!("sockredir-bench: failed to remove the cgroup {}", path.display());
                    return;
                }
                thread::sleep(STEP);
            }
        }
    }
}

/// Two network namespaces joined by a veth pair. They last as long as the value and the processes in them.
pub struct NamespacePair {
    local: File,
    remote: File,
}

impl NamespacePair {
    /// Documentation addresses (RFC 5737), which nobody routes.
    pub const LOCAL: &str = "192.0.2.1";
    pub const REMOTE: &str = "192.0.2.2";

    pub fn new() -> Result<Self> {
        let remote = in_thread(make_namespace)?;
        let local = in_thread(|| {
            let local = make_namespace()?;
            let peer = path_of(&remote);
            let peer = peer.to_string_lossy();
            ip(&[
                "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", &peer,
            ])?;
            bring_up(Self::LOCAL)?;
            Ok(local)
        })?;
        in_thread(|| {
            setns(&remote, CloneFlags::CLONE_NEWNET)?;
            bring_up(Self::REMOTE)
        })?;
        Ok(Self { local, remote })
    }

    pub fn local(&self) -> PathBuf {
        path_of(&self.local)
    }

    pub fn remote(&self) -> PathBuf {
        path_of(&self.remote)
    }
}

/// A path by which other processes can open this one's file.
fn path_of(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd()).into()
}

/// Runs something that changes its thread's network namespace.
fn in_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let result = scope.spawn(work).join();
        result.map_err(|_| anyhow!("the thread in the network namespace panicked"))?
    })
}

fn make_namespace() -> Result<File> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    ip(&["link", "set", "lo", "up"])?;
    Ok(File::open("/proc/thread-self/ns/net")?)
}

fn bring_up(address: &str) -> Result<()> {
    ip(&["address", "add", &format!("{address}/24"), "dev", "veth0"])?;
    ip(&["link", "set", "veth0", "up"])
}

/// Runs `ip` in this thread's network namespace.
fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("failed to run `ip`, of iproute2")?;
    ensure!(
        output.status.success(),
        "`ip {}` failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The processors of client and server.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Processors {
    pub client: usize,
    /// The client's if there is only one.
    pub server: usize,
    /// They are two threads of one core.
    pub are_siblings: bool,
}

impl Processors {
    /// This process's first processor, and the next one, on another core if possible.
    pub fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("failed to ask for the processors")?;
        let numbers = (0..CpuSet::count()).filter(|number| allowed.is_set(*number).unwrap_or(false));
        let numbers: Vec<_> = numbers.collect();
        let Some((&client, others)) = numbers.split_first() else {
            bail!("this process may use no processor");
        };
        let siblings = siblings_of(client);
        let other_core = others.iter().find(|number| !siblings.contains(number));
        let server = other_core.or(others.first()).copied().unwrap_or(client);
        Ok(Self {
            client,
            server,
            are_siblings: server != client && siblings.contains(&server),
        })
    }

    pub fn are_two(&self) -> bool {
        self.client != self.server
    }
}

/// The processors that share a core with this one, as `0,4` or `0-1`; empty if the kernel does not say.
fn siblings_of(number: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list");
    let text = fs::read_to_string(path).unwrap_or_default();
    parse_list(text.trim())
}

fn parse_list(text: &str) -> Vec<usize> {
    let ranges = text.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(parse_list("0"), [0]);
        assert_eq!(parse_list("0,4"), [0, 4]);
        assert_eq!(parse_list("0-2,8"), [0, 1, 2, 8]);
        assert!(parse_list("").is_empty());
    }
}
