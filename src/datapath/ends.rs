//! Reads the queues of the ends in the socket map, and how full the datapath's maps are.

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};
use libbpf_rs::{MapCore, ProgramInput};
use plain::Plain;

use super::{Datapath, empty, record, types};
use crate::model::document::{Fill, FlowsByState, Maps, Queues};

// SAFETY: the type consists of integers, without padding, so every bit pattern is valid.
unsafe impl Plain for types::tally {}

/// The ends in the socket map at one moment.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Ends {
    pub mapped: usize,
    /// What their programs have not read yet.
    pub queues: Queues,
    /// The inodes of the ends' network namespaces.
    pub netns: HashSet<u32>,
    /// The flows of these ends.
    pub flows: FlowsByState,
}

impl Datapath<'_> {
    pub(crate) fn ends(&self) -> Result<Ends> {
        let homes = &self.skel.maps.sockredir_home;
        empty(homes).context("failed to forget the network namespaces of ends")?;
        let mut context = [0; size_of::<types::tally>()];
        let input = ProgramInput {
            context_in: Some(&mut context),
            ..ProgramInput::default()
        };
        let output = self.skel.progs.sockredir_tally.test_run(input);
        let status = output
            .context("failed to look at the ends in the socket map")?
            .return_value;
        ensure!(
            status == 0,
            "failed to look at the ends in the socket map: {status}"
        );
        let tally: types::tally = record(&context).unwrap_or_default();
        let mut netns = HashSet::new();
        for number in homes.keys() {
            netns.extend(number.try_into().map(u32::from_ne_bytes));
        }
        let [observed, admitted, draining, tcp_only] = tally.flows.map(u64::from);
        Ok(Ends {
            mapped: tally.ends as usize,
            queues: Queues {
                bytes: tally.unread_bytes,
                ends: tally.unread_ends.into(),
            },
            netns,
            flows: FlowsByState {
                observed,
                admitted,
                draining,
                tcp_only,
            },
        })
    }

    /// The flows that have a record.
    pub(crate) fn flows(&self) -> usize {
        self.skel.maps.sockredir_flow.keys().count()
    }

    pub(crate) fn maps(&self, ends: &Ends) -> Maps {
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
            programs: fill(maps.sockredir_prog.keys().count(), &maps.sockredir_prog),
        }
    }
}
