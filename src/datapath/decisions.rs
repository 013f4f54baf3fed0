//! Reads the record of decisions (`--log-decisions`).

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use libbpf_rs::RingBufferBuilder;
use nix::time::{ClockId, clock_gettime};
use plain::Plain;

use super::sockets::addresses;
use super::{Datapath, record, types};

// SAFETY: the type consists of integers and of such types, without padding, so every bit pattern is valid.
unsafe impl Plain for types::decision {}

/// A decision on a flow, as one of its ends sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Decision {
    pub time: SystemTime,
    /// The counter's name.
    pub reason: String,
    /// The cookie of the network namespace.
    pub netns: u64,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

impl Datapath<'_> {
    /// The decisions since the last call, as far as they fit into the ring buffer; `decisions_dropped` counts the rest.
    pub(crate) fn decisions(&self) -> Result<Vec<Decision>> {
        let boot = boot_time()?;
        let mut decisions = Vec::new();
        let mut builder = RingBufferBuilder::new();
        let take = |bytes: &[u8]| {
            decisions.extend(record(bytes).map(|decision| self.decision(&decision, boot)));
            0
        };
        builder
            .add(&self.skel.maps.sockredir_log, take)
            .context("failed to find the record of decisions")?;
        let ring = builder.build().context("failed to map the record of decisions")?;
        ring.consume().context("failed to read the decisions")?;
        drop(ring);
        Ok(decisions)
    }

    fn decision(&self, decision: &types::decision, boot: SystemTime) -> Decision {
        let (local, remote) = addresses(&decision.endpoints);
        Decision {
            time: boot + Duration::from_nanos(decision.time),
            reason: self.reason(decision.reason),
            netns: decision.endpoints.netns,
            local,
            remote,
        }
    }
}

/// When CLOCK_MONOTONIC was 0.
fn boot_time() -> Result<SystemTime> {
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).context("failed to read the clock")?;
    Ok(SystemTime::now() - Duration::from(monotonic))
}
