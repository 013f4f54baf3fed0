//! The network namespaces of this host: an iterator over TCP sockets sees the one of the thread that reads it.

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

/// What entering a namespace takes, in words.
pub const ENTERING: &str = "CAP_SYS_ADMIN and CAP_SYS_PTRACE";

/// The network namespaces in which there are processes, by their numbers, as far as this process may know.
#[derive(Debug)]
pub struct Namespaces {
    own: Option<u32>,
    others: BTreeMap<u32, File>,
    /// There may be others.
    is_hidden: bool,
}

/// An iterator that was read in some of them.
#[derive(Default)]
pub(super) struct Visit {
    /// Those that could not be entered.
    pub shut: Vec<u32>,
    /// Of one processor.
    pub took: Duration,
}

impl Namespaces {
    pub fn look() -> Self {
        let own = number_of("self").ok();
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
                // Others are of processes that have gone.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => is_hidden = true,
                _ => {}
            }
        }
        Self {
            own,
            others,
            is_hidden,
        }
    }

    /// There are no others than that of this process.
    pub(super) fn is_only(&self) -> bool {
        self.others.is_empty() && !self.is_hidden
    }

    /// Reads an iterator to its end in each of these but that of this process, with what it does on its way.
    pub(super) fn visit(&self, link: &Link, numbers: impl IntoIterator<Item = u32>) -> Result<Visit> {
        let numbers: BTreeSet<u32> = numbers
            .into_iter()
            .filter(|number| Some(*number) != self.own)
            .collect();
        if numbers.is_empty() {
            return Ok(Visit::default());
        }
        // The thread ends in the last of them, so that nothing else is ever done there.
        thread::scope(|scope| {
            let visitor = thread::Builder::new()
                .spawn_scoped(scope, || self.visit_here(link, numbers))
                .context("failed to begin a thread for other network namespaces")?;
            let visited = visitor.join();
            visited.map_err(|_| anyhow!("the thread in other network namespaces panicked"))?
        })
    }

    fn visit_here(&self, link: &Link, numbers: BTreeSet<u32>) -> Result<Visit> {
        let mut shut = Vec::new();
        for number in numbers {
            match self.others.get(&number) {
                Some(namespace) if setns(namespace, CloneFlags::CLONE_NEWNET).is_ok() => {
                    read_all(link)?;
                }
                _ => shut.push(number),
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

/// The kernel has 32 bits for it.
fn number(namespace: &Metadata) -> u32 {
    namespace.ino() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_not_among_the_others() {
        let namespaces = Namespaces::look();
        let own = open("self").map(|(number, _)| number);
        assert_eq!(namespaces.own, own);
        assert!(!namespaces.others.contains_key(&own.unwrap()));
    }
}
