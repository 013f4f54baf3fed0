//! From the embedded object to programs in the kernel: open, configure, load, attach to the socket map.

use std::os::fd::{AsFd, AsRawFd as _, RawFd};

use anyhow::{Context as _, Result};
use libbpf_rs::Link;
use libbpf_rs::btf::types::Enum;
use libbpf_rs::skel::{OpenSkel as _, Skel as _, SkelBuilder as _};

use super::skeleton::{OpenSockredirSkel, SockredirSkel, SockredirSkelBuilder};
use super::{Datapath, Options, SpliceWatch, Storage, tunables, types};
use crate::model::reasons::REASONS;

impl<'a> Datapath<'a> {
    /// Loads the programs and attaches them to the socket map. Nothing enters the map before [`Self::attach`].
    pub fn load(options: &Options, storage: &'a mut Storage) -> Result<Self> {
        let mut open = SockredirSkelBuilder::default()
            .open(storage)
            .context("failed to open the datapath's object")?;
        let splice_watch = SpliceWatch::choose()?;
        set_constants(&mut open, options, splice_watch)?;
        tunables::set(&mut open, &options.tunables)?;
        set_sizes(&mut open, options.max_flows)?;
        choose_programs(&mut open, splice_watch);
        let skel = open
            .load()
            .context("failed to load the datapath into the kernel")?;
        attach_to_map(&skel)?;
        let splices = watch_splices(&skel)?;
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
}

fn set_constants(
    open: &mut OpenSockredirSkel<'_>,
    options: &Options,
    splice_watch: SpliceWatch,
) -> Result<()> {
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
    // The system call numbers of 32-bit programs have no constants.
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
    rodata.call_sendfile = libc::SYS_sendfile as u32;
    rodata.splices_seen = splice_watch != SpliceWatch::Nothing;
    Ok(())
}

fn set_sizes(open: &mut OpenSockredirSkel<'_>, max_flows: u32) -> Result<()> {
    let maps = &mut open.maps;
    maps.sockredir_map
        .set_max_entries(max_flows * 2)
        .and_then(|()| maps.sockredir_flow.set_max_entries(max_flows))
        .and_then(|()| maps.sockredir_cand.set_max_entries(max_flows * 2))
        .context("failed to set the size of the datapath's maps")
}

/// Enables only those splice detectors that this kernel has a place for.
fn choose_programs(open: &mut OpenSockredirSkel<'_>, splice_watch: SpliceWatch) {
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
}

fn attach_to_map(skel: &SockredirSkel<'_>) -> Result<()> {
    let map = fd_of(&skel.maps.sockredir_map);
    for program in [&skel.progs.sockredir_msg, &skel.progs.sockredir_skb] {
        program.attach_sockmap(map).with_context(|| {
            format!(
                "failed to attach {} to the socket map",
                program.name().to_string_lossy()
            )
        })?;
    }
    Ok(())
}

fn watch_splices(skel: &SockredirSkel<'_>) -> Result<Vec<Link>> {
    let progs = &skel.progs;
    [
        &progs.sockredir_splice,
        &progs.sockredir_mmap,
        &progs.sockredir_read,
    ]
    .into_iter()
    .filter(|program| program.autoload())
    .map(|program| program.attach_trace())
    .collect::<libbpf_rs::Result<_>>()
    .context("failed to attach what sees programs that splice")
}

fn fd_of(map: &impl AsFd) -> RawFd {
    map.as_fd().as_raw_fd()
}

/// One without its sentences, or sentences without a counter, do not compile.
const _: () = assert!(types::counter::COUNTERS.0 as usize + 1 == REASONS.len());

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
