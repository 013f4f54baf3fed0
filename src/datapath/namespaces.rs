//! The host's network namespaces: an iterator over TCP sockets sees only the one of the thread that reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use libbpf_rs::Link;
use nix::sched::{CloneFlags, setns};
use nix::time::ClockId;

use super::{clock, read_all};

/// The privileges for entering a namespace, in words.
pub const ENTERING: &str = "CAP_SYS_ADMIN and CAP_SYS_PTRACE";

/// Network namespaces that have processes or are mounted, by inode, as far as this process can see them.
#[derive(Debug)]
pub struct Namespaces {
    own: Option<u32>,
    others: BTreeMap<u32, File>,
    /// There may be others.
    is_hidden: bool,
}

/// The result of reading an iterator in some of them.
#[derive(Default)]
pub(super) struct Visit {
    /// Namespaces that could not be entered.
    pub shut: Vec<u32>,
    /// CPU time.
    pub took: Duration,
}

impl Namespaces {
    pub fn look() -> Self {
        let own = Self::own_number();
        let mut others = BTreeMap::new();
        let mut is_hidden = number_of("1").is_err();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = process.file_name();
            let Some(pid) = name.to_str().filter(|name| name.parse::<u32>().is_ok()) else {
                continue;
            };
            match number_of(pid) {
                Ok(number) if Some(number) != own && !others.contains_key(&number) => {
                    others.extend(open(pid));
                }
                // Other errors come from processes that have gone.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => is_hidden = true,
                _ => {}
            }
        }
        // Those kept by `ip netns` and container runtimes may have no process.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for (number, namespace) in mounts.lines().filter_map(mounted) {
            if Some(number) != own {
                others.entry(number).or_insert(namespace);
            }
        }
        Self {
            own,
            others,
            is_hidden,
        }
    }

    /// The inode of this process's network namespace.
    pub(super) fn own_number() -> Option<u32> {
        number_of("self").ok()
    }

    /// There is none but that of this process.
    pub(super) fn is_only(&self) -> bool {
        self.others.is_empty() && !self.is_hidden
    }

    /// Reads an iterator to its end, for its side effects, in each of these except that of this process.
    pub(super) fn visit(&self, link: &Link, numbers: impl IntoIterator<Item = u32>) -> Result<Visit> {
        let numbers: BTreeSet<u32> = numbers
            .into_iter()
            .filter(|number| Some(*number) != self.own)
            .collect();
        if numbers.is_empty() {
            return Ok(Visit::default());
        }
        // The thread exits in the last of them, so that nothing else ever runs there.
        thread::scope(|scope| {
            let visitor = thread::Builder::new()
                .spawn_scoped(scope, || self.visit_here(link, numbers))
                .context("failed to begin a thread for other network namespaces")?;
            let visited = visitor.join();
            visited.map_err(|_| anyhow!("the thread in other network namespaces panicked"))?
        })
    }

    /// Moves this thread into one of them; false if that fails.
    fn enter(&self, number: u32) -> bool {
        let namespace = self.others.get(&number);
        namespace.is_some_and(|namespace| setns(namespace, CloneFlags::CLONE_NEWNET).is_ok())
    }

    /// Runs something in one of them, or in that of this process; `None` if it cannot be entered.
    pub(super) fn inside<T: Send>(&self, number: u32, work: impl FnOnce() -> T + Send) -> Option<T> {
        if Some(number) == self.own {
            return Some(work());
        }
        if !self.others.contains_key(&number) {
            return None;
        }
        // The thread exits there, so that nothing else ever runs there.
        thread::scope(|scope| {
            let visitor = thread::Builder::new().spawn_scoped(scope, || self.enter(number).then(work));
            visitor.ok()?.join().ok()?
        })
    }

    fn visit_here(&self, link: &Link, numbers: BTreeSet<u32>) -> Result<Visit> {
        let mut shut = Vec::new();
        for number in numbers {
            if self.enter(number) {
                read_all(link)?;
            } else {
                shut.push(number);
            }
        }
        let took = clock(ClockId::CLOCK_THREAD_CPUTIME_ID);
        Ok(Visit { shut, took })
    }
}

fn number_of(process: &str) -> io::Result<u32> {
    let namespace = fs::metadata(format!("/proc/{process}/ns/net"))?;
    Ok(number(&namespace))
}

/// The network namespace of a process, unless it has gone.
fn open(process: &str) -> Option<(u32, File)> {
    let namespace = File::open(format!("/proc/{process}/ns/net")).ok()?;
    let metadata = namespace.metadata().ok()?;
    Some((number(&metadata), namespace))
}

/// A mounted network namespace, from a line of /proc/PID/mountinfo.
fn mounted(line: &str) -> Option<(u32, File)> {
    let place = place_of(line)?;
    let namespace = File::open(place).ok()?;
    let metadata = namespace.metadata().ok()?;
    Some((number(&metadata), namespace))
}

fn place_of(line: &str) -> Option<&str> {
    let mut words = line.split(' ').skip(3);
    words.next()?.strip_prefix("net:[")?;
    words.next()
}

/// The kernel uses 32 bits for it.
fn number(namespace: &Metadata) -> u32 {
    namespace.ino() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_namespace_is_found_where_it_is_mounted() {
        let line = |root| format!("67 45 0:4 {root} /run/netns/a rw - nsfs nsfs rw");
        assert_eq!(place_of(&line("net:[4026532246]")), Some("/run/netns/a"));
        assert_eq!(place_of(&line("mnt:[4026532246]")), None);
    }

    #[test]
    fn the_own_namespace_is_not_among_the_others() {
        let namespaces = Namespaces::look();
        let own = open("self").map(|(number, _)| number);
        assert_eq!(namespaces.own, own);
        assert!(!namespaces.others.contains_key(&own.unwrap()));
    }
}
