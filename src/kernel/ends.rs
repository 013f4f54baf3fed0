//! Reads the ends in the socket map, and how much the datapath holds.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use libbpf_rs::MapCore;
use plain::Plain;

use super::seen::state_of;
use super::{Datapath, read_records, types};
use crate::observe::model::{Fill, FlowsByState, Maps, Queues};

// SAFETY: the type consists of integers and of such types, without padding, so every pattern of bits is a value of it.
unsafe impl Plain for types::mapped {}

/// The key of an end in the socket map: `seq` and `ack` of `struct end_key`.
pub type EndKey = (u32, u32);

/// The ends in the socket map at one moment.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Ends {
    pub mapped: usize,
    /// Those with data that their program has not read yet, and how many bytes.
    pub unread: HashMap<EndKey, u32>,
    /// The numbers of the network namespaces in which they are.
    pub netns: HashSet<u32>,
    /// The flows of these ends.
    pub flows: FlowsByState,
}

impl Datapath<'_> {
    pub fn ends(&self) -> Result<Ends> {
        let map = self.skel.maps.sockredir_map.as_fd();
        let link = self
            .skel
            .progs
            .sockredir_ends
            .attach_iter(map)
            .context("failed to attach the map's iterator")?;
        let all: Vec<types::mapped> = read_records(&link).context("failed to read the socket map")?;
        let mut ends = Ends::default();
        let mut flows = HashSet::new();
        for mapped in all {
            let key = (mapped.end.seq, mapped.end.ack);
            ends.mapped += 1;
            ends.netns.insert(mapped.netns);
            if mapped.unread > 0 {
                ends.unread.insert(key, mapped.unread);
            }
            // The mate's key is the mirror image.
            if flows.insert((key.0.min(key.1), key.0.max(key.1))) {
                *ends.flows.of(state_of(mapped.state)) += 1;
            }
        }
        Ok(ends)
    }

    /// The flows that have a record.
    pub fn flows(&self) -> usize {
        self.skel.maps.sockredir_flow.keys().count()
    }

    pub fn maps(&self, ends: &Ends) -> Maps {
        let maps = &self.skel.maps;
        let fill = |used: usize, map: &dyn MapCore| Fill {
            used: used as u64,
            most: map.max_entries().into(),
        };
        Maps {
            ends: fill(ends.mapped, &maps.sockredir_map),
            flows: fill(self.flows(), &maps.sockredir_flow),
            services: fill(maps.sockredir_svc.keys().count(), &maps.sockredir_svc),
            listeners: fill(maps.sockredir_listen.keys().count(), &maps.sockredir_listen),
        }
    }
}

impl Ends {
    pub fn queues(&self) -> Queues {
        Queues {
            bytes: self.unread.values().map(|bytes| u64::from(*bytes)).sum(),
            ends: self.unread.len() as u64,
        }
    }
}
