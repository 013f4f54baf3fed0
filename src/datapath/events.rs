//! The events that the datapath wants handled at once: records in a ring buffer, for a thread of their own.

use std::os::fd::BorrowedFd;
use std::sync::mpsc::{self, Receiver};

use anyhow::{Context as _, Result};
use libbpf_rs::{RingBuffer, RingBufferBuilder};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use plain::Plain;

use super::programs::file_of;
use super::reset::{Peer, Reset};
use super::sockets::{addresses, text};
use super::{Datapath, record, types};
use crate::model::known::File;

// SAFETY: the type consists of integers and of such types, without padding, so every bit pattern is valid.
unsafe impl Plain for types::event {}

/// A request of the datapath.
#[derive(Debug)]
pub enum Event {
    /// Examine the files of an unknown program.
    Program { pid: u32, file: File },
    /// A program was seen to splice for the first time.
    Splices { name: String },
    /// A connection would hang.
    Reset(Reset),
}

/// The reading end of the ring buffer.
pub struct Events {
    ring: RingBuffer<'static>,
    received: Receiver<types::event>,
}

impl Datapath<'_> {
    /// From now on; events left by the self-test are discarded.
    pub(crate) fn events(&self) -> Result<Events> {
        let (sender, received) = mpsc::channel();
        let mut builder = RingBufferBuilder::new();
        let take = move |bytes: &[u8]| {
            if let Some(event) = record(bytes) {
                // The receiver lives as long as the ring.
                let _ = sender.send(event);
            }
            0
        };
        builder
            .add(&self.skel.maps.sockredir_event, take)
            .context("failed to find the datapath's events")?;
        let ring = builder.build().context("failed to map the datapath's events")?;
        let events = Events { ring, received };
        events.take()?;
        Ok(events)
    }
}

impl Events {
    /// Waits for events, or until the other end of the socket is closed; true if it is.
    pub fn wait(&self, end: BorrowedFd<'_>) -> Result<bool> {
        // SAFETY: the ring keeps its descriptor open for its own lifetime, which outlasts the borrow.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.epoll_fd()) };
        let mut waited = [ring, end].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut waited, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(waited[1].any().unwrap_or(false)),
            Err(error) => Err(error).context("failed to wait for the datapath's events"),
        }
    }

    /// The pending events.
    pub fn take(&self) -> Result<Vec<Event>> {
        self.ring
            .consume()
            .context("failed to read the datapath's events")?;
        Ok(self.received.try_iter().filter_map(|event| of(&event)).collect())
    }
}

fn of(event: &types::event) -> Option<Event> {
    match event.kind {
        types::event_kind::EVENT_PROGRAM => Some(Event::Program {
            pid: event.pid,
            file: file_of(&event.program.file),
        }),
        types::event_kind::EVENT_SPLICES => Some(Event::Splices {
            name: text(&event.name),
        }),
        types::event_kind::EVENT_RESET => {
            let (local, remote) = addresses(&event.endpoints);
            let (peer_local, peer_remote) = addresses(&event.peer);
            Some(Event::Reset(Reset {
                netns: event.netns,
                local,
                remote,
                next: event.seq,
                heard: event.heard,
                expected: event.ack,
                mark: event.mark,
                interface: event.interface,
                peer: (event.peer_netns != 0).then_some(Peer {
                    netns: event.peer_netns,
                    local: peer_local,
                    remote: peer_remote,
                }),
            }))
        }
        _ => None,
    }
}
