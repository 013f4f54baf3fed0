//! Owns the event loop that drives all ends of one side: epoll, connects, accepts, turns and timers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use workloads::pattern::Random;
use workloads::sys::{self, Epoll};

use crate::conversation::Side;
use crate::end::{End, Scratch, Turn};
use crate::run::{Run, Tally};

const WAKER: u64 = u64::MAX;
const FIRST_LISTENER: u64 = 1 << 32;
const LARGEST_MESSAGE: usize = 1 << 20;
const LARGEST_READ: usize = 1 << 20;
/// The workload may start to want more connections without an event.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

struct Slot {
    end: Option<End>,
    queued: bool,
    timer: Option<Instant>,
}

struct Acceptor {
    ready: bool,
    delayed_until: Option<Instant>,
}

struct Loop<'a> {
    run: &'a Run,
    side: Side,
    epoll: Epoll,
    slots: Vec<Slot>,
    free: Vec<usize>,
    ready: VecDeque<usize>,
    times: BinaryHeap<Reverse<(Instant, usize)>>,
    acceptors: Vec<Acceptor>,
    random: Random,
    scratch: Scratch,
    live: u64,
    seen: u64,
}

/// Runs one side until all its connections are closed.
pub fn drive(run: &Arc<Run>, side: Side) -> Result<Tally> {
    let epoll = Epoll::new().context("failed to make an epoll instance")?;
    epoll.add(&run.wakers[side.index()], sys::IN, WAKER)?;
    let mut acceptors = Vec::new();
    if side == Side::Server {
        for (number, listener) in run.listeners.iter().enumerate() {
            epoll.add(listener, sys::IN | sys::EDGE, FIRST_LISTENER + number as u64)?;
            acceptors.push(Acceptor {
                ready: false,
                delayed_until: None,
            });
        }
    }
    let mut this = Loop {
        run,
        side,
        epoll,
        slots: Vec::new(),
        free: Vec::new(),
        ready: VecDeque::new(),
        times: BinaryHeap::new(),
        acceptors,
        random: Random::of(run.seed, u64::MAX, side.index() as u64),
        scratch: Scratch {
            incoming: vec![0; LARGEST_READ],
            outgoing: vec![0; LARGEST_MESSAGE],
            tally: Tally::default(),
        },
        live: 0,
        seen: 0,
    };
    this.turn_until_done()?;
    Ok(this.scratch.tally)
}

impl Loop<'_> {
    fn turn_until_done(&mut self) -> Result<()> {
        let mut events = Vec::new();
        loop {
            match self.side {
                Side::Client => {
                    if self.open()? {
                        self.run.set_clients_done();
                        return Ok(());
                    }
                }
                Side::Server => {
                    self.accept()?;
                    if self.run.clients_done() && self.live == 0 && self.seen == self.run.opened() {
                        return Ok(());
                    }
                }
            }
            self.epoll
                .wait(self.patience(), &mut events)
                .context("failed to wait for events")?;
            for (token, bits) in events.drain(..) {
                self.on_event(token, bits);
            }
            self.expire();
            // Ends that want another turn get it after the next check for events.
            for _ in 0..self.ready.len() {
                if let Some(slot) = self.ready.pop_front() {
                    self.turn(slot)?;
                }
            }
        }
    }

    /// Opens connections up to the concurrency limit; true when none is open and none will follow.
    fn open(&mut self) -> Result<bool> {
        while self.live < self.run.connections {
            let Some(connection) = self.run.open_next() else {
                break;
            };
            if let Some(stream) = self.run.connect(&connection).context("failed to connect")? {
                self.insert(End::new(self.run, connection, Side::Client, stream))?;
            }
        }
        Ok(self.live == 0)
    }

    fn accept(&mut self) -> Result<()> {
        let now = Instant::now();
        for number in 0..self.acceptors.len() {
            let acceptor = &mut self.acceptors[number];
            if acceptor.delayed_until.is_some_and(|until| until > now) || !acceptor.ready {
                continue;
            }
            if acceptor.delayed_until.is_none() {
                acceptor.delayed_until = self
                    .run
                    .workload
                    .accept_delay(&mut self.random)
                    .map(|delay| now + delay);
                if acceptor.delayed_until.is_some() {
                    continue;
                }
            }
            acceptor.delayed_until = None;
            acceptor.ready = false;
            self.accept_all(number)?;
        }
        Ok(())
    }

    fn accept_all(&mut self, number: usize) -> Result<()> {
        let run = self.run;
        loop {
            let (stream, connection) = match run.accept(number) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                other => other.context("failed to accept")?,
            };
            self.seen += 1;
            if let Some(connection) = connection {
                self.insert(End::new(run, connection, Side::Server, stream))?;
            }
        }
    }

    fn insert(&mut self, end: End) -> Result<()> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                end: None,
                queued: false,
                timer: None,
            });
            self.slots.len() - 1
        });
        self.epoll.add(&end.stream, end.interest, slot as u64)?;
        self.slots[slot].end = Some(end);
        self.live += 1;
        self.queue(slot);
        Ok(())
    }

    fn queue(&mut self, slot: usize) {
        if !self.slots[slot].queued {
            self.slots[slot].queued = true;
            self.ready.push_back(slot);
        }
    }

    fn on_event(&mut self, token: u64, bits: u32) {
        if token == WAKER {
            self.run.wakers[self.side.index()].clear();
            for slot in 0..self.slots.len() {
                if self.slots[slot].end.as_ref().is_some_and(|end| end.at_gate) {
                    self.queue(slot);
                }
            }
        } else if token >= FIRST_LISTENER {
            self.acceptors[(token - FIRST_LISTENER) as usize].ready = true;
        } else if let Some(end) = self.slots[token as usize].end.as_mut() {
            end.on_events(bits);
            self.queue(token as usize);
        }
    }

    fn turn(&mut self, slot: usize) -> Result<()> {
        let place = &mut self.slots[slot];
        place.queued = false;
        let Some(end) = place.end.as_mut() else {
            return Ok(());
        };
        match end.turn(self.run, &mut self.scratch) {
            Turn::Again => self.queue(slot),
            Turn::Wait => {
                let wanted = end.wanted();
                if wanted != end.interest {
                    self.epoll.modify(&end.stream, wanted, slot as u64)?;
                    end.interest = wanted;
                }
                if let Some(at) = end.next_time() {
                    if place.timer.is_none_or(|set| set > at) {
                        place.timer = Some(at);
                        self.times.push(Reverse((at, slot)));
                    }
                }
            }
            Turn::Closed => {
                *place = Slot {
                    end: None,
                    queued: false,
                    timer: None,
                };
                self.free.push(slot);
                self.live -= 1;
            }
            Turn::Parked => {}
        }
        Ok(())
    }

    fn expire(&mut self) {
        if self.times.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(Reverse((at, slot))) = self.times.peek().copied() {
            if at > now {
                break;
            }
            self.times.pop();
            self.slots[slot].timer = None;
            self.queue(slot);
        }
    }

    fn patience(&self) -> i32 {
        if !self.ready.is_empty() {
            return 0;
        }
        let now = Instant::now();
        let acceptors = self
            .acceptors
            .iter()
            .filter_map(|acceptor| acceptor.delayed_until);
        let next = acceptors
            .chain(self.times.peek().map(|Reverse((at, _))| *at))
            .min();
        let wait = next.map_or(LONGEST_WAIT, |at| {
            at.saturating_duration_since(now).min(LONGEST_WAIT)
        });
        wait.as_micros().div_ceil(1000) as i32
    }
}
