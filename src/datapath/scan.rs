//! Scans the TCP sockets of each network namespace for established connections, and has the datapath adopt them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use libbpf_rs::{Link, MapCore as _, MapFlags};
use nix::time::ClockId;

use super::namespaces::{Namespaces, Visit};
use super::skeleton::types;
use super::{Datapath, clock, empty, read_all, read_records};

/// The result of one scan.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Scan {
    /// Ends seen for the first time, which a later scan may adopt.
    pub noted: u32,
    /// Connections with one end in the socket map, whose peer a scan that follows soon may put there.
    pub halves: u32,
    /// Connections whose second end was put into the socket map.
    pub adopted: u32,
    /// Time until the first of the ends waiting to return may do so.
    pub due: Option<Duration>,
    /// Other network namespaces with connections to adopt that could not be entered.
    pub shut: u32,
    /// CPU time.
    pub took: Duration,
}

impl Datapath<'_> {
    /// Adopts established connections that an earlier scan noted, and notes new ones.
    pub(crate) fn scan(&mut self) -> Result<Scan> {
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
        let elsewhere = self.scan_elsewhere(&link)?;
        let bss = self.adoption()?;
        let (noted, halves) = (bss.adopt_noted, bss.adopt_halves);
        let (adopted, due) = (bss.adopt_joined, bss.adopt_due);
        if noted > 0 {
            // Ends of programs that are kept off are no candidates.
            self.scan_listeners()?;
        }
        Ok(Scan {
            noted,
            halves,
            adopted,
            // The datapath uses the same clock.
            due: (due > 0).then(|| Duration::from_nanos(due).saturating_sub(clock(ClockId::CLOCK_MONOTONIC))),
            shut: elsewhere.shut.len() as u32,
            took: clock(ClockId::CLOCK_THREAD_CPUTIME_ID).saturating_sub(begin) + elsewhere.took,
        })
    }

    /// Does the same in other network namespaces with connections to adopt.
    fn scan_elsewhere(&self, scan: &Link) -> Result<Visit> {
        let namespaces = Namespaces::look();
        let candidates = if namespaces.is_only() {
            Vec::new()
        } else {
            self.candidates()?
        };
        let visit = namespaces
            .visit(scan, candidates)
            .context("failed to scan the connections elsewhere")?;
        let shut = &self.skel.maps.sockredir_netns;
        empty(shut).context("failed to forget the network namespaces")?;
        for number in &visit.shut {
            // A namespace for which there is no room is not reported.
            let _ = shut.update(&number.to_ne_bytes(), &[1], MapFlags::ANY);
        }
        Ok(visit)
    }

    /// The inodes of network namespaces with connections that a scan there may adopt.
    fn candidates(&self) -> Result<Vec<u32>> {
        let program = &self.skel.progs.sockredir_elsewhere;
        let link = program
            .attach_trace()
            .context("failed to attach the iterator over candidates")?;
        read_records(&link).context("failed to look for candidates")
    }

    /// Makes the next scan start afresh.
    pub(crate) fn forget_candidates(&self) -> Result<()> {
        empty(&self.skel.maps.sockredir_cand).context("failed to delete the candidates for adoption")
    }

    fn adoption(&mut self) -> Result<&mut types::bss> {
        let bss = self.skel.maps.bss_data.as_deref_mut();
        bss.context("the datapath's object has no variables")
    }
}
