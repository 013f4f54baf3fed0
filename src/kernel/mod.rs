//! Owns libbpf and every `unsafe`: loads the datapath, attaches it, reads its counters, and takes it away again.

mod adopt;
mod connection;
mod decisions;
mod ends;
mod events;
mod namespaces;
mod programs;
mod requirements;
mod reset;
mod seen;
mod selftest;
mod sys;
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
use std::os::fd::{AsFd, AsRawFd as _, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use libbpf_rs::btf::types::Enum;
use libbpf_rs::query::ProgInfoIter;
use libbpf_rs::skel::{OpenSkel as _, Skel as _, SkelBuilder as _};
use libbpf_rs::{Iter, Link, MapCore as _, MapFlags, OpenObject, PrintLevel, ProgramType};
use nix::time::{ClockId, clock_gettime};
use plain::Plain;

use crate::checks::Finding;
use crate::counters::Counters;
use crate::ports::PortSet;
use skeleton::{SockredirSkel, SockredirSkelBuilder, types};

pub use adopt::Scan;
pub use decisions::Decision;
pub use ends::Ends;
pub use events::{Event, Events};
pub use namespaces::{ENTERING, Namespaces};
pub use programs::Images;
pub use requirements::{SpliceWatch, check as check_requirements, check_scans, tells_waiters};
pub use reset::{can_reset, send_resets};
pub use selftest::{SafetyCheck, SelfTest};
pub use sys::{libbpf_version, release, try_lock, unlock};
pub use tunables::Tunable;

/// What the datapath is loaded with.
#[derive(Debug)]
pub struct Options {
    pub admit_blocking: bool,
    /// Take connections that leave their network namespace, too.
    pub scope_host: bool,
    /// Only connections whose ends belong to one user.
    pub same_user: bool,
    /// Only connections whose ends are in one cgroup.
    pub same_cgroup: bool,
    /// Keep a record of each decision for [`Datapath::decisions`].
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
    pub ports: PortSet,
    pub exclude_ports: PortSet,
    /// Names of processes, of at most 15 bytes.
    pub exclude_programs: Vec<String>,
    pub trusted: Trusted,
}

/// The programs that need not show that they read by recv only.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trusted {
    All,
    /// Names as above.
    Named(Vec<String>),
}

impl Coverage {
    fn everything() -> Self {
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
pub fn message_programs() -> Vec<String> {
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
    /// Loads the programs and attaches them to the socket map. Nothing enters the map before [`Self::attach`].
    pub fn load(options: &Options, storage: &'a mut Storage) -> Result<Self, Finding> {
        Self::try_load(options, storage)
            .map_err(|error| Finding::new(format!("{error:#}"), requirements::load_remedy()))
    }

    fn try_load(options: &Options, storage: &'a mut Storage) -> Result<Self> {
        let mut open = SockredirSkelBuilder::default()
            .open(storage)
            .context("failed to open the datapath's object")?;
        let rodata = open
            .maps
            .rodata_data
            .as_deref_mut()
            .context("the datapath's object has no options")?;
        rodata.admit_any = options.admit_blocking;
        rodata.scope_host = options.scope_host;
        rodata.same_user = options.same_user;
        rodata.same_cgroup = options.same_cgroup;
        rodata.log_decisions = options.log_decisions;
        // Those of 32-bit programs have no constants.
        let [splice, getsockopt] = if cfg!(target_arch = "x86_64") {
            [313, 365]
        } else {
            [340, 295]
        };
        rodata.calls_around_recv = [
            libc::SYS_splice as u32,
            libc::SYS_getsockopt as u32,
            splice,
            getsockopt,
        ];
        let splice_watch = SpliceWatch::choose()?;
        rodata.splices_seen = splice_watch != SpliceWatch::Nothing;
        tunables::set(&mut open, &options.tunables)?;
        open.maps
            .sockredir_map
            .set_max_entries(options.max_flows * 2)
            .and_then(|()| open.maps.sockredir_flow.set_max_entries(options.max_flows))
            .and_then(|()| open.maps.sockredir_cand.set_max_entries(options.max_flows * 2))
            .context("failed to set the size of the datapath's maps")?;
        let programs = &mut open.progs;
        programs
            .sockredir_splice
            .set_autoload(splice_watch == SpliceWatch::Function);
        programs
            .sockredir_mmap
            .set_autoload(splice_watch == SpliceWatch::Function);
        programs
            .sockredir_read
            .set_autoload(splice_watch == SpliceWatch::Reads);
        let skel = open
            .load()
            .context("failed to load the datapath into the kernel")?;

        let map = fd_of(&skel.maps.sockredir_map);
        for program in [&skel.progs.sockredir_msg, &skel.progs.sockredir_skb] {
            program.attach_sockmap(map).with_context(|| {
                format!(
                    "failed to attach {} to the socket map",
                    program.name().to_string_lossy()
                )
            })?;
        }
        let progs = &skel.progs;
        let splices = [
            &progs.sockredir_splice,
            &progs.sockredir_mmap,
            &progs.sockredir_read,
        ]
        .into_iter()
        .filter(|program| program.autoload())
        .map(|program| program.attach_trace())
        .collect::<libbpf_rs::Result<_>>()
        .context("failed to attach what sees programs that splice")?;
        let counter_names = counter_names(&skel)?;
        Ok(Self {
            cgroup: Vec::new(),
            _splices: splices,
            splice_watch,
            skel,
            counter_names,
            tested: None,
        })
    }

    /// How programs that splice are seen.
    pub fn splice_watch(&self) -> SpliceWatch {
        self.splice_watch
    }

    /// From now on connections of the cgroups' programs are accelerated.
    pub fn attach(&mut self, cgroups: &[RawFd], coverage: &Coverage) -> Result<()> {
        self.attach_programs(cgroups, coverage)?;
        self.scan_listeners()
    }

    /// Looks for the programs that listen already, in all network namespaces.
    pub fn scan_listeners(&self) -> Result<()> {
        let link = self
            .skel
            .progs
            .sockredir_listeners
            .attach_trace()
            .context("failed to attach the iterator over listening sockets")?;
        read_all(&link).context("failed to look for the programs that listen")?;
        Ok(())
    }

    /// The guard of socket options comes first, so that no connection is without it.
    fn attach_programs(&mut self, cgroups: &[RawFd], coverage: &Coverage) -> Result<()> {
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

    fn detach(&mut self) {
        self.cgroup.clear();
    }

    /// Another instance takes what is new, or does not after all. What is followed goes on as before.
    pub fn hand_over(&mut self, over: bool) {
        if let Some(bss) = self.skel.maps.bss_data.as_deref_mut() {
            bss.handed_over = over.into();
        }
    }

    /// Nothing is inserted, admitted or redirected any more. Flows go on through TCP, in order.
    pub fn stop_redirects(&mut self) {
        if let Some(bss) = self.skel.maps.bss_data.as_deref_mut() {
            bss.stopping = 1;
        }
    }

    /// Lets every idle end of this network namespace and of others drain, or leave the map if it has drained.
    pub fn release_idle(&self, ends: &Ends, elsewhere: &Namespaces) -> Result<()> {
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

fn fd_of(map: &impl AsFd) -> RawFd {
    map.as_fd().as_raw_fd()
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

/// The names of `enum counter`, in order, from the object's own type information.
fn counter_names(skel: &SockredirSkel<'_>) -> Result<Vec<String>> {
    let btf = skel
        .object()
        .btf()?
        .context("the datapath's object has no type information")?;
    let counters: Enum<'_> = btf
        .type_by_name("counter")
        .context("the datapath's object has no counters")?;
    let names = counters.iter().filter_map(|member| {
        member
            .name?
            .to_str()?
            .strip_prefix("COUNTER_")
            .map(str::to_lowercase)
    });
    Ok(names.collect())
}
