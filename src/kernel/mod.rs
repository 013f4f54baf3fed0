//! Owns libbpf and every `unsafe`: loads the datapath, attaches it, reads its counters, and takes it away again.

mod probe;
mod requirements;
mod sys;

/// What libbpf-cargo makes of `src/bpf/sockredir.bpf.c`.
#[allow(clippy::all, dead_code, reason = "generated")]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/sockredir.skel.rs"));
}

use std::io::Read as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, RawFd};

use anyhow::{Context as _, Result};
use libbpf_rs::btf::types::Enum;
use libbpf_rs::skel::{OpenSkel as _, Skel as _, SkelBuilder as _};
use libbpf_rs::{Iter, Link, MapCore as _, MapFlags, OpenObject, PrintLevel};

use crate::counters::Counters;
use crate::ports::PortSet;
use skeleton::{SockredirSkel, SockredirSkelBuilder};

pub use requirements::check as check_requirements;
pub use sys::{libbpf_version, try_lock};

/// What the user decides about the datapath.
#[derive(Debug)]
pub struct Options {
    pub admit_blocking: bool,
    pub ports: PortSet,
    pub exclude_ports: PortSet,
    /// The most flows to follow at a time.
    pub max_flows: u32,
}

/// The ends in the socket map at one moment.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Ends {
    pub mapped: usize,
    /// Of these, with data that their program has not read yet.
    pub unread: usize,
}

/// The loaded datapath. Dropping it detaches it from the cgroup first, so that no socket enters a map without programs.
pub struct Datapath<'a> {
    cgroup: Option<Link>,
    skel: SockredirSkel<'a>,
    counter_names: Vec<String>,
}

/// Sends libbpf's own output to standard error, or nowhere.
pub fn set_verbose(verbose: bool) {
    libbpf_rs::set_print(verbose.then_some((PrintLevel::Debug, |_, text| eprint!("{text}"))));
}

impl<'a> Datapath<'a> {
    /// Loads the programs and attaches them to the socket map. Nothing enters the map before [`Self::attach`].
    pub fn load(options: &Options, storage: &'a mut MaybeUninit<OpenObject>) -> Result<Self> {
        let mut open = SockredirSkelBuilder::default()
            .open(storage)
            .context("failed to open the datapath's object")?;
        let rodata = open
            .maps
            .rodata_data
            .as_deref_mut()
            .context("the datapath's object has no options")?;
        rodata.admit_any = options.admit_blocking;
        rodata.ports_included = *options.ports.words();
        rodata.ports_excluded = *options.exclude_ports.words();
        open.maps
            .sockredir_map
            .set_max_entries(options.max_flows * 2)
            .and_then(|()| open.maps.sockredir_flow.set_max_entries(options.max_flows))
            .context("failed to set the size of the datapath's maps")?;
        let skel = open
            .load()
            .context("failed to load the datapath into the kernel (-v shows libbpf's account)")?;

        let map = fd_of(&skel.maps.sockredir_map);
        for program in [&skel.progs.sockredir_msg, &skel.progs.sockredir_skb] {
            program.attach_sockmap(map).with_context(|| {
                format!(
                    "failed to attach {} to the socket map",
                    program.name().to_string_lossy()
                )
            })?;
        }
        let counter_names = counter_names(&skel)?;
        Ok(Self {
            cgroup: None,
            skel,
            counter_names,
        })
    }

    /// From now on connections of the cgroup's programs are accelerated.
    pub fn attach(&mut self, cgroup: RawFd) -> Result<()> {
        self.cgroup = Some(self.skel.progs.sockredir_ops.attach_cgroup(cgroup)?);
        Ok(())
    }

    /// Nothing is inserted, admitted or redirected any more. Flows go on through TCP, in order.
    pub fn stop_redirects(&mut self) {
        if let Some(bss) = self.skel.maps.bss_data.as_deref_mut() {
            bss.stopping = 1;
        }
    }

    /// Lets every idle end of this network namespace drain, or leave the map if it has drained.
    pub fn release_idle(&self) -> Result<()> {
        let link = self
            .skel
            .progs
            .sockredir_stop
            .attach_trace()
            .context("failed to attach the drain's iterator")?;
        read_all(&link).context("failed to run the drain's iterator")?;
        Ok(())
    }

    pub fn ends(&self) -> Result<Ends> {
        let map = self.skel.maps.sockredir_map.as_fd();
        let link = self
            .skel
            .progs
            .sockredir_ends
            .attach_iter(map)
            .context("failed to attach the map's iterator")?;
        let bytes = read_all(&link).context("failed to read the socket map")?;
        let unread = bytes.chunks_exact(size_of::<u32>());
        Ok(Ends {
            mapped: unread.len(),
            unread: unread.filter(|bytes| bytes.iter().any(|byte| *byte != 0)).count(),
        })
    }

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
        Ok(Counters::new(&self.counter_names, values))
    }
}

impl Drop for Datapath<'_> {
    fn drop(&mut self) {
        self.cgroup.take();
    }
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
