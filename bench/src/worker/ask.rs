//! The asking side: requests on lasting connections, and connections that last for a few requests.

use std::time::Instant;

use anyhow::{Result, bail};
use nix::sys::epoll::EpollFlags;

use super::meter::Window;
use super::peer::{Arrival, Buffers, Peer};
use super::socket::{Address, Events, Socket};
use super::{ClientReport, Task};
use crate::cases::Programs;

/// A connection, and when its pending request was sent.
struct Asker {
    peer: Peer,
    asked: Instant,
}

impl Asker {
    fn connect(task: &Task, address: &Address) -> Result<Self> {
        // A short connection is measured from here.
        let asked = Instant::now();
        let socket = Socket::connect(address, task.manner())?;
        Ok(Self {
            peer: Peer::new(socket, task.size),
            asked,
        })
    }

    fn payload(&self) -> u64 {
        self.peer.sent + self.peer.received
    }
}

/// Tells the server that no more connections will come.
pub fn say_farewell(task: &Task, address: &Address) -> Result<()> {
    Socket::connect(address, task.manner()).map(drop)
}

/// One round trip on a connection that has its event loop to itself.
fn round_trip(peer: &mut Peer, events: &mut Option<Events>, buffers: &mut Buffers) -> Result<()> {
    if !peer.send(buffers)? {
        finish_sending(peer, events, buffers)?;
    }
    loop {
        match (peer.receive(buffers)?, &mut *events) {
            (Arrival::Message, _) => return Ok(()),
            (Arrival::Part, Some(events)) => drop(events.wait()?),
            (Arrival::Part, None) => {}
            (Arrival::End, _) => bail!("the server closed the connection"),
        }
    }
}

fn finish_sending(peer: &mut Peer, events: &mut Option<Events>, buffers: &mut Buffers) -> Result<()> {
    let Some(events) = events else {
        bail!("a blocking socket took a part of a message");
    };
    events.change(&peer.socket, 0, EpollFlags::EPOLLOUT)?;
    while !peer.flush(buffers)? {
        drop(events.wait()?);
    }
    events.change(&peer.socket, 0, EpollFlags::EPOLLIN)?;
    Ok(())
}

/// One connection after another, each for some round trips.
pub fn ask_shortly(task: &Task, address: &Address, round_trips: u32) -> Result<ClientReport> {
    let mut buffers = Buffers::new(task.size);
    let mut events = match task.programs {
        Programs::Nonblocking => Some(Events::new()?),
        Programs::Blocking => None,
    };
    let mut window = None;
    let mut payload = 0;
    let mut warm_up = task.warm_up;
    loop {
        if warm_up == 0 && window.is_none() {
            window = Some(Window::open(task.window()));
        }
        let mut asker = Asker::connect(task, address)?;
        if let Some(events) = &events {
            events.watch(&asker.peer.socket, 0, EpollFlags::EPOLLIN)?;
        }
        for _ in 0..round_trips {
            round_trip(&mut asker.peer, &mut events, &mut buffers)?;
        }
        payload += asker.payload();
        let asked = asker.asked;
        drop(asker);
        match &mut window {
            None => warm_up -= 1,
            Some(window) => {
                if !window.operation(asked, Instant::now()) {
                    break;
                }
            }
        }
    }
    let report = ClientReport::of(window, 2 * u64::from(round_trips) * task.size as u64, payload);
    say_farewell(task, address)?;
    report
}

/// Requests on lasting connections, one at a time on each.
pub fn ask(task: &Task, address: &Address) -> Result<ClientReport> {
    match task.programs {
        Programs::Nonblocking => ask_when_ready(task, address),
        Programs::Blocking => ask_in_turn(task, address),
    }
}

fn ask_in_turn(task: &Task, address: &Address) -> Result<ClientReport> {
    let mut buffers = Buffers::new(task.size);
    let mut asker = Asker::connect(task, address)?;
    for _ in 0..task.warm_up {
        round_trip(&mut asker.peer, &mut None, &mut buffers)?;
    }
    let mut window = Window::open(task.window());
    let mut begin = Instant::now();
    loop {
        round_trip(&mut asker.peer, &mut None, &mut buffers)?;
        let end = Instant::now();
        if !window.operation(begin, end) {
            break;
        }
        begin = end;
    }
    let report = ClientReport::of(Some(window), 2 * task.size as u64, asker.payload());
    drop(asker);
    say_farewell(task, address)?;
    report
}

/// Connects, and gets a first answer on each connection before opening the next.
fn connect_all(task: &Task, address: &Address, buffers: &mut Buffers) -> Result<(Events, Vec<Asker>)> {
    let mut askers = Vec::new();
    let mut alone = Some(Events::new()?);
    let events = Events::new()?;
    for token in 0..task.connections as u64 {
        let mut asker = Asker::connect(task, address)?;
        if let Some(alone) = &alone {
            alone.watch(&asker.peer.socket, token, EpollFlags::EPOLLIN)?;
        }
        round_trip(&mut asker.peer, &mut alone, buffers)?;
        if let Some(alone) = &alone {
            alone.forget(&asker.peer.socket)?;
        }
        events.watch(&asker.peer.socket, token, EpollFlags::EPOLLIN)?;
        askers.push(asker);
    }
    Ok((events, askers))
}

fn ask_when_ready(task: &Task, address: &Address) -> Result<ClientReport> {
    let mut buffers = Buffers::new(task.size);
    let (mut events, mut askers) = connect_all(task, address, &mut buffers)?;
    let begin = |token: usize, asker: &mut Asker, events: &Events, buffers: &Buffers| -> Result<()> {
        if !asker.peer.send(buffers)? {
            events.change(&asker.peer.socket, token as u64, EpollFlags::EPOLLOUT)?;
        }
        Ok(())
    };
    for (token, asker) in askers.iter_mut().enumerate() {
        begin(token, asker, &events, &buffers)?;
    }
    let mut warm_up = task.warm_up_messages() - task.connections as u64;
    let mut window: Option<Window> = None;
    let mut idle = 0;
    let mut ready = Vec::new();
    while idle < askers.len() {
        ready.extend(events.wait()?.map(|(token, _)| token));
        for token in ready.drain(..) {
            let asker = &mut askers[token as usize];
            if asker.peer.is_sending() {
                if asker.peer.flush(&buffers)? {
                    events.change(&asker.peer.socket, token, EpollFlags::EPOLLIN)?;
                }
                continue;
            }
            match asker.peer.receive(&mut buffers)? {
                Arrival::Part => continue,
                Arrival::End => bail!("the server closed the connection"),
                Arrival::Message => {}
            }
            let mut now = Instant::now();
            let is_open = match &mut window {
                Some(window) => window.operation(asker.asked, now),
                None => {
                    warm_up -= 1;
                    if warm_up == 0 {
                        window = Some(Window::open(task.window()));
                        now = Instant::now();
                    }
                    true
                }
            };
            if is_open {
                asker.asked = now;
                begin(token as usize, asker, &events, &buffers)?;
            } else {
                idle += 1;
            }
        }
    }
    let payload = askers.iter().map(Asker::payload).sum();
    let report = ClientReport::of(window, 2 * task.size as u64, payload);
    say_farewell(task, address)?;
    report
}
