//! Owns libbpf and every `unsafe`: loads the datapath, attaches it, reads what it knows, and takes it away again.
//!
//! In this order: [`Datapath::load`] opens the object, sets its constants, loads it into the kernel and attaches it to the socket
//! map. [`Datapath::attach`] lets the connections of cgroups in. Then it is read: counters, ends, sockets, decisions, events. To
//! stop it, redirects are stopped, idle ends released, and what is left goes when the value is dropped.

#![warn(missing_docs)]

pub mod cgroup;
mod decisions;
mod ends;
mod events;
mod kernel_types;
mod load;
mod namespaces;
mod programs;
mod reset;
mod scan;
mod sockets;
mod splice_watch;
pub(crate) mod sys;
mod tunables;

/// What libbpf-cargo makes of `src/bpf/sockredir.bpf.c`.
#[allow(clippy::all, dead_code, reason = "generated")]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/sockredir.skel.rs"));
}

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use libbpf_rs::query::ProgInfoIter;
use libbpf_rs::{Iter, Link, MapCore as _, MapFlags, MapMut, OpenObject, PrintLevel, ProgramType};
use nix::time::{ClockId, clock_gettime};
use plain::Plain;

use crate::model::counters::Counters;
use crate::model::ports::PortSet;
use skeleton::{SockredirSkel, types};

pub(crate) use decisions::Decision;
pub(crate) use ends::Ends;
pub(crate) use events::{Event, Events};
pub(crate) use kernel_types::KernelTypes;
pub(crate) use namespaces::{ENTERING, Namespaces};
pub(crate) use programs::Images;
pub(crate) use reset::{can_reset, send_resets};
pub(crate) use scan::Scan;
pub(crate) use splice_watch::SpliceWatch;
pub use sys::{libbpf_version, release};
pub use tunables::Tunable;

/// Entries of a map that are deleted at a time.
const BATCH: u32 = 4096;

/// What the datapath is loaded with.
#[derive(Debug)]
pub struct Options {
    /// Take connections of programs with blocking sockets, too.
    pub admit_blocking: bool,
    /// Take connections that leave their network namespace, too.
    pub scope_host: bool,
    /// Only connections whose ends belong to one user.
    pub same_user: bool,
    /// Only connections whose ends are in one cgroup.
    pub same_cgroup: bool,
    /// Keep a record of each decision, to be read and logged.
    pub log_decisions: bool,
    /// The most flows to follow at a time.
    pub max_flows: u32,
    /// Values that differ from those of the source.
    pub tunables: Vec<Tunable>,
}

/// Which connections of a cgroup are followed: those with one of the ports, none of the excluded ones, and no excluded
/// program.
#[derive(Debug)]
pub struct Coverage {
    /// One of these at either end.
    pub ports: PortSet,
    /// None of these at either end.
    pub exclude_ports: PortSet,
    /// Names of processes, of at most 15 bytes.
    pub exclude_programs: Vec<String>,
    /// Those that are not watched first.
    pub trusted: Trusted,
}

/// The programs that need not show that they read by recv only.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trusted {
    /// Every program.
    All,
    /// Names as above.
    Named(Vec<String>),
}

impl Coverage {
    /// All connections of all programs.
    pub(crate) fn everything() -> Self {
        Self {
            ports: PortSet::all(),
            exclude_ports: PortSet::none(),
            exclude_programs: Vec::new(),
            trusted: Trusted::All,
        }
    }
}

impl Trusted {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|each| each == name),
        }
    }
}

/// Where the loaded object lives.
pub type Storage = MaybeUninit<OpenObject>;

/// The loaded datapath. Dropping it detaches it from the cgroup first, so that no socket enters a map without programs.
pub struct Datapath<'a> {
    /// The attachments to the cgroups, in the order of their removal.
    cgroup: Vec<Link>,
    /// What sees the programs that splice.
    _splices: Vec<Link>,
    splice_watch: SpliceWatch,
    skel: SockredirSkel<'a>,
    counter_names: Vec<String>,
    /// What the self-test has counted.
    tested: Option<Counters>,
}

/// Sends libbpf's own output to standard error, or nowhere.
pub fn set_verbose(verbose: bool) {
    libbpf_rs::set_print(verbose.then_some((PrintLevel::Debug, |_, text| eprint!("{text}"))));
}

/// The message programs that are in the kernel, by name. Others than root see none.
pub(crate) fn message_programs() -> Vec<String> {
    let programs = ProgInfoIter::default().filter(|program| program.ty == ProgramType::SkMsg);
    let names = programs.map(|program| program.name.to_string_lossy().into_owned());
    let distinct: BTreeSet<_> = names.collect();
    distinct.into_iter().collect()
}

/// The names of the programs that see the TCP connections of a cgroup, whether attached to it or above it.
pub fn programs_over(cgroup: RawFd) -> Result<Vec<String>> {
    let ids = sys::effective_programs(cgroup).context("failed to ask which programs a cgroup has")?;
    let programs = ProgInfoIter::default().filter(|program| ids.contains(&program.id));
    Ok(programs
        .map(|program| program.name.to_string_lossy().into_owned())
        .collect())
}

impl<'a> Datapath<'a> {
    /// How programs that splice are seen.
    pub(crate) fn splice_watch(&self) -> SpliceWatch {
        self.splice_watch
    }

    /// From now on connections of the cgroups' programs are accelerated.
    pub fn attach(&mut self, cgroups: &[RawFd], coverage: &Coverage) -> Result<()> {
        self.attach_programs(cgroups, coverage)?;
        self.scan_listeners()
    }

    /// Looks for the programs that listen already, in all network namespaces.
    pub(crate) fn scan_listeners(&self) -> Result<()> {
        let link = self
            .skel
            .progs
            .sockredir_listeners
            .attach_trace()
            .context("failed to attach the iterator over listening sockets")?;
        read_all(&link).context("failed to look for the programs that listen")?;
        Ok(())
    }

    /// The same, for new connections only. The guard of socket options comes first, so that no connection is without it.
    pub(crate) fn attach_programs(&mut self, cgroups: &[RawFd], coverage: &Coverage) -> Result<()> {
        self.cover(cgroups, coverage)?;
        let programs = &self.skel.progs;
        for program in [&programs.sockredir_option, &programs.sockredir_ops] {
            for cgroup in cgroups {
                self.cgroup.insert(0, program.attach_cgroup(*cgroup)?);
            }
        }
        Ok(())
    }

    fn cover(&mut self, cgroups: &[RawFd], coverage: &Coverage) -> Result<()> {
        let numbers = &self.skel.maps.sockredir_cgrp;
        for earlier in numbers.keys() {
            numbers
                .delete(&earlier)
                .context("failed to forget the cgroup of the self-test")?;
        }
        for cgroup in cgroups {
            // The number of a cgroup is that of its folder.
            let folder =
                fs::metadata(format!("/proc/self/fd/{cgroup}")).context("failed to number the cgroup")?;
            numbers
                .update(&folder.ino().to_ne_bytes(), &[1], MapFlags::ANY)
                .context("failed to cover that many cgroups")?;
        }
        let bss = self
            .skel
            .maps
            .bss_data
            .as_deref_mut()
            .context("the datapath's object has no variables")?;
        bss.ports_included = *coverage.ports.words();
        bss.ports_excluded = *coverage.exclude_ports.words();
        self.listen_to(coverage)
    }

    /// From now on no connection is accelerated that is not yet.
    pub(crate) fn detach(&mut self) {
        self.cgroup.clear();
    }

    /// Detaches what the self-test has attached, and takes nothing of it for the user's: neither what was counted, nor that
    /// this program may have spliced.
    pub(crate) fn end_test(&mut self, splice_works: bool) {
        if splice_works {
            self.splice_watch = SpliceWatch::Works;
        }
        self.detach();
        // What cannot be forgotten keeps it off only.
        let _ = empty(&self.skel.maps.sockredir_prog);
        self.tested = self.counters().ok();
    }

    /// Another instance takes what is new, or does not after all. What is followed goes on as before.
    pub(crate) fn hand_over(&mut self, over: bool) {
        if let Some(bss) = self.skel.maps.bss_data.as_deref_mut() {
            bss.handed_over = over.into();
        }
    }

    /// Nothing is inserted, admitted or redirected any more. Flows go on through TCP, in order.
    pub(crate) fn stop_redirects(&mut self) {
        if let Some(bss) = self.skel.maps.bss_data.as_deref_mut() {
            bss.stopping = 1;
        }
    }

    /// Lets every idle end of this network namespace and of others drain, or leave the map if it has drained.
    pub(crate) fn release_idle(&self, ends: &Ends, elsewhere: &Namespaces) -> Result<()> {
        let link = self
            .skel
            .progs
            .sockredir_stop
            .attach_trace()
            .context("failed to attach the drain's iterator")?;
        read_all(&link).context("failed to run the drain's iterator")?;
        // What it cannot enter it leaves as it is.
        elsewhere
            .visit(&link, ends.netns.iter().copied())
            .context("failed to run the drain's iterator elsewhere")?;
        Ok(())
    }

    /// What was counted since the self-test.
    pub fn counters(&self) -> Result<Counters> {
        let map = &self.skel.maps.sockredir_count;
        let mut values = Vec::with_capacity(self.counter_names.len());
        for index in 0..self.counter_names.len() as u32 {
            let cpus = map
                .lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY)
                .context("failed to read the counters")?
                .context("the counters' map is too small")?;
            let value = |cpu: &Vec<u8>| {
                cpu.as_slice()
                    .try_into()
                    .map(u64::from_ne_bytes)
                    .unwrap_or_default()
            };
            values.push(cpus.iter().map(value).sum());
        }
        let counters = Counters::new(&self.counter_names, values);
        Ok(match &self.tested {
            Some(tested) => counters.since(tested),
            None => counters,
        })
    }
}

impl Drop for Datapath<'_> {
    fn drop(&mut self) {
        self.detach();
    }
}

/// None of the clocks that are asked for is ever missing.
fn clock(clock: ClockId) -> Duration {
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

fn empty(map: &MapMut<'_>) -> Result<()> {
    map.lookup_and_delete_batch(BATCH, MapFlags::ANY, MapFlags::ANY)?
        .for_each(drop);
    Ok(())
}

/// Everything an iterator writes.
fn read_all(link: &Link) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Iter::new(link)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Everything an iterator writes, which is one record after the other.
fn read_records<T: Plain + Default>(link: &Link) -> Result<Vec<T>> {
    let bytes = read_all(link)?;
    Ok(bytes.chunks_exact(size_of::<T>()).filter_map(record).collect())
}

/// What the kernel side has written as this type; none if that is shorter.
fn record<T: Plain + Default>(bytes: &[u8]) -> Option<T> {
    let mut record = T::default();
    plain::copy_from_bytes(&mut record, bytes).ok().map(|()| record)
}
