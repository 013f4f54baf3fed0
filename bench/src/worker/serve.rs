//! The serving side of all requests and responses. A connection that ends before anything was sent stops the server.

use std::collections::HashMap;

use anyhow::Result;
use nix::sys::epoll::EpollFlags;

use super::meter::Meter;
use super::peer::{Arrival, Buffers, Peer};
use super::socket::{Events, Listener};
use super::{ServerReport, Task};
use crate::cases::{Programs, Workload};

const LISTENER: u64 = 0;

/// The messages of all connections, and the CPU time since the end of the warm-up.
struct Count<'task> {
    task: &'task Task,
    messages: u64,
    meter: Option<Meter>,
}

impl<'task> Count<'task> {
    fn new(task: &'task Task) -> Self {
        Self {
            task,
            messages: 0,
            meter: None,
        }
    }

    fn message(&mut self) {
        self.messages += 1;
        if self.messages == self.task.warm_up_messages() {
            self.meter = Some(Meter::start());
        }
    }

    fn report(&self) -> ServerReport {
        ServerReport {
            messages: self.messages - self.task.warm_up_messages().min(self.messages),
            cpu_seconds: self.meter.as_ref().map_or(0.0, Meter::cpu_seconds),
        }
    }
}

pub fn serve(task: &Task, listener: &Listener) -> Result<ServerReport> {
    match task.programs {
        Programs::Nonblocking => serve_ready(task, listener),
        Programs::Blocking => serve_in_turn(task, listener),
    }
}

fn serve_ready(task: &Task, listener: &Listener) -> Result<ServerReport> {
    let mut buffers = Buffers::new(task.size);
    let mut count = Count::new(task);
    let mut peers = HashMap::new();
    let mut next = LISTENER + 1;
    let mut events = Events::new()?;
    events.watch(listener, LISTENER, EpollFlags::EPOLLIN)?;
    let mut ready = Vec::new();
    loop {
        ready.extend(events.wait()?.map(|(token, _)| token));
        for token in ready.drain(..) {
            if token == LISTENER {
                let peer = Peer::new(listener.accept()?, task.size);
                events.watch(&peer.socket, next, EpollFlags::EPOLLIN)?;
                peers.insert(next, peer);
                next += 1;
                continue;
            }
            let Some(peer) = peers.get_mut(&token) else {
                continue;
            };
            if peer.is_sending() {
                if peer.flush(&buffers)? {
                    events.change(&peer.socket, token, EpollFlags::EPOLLIN)?;
                }
                continue;
            }
            match peer.receive(&mut buffers)? {
                Arrival::Part => {}
                Arrival::Message => {
                    count.message();
                    if !peer.send(&buffers)? {
                        events.change(&peer.socket, token, EpollFlags::EPOLLOUT)?;
                    }
                    if task.workload == Workload::Stopped && peer.received == task.warm_up_bytes() {
                        events.forget(&peer.socket)?;
                    }
                }
                Arrival::End if peer.received == 0 => return Ok(count.report()),
                Arrival::End => drop(peers.remove(&token)),
            }
        }
    }
}

fn serve_in_turn(task: &Task, listener: &Listener) -> Result<ServerReport> {
    let mut buffers = Buffers::new(task.size);
    let mut count = Count::new(task);
    loop {
        let mut peer = Peer::new(listener.accept()?, task.size);
        while let Arrival::Message = peer.receive(&mut buffers)? {
            count.message();
            peer.send(&buffers)?;
        }
        if peer.received == 0 {
            return Ok(count.report());
        }
    }
}
