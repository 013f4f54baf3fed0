//! Reads TCP sockets from the datapath's iterator over open files.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use plain::Plain;

use super::{Datapath, read_records, types};
use crate::model::document::{Amount, Direction, FlowState, Process};
use crate::model::reasons::NOT_FOLLOWED;
use crate::model::socket::{Followed, Socket};

/// The number of the state, which is ABI (include/net/tcp_states.h).
const TCP_LISTEN: u32 = 10;

// SAFETY: the types consist of integers and of such types, without padding, so every bit pattern is valid.
unsafe impl Plain for types::socket_info {}

impl Datapath<'_> {
    /// Every TCP socket that a program in the covered cgroups holds, in all network namespaces: once per process.
    pub(crate) fn sockets(&self) -> Result<Vec<Socket>> {
        let link = self
            .skel
            .progs
            .sockredir_sockets
            .attach_trace()
            .context("failed to attach the iterator over sockets")?;
        let all: Vec<types::socket_info> = read_records(&link).context("failed to read the sockets")?;
        Ok(all.iter().map(|info| self.socket(info)).collect())
    }

    fn socket(&self, info: &types::socket_info) -> Socket {
        let is_listening = info.tcp_state == TCP_LISTEN;
        let (local, remote) = addresses(&info.endpoints);
        let followed = info.flow.low != 0 || info.flow.high != 0;
        Socket {
            local,
            remote,
            netns: info.endpoints.netns,
            inode: info.inode,
            process: Process {
                pid: info.pid,
                uid: info.uid,
                name: text(&info.name),
            },
            is_listening,
            is_blocking: info.blocking != 0,
            state: state_of(info.state),
            reason: match info.reason {
                0 if is_listening => None,
                reason => Some(self.reason(reason)),
            },
            followed: followed.then(|| Followed {
                flow: (info.flow.low, info.flow.high),
                accepted: info.accepted != 0,
                age: Duration::from_nanos(info.age),
            }),
            queue_bytes: info.queue.into(),
            sends: Direction {
                redirected: amount(&info.redirected),
                tcp: amount(&info.passed),
                tcp_bytes_ever: info.tcp_bytes,
                queue_bytes: 0,
                queue_peak_bytes: info.queue_peak.into(),
                last_message: self.counter_names.get(info.last_message as usize).cloned(),
            },
        }
    }

    /// The name of the counter that is a reason.
    pub(super) fn reason(&self, counter: u32) -> String {
        let name = self.counter_names.get(counter as usize);
        name.cloned().unwrap_or_else(|| NOT_FOLLOWED.to_owned())
    }
}

fn amount(checkpoint: &types::checkpoint) -> Amount {
    Amount {
        bytes: checkpoint.bytes,
        messages: checkpoint.messages,
    }
}

pub(super) fn state_of(state: types::flow_state) -> FlowState {
    match state {
        types::flow_state::FLOW_OBSERVE => FlowState::Observed,
        types::flow_state::FLOW_ADMITTED => FlowState::Admitted,
        types::flow_state::FLOW_DRAIN => FlowState::Draining,
        _ => FlowState::TcpOnly,
    }
}

/// Local, then remote.
pub(super) fn addresses(endpoints: &types::endpoints) -> (SocketAddr, SocketAddr) {
    let address = |words: &[u32; 4], port: u32| {
        let mut bytes = [0; 16];
        for (four, word) in bytes.chunks_exact_mut(4).zip(words) {
            four.copy_from_slice(&word.to_ne_bytes());
        }
        let address = IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical();
        SocketAddr::new(address, port as u16)
    };
    (
        address(&endpoints.local, endpoints.local_port),
        address(&endpoints.remote, endpoints.remote_port),
    )
}

/// A NUL-terminated name. The skeleton has C's `char` as i8 on every architecture.
pub(super) fn text(name: &[i8]) -> String {
    let bytes: Vec<u8> = name
        .iter()
        .map(|byte| *byte as u8)
        .take_while(|byte| *byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
