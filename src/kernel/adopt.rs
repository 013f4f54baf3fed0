//! Scans the TCP sockets of this network namespace for established connections, and has the datapath adopt them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use libbpf_rs::{MapCore as _, MapFlags};
use nix::time::{ClockId, clock_gettime};

use super::skeleton::types;
use super::{Datapath, read_all};

/// Candidates that are deleted at a time.
const BATCH: u32 = 4096;

/// What one scan has found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Scan {
    /// Ends that it has seen for the first time: a later scan may adopt them.
    pub noted: u32,
    /// Connections with one end in the socket map, whose other end a scan that follows soon may put there.
    pub halves: u32,
    /// Connections whose second end it has put into the socket map.
    pub adopted: u32,
    /// How long until the first of the ends that wait to come back may.
    pub due: Option<Duration>,
    /// Of one processor.
    pub took: Duration,
}

impl Datapath<'_> {
    /// Has established connections adopted that an earlier scan has noted, and notes further ones.
    pub fn scan(&mut self) -> Result<Scan> {
        let begin = clock(ClockId::CLOCK_THREAD_CPUTIME_ID);
        let bss = self.adoption()?;
        bss.adopt_scan += 1;
        (bss.adopt_noted, bss.adopt_halves) = (0, 0);
        (bss.adopt_joined, bss.adopt_due) = (0, 0);
        let link = self
            .skel
            .progs
            .sockredir_adopt
            .attach_trace()
            .context("failed to attach the iterator over connections")?;
        read_all(&link).context("failed to scan the connections")?;
        let bss = self.adoption()?;
        let (noted, halves) = (bss.adopt_noted, bss.adopt_halves);
        let (adopted, due) = (bss.adopt_joined, bss.adopt_due);
        if noted > 0 {
            // Those of programs that are kept off are no candidates.
            self.scan_listeners()?;
        }
        Ok(Scan {
            noted,
            halves,
            adopted,
            // The clock of the datapath's times.
            due: (due > 0).then(|| Duration::from_nanos(due).saturating_sub(clock(ClockId::CLOCK_MONOTONIC))),
            took: clock(ClockId::CLOCK_THREAD_CPUTIME_ID).saturating_sub(begin),
        })
    }

    /// Scans begin anew after a while.
    pub fn forget_candidates(&self) -> Result<()> {
        let map = &self.skel.maps.sockredir_cand;
        map.lookup_and_delete_batch(BATCH, MapFlags::ANY, MapFlags::ANY)
            .context("failed to delete the candidates for adoption")?
            .for_each(drop);
        Ok(())
    }

    fn adoption(&mut self) -> Result<&mut types::bss> {
        let bss = self.skel.maps.bss_data.as_deref_mut();
        bss.context("the datapath's object has no variables")
    }
}

fn clock(clock: ClockId) -> Duration {
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}
