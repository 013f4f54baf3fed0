//! Owns the verdict on a run: the state of every open connection, faults, stalls and the deadline.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use workloads::pace::patience;
use workloads::sys::{self, stream};

use crate::conversation::{Progress, Side};
use crate::peer::Peer;

const TICK: Duration = Duration::from_millis(100);
/// When the run fails, ends that have waited this long are reported too.
const WAITING_TICKS: u32 = 10;
/// After the first fault, further ones are reported for this long.
const GRACE: Duration = Duration::from_millis(500);
const MOST_FAULTS: u64 = 100;
const MOST_NOTES: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    Opening,
    Busy,
    SendBlocked,
    Awaiting,
    AwaitingEof,
    Sleeping,
    AtGate,
    Closed,
}

impl Stage {
    const ALL: [Stage; 8] = [
        Stage::Opening,
        Stage::Busy,
        Stage::SendBlocked,
        Stage::Awaiting,
        Stage::AwaitingEof,
        Stage::Sleeping,
        Stage::AtGate,
        Stage::Closed,
    ];
}

/// The public state of an end, written by the thread that drives it.
#[derive(Default)]
pub struct EndState {
    sent: AtomicU64,
    received: AtomicU64,
    target: AtomicU64,
    stage: AtomicU8,
    paused: AtomicBool,
    write_closed: AtomicBool,
    fd: AtomicI32,
    last_events: AtomicU32,
    note: Mutex<String>,
    // The last two belong to the monitor.
    seen: AtomicU64,
    ticks: AtomicU32,
}

impl EndState {
    pub fn opened(&self, fd: RawFd, note: String) {
        self.fd.store(fd, Relaxed);
        if let Ok(mut text) = self.note.lock() {
            *text = note;
        }
        self.set(Stage::Busy, 0);
    }

    pub fn set(&self, stage: Stage, target: u64) {
        self.target.store(target, Relaxed);
        self.stage.store(stage as u8, Relaxed);
    }

    pub fn moved(&self, progress: &Progress) {
        self.sent.store(progress.sent, Relaxed);
        self.received.store(progress.received, Relaxed);
    }

    pub fn paused(&self, paused: bool) {
        self.paused.store(paused, Relaxed);
    }

    pub fn write_closed(&self) {
        self.write_closed.store(true, Relaxed);
    }

    pub fn event(&self, events: u32) {
        self.last_events.store(events, Relaxed);
    }

    fn stage(&self) -> Stage {
        Stage::ALL[usize::from(self.stage.load(Relaxed))]
    }

    /// Why this end should have made progress, if it should have.
    fn pending(&self, peer: &EndState, peer_is_dead: bool) -> Option<&'static str> {
        let stage = self.stage();
        if matches!(stage, Stage::Opening | Stage::Closed) || self.paused.load(Relaxed) {
            return None;
        }
        if peer_is_dead && stage != Stage::Sleeping {
            return Some("the other end's process was killed, and nothing tells this one");
        }
        if peer.sent.load(Relaxed) > self.received.load(Relaxed) {
            return Some("bytes of the other end do not arrive");
        }
        if stage == Stage::AwaitingEof && peer.write_closed.load(Relaxed) {
            return Some("the end of file does not arrive");
        }
        if stage == Stage::SendBlocked && peer.received.load(Relaxed) >= self.sent.load(Relaxed) {
            return Some("all was read, but the socket does not become writable");
        }
        None
    }

    /// Counts a tick; returns the reason after too many without progress.
    fn tick(&self, peer: &EndState, peer_is_dead: bool, stall: u32) -> Option<&'static str> {
        let mut position = self.sent.load(Relaxed) ^ self.received.load(Relaxed).rotate_left(32);
        if self.stage() == Stage::SendBlocked {
            // A blocking send only counts once it returns, so what its peer reads is progress.
            position ^= peer.received.load(Relaxed).rotate_left(16);
        }
        let reason = self.pending(peer, peer_is_dead);
        if self.seen.swap(position, Relaxed) != position || reason.is_none() {
            self.ticks.store(0, Relaxed);
            return None;
        }
        let ticks = self.ticks.fetch_add(1, Relaxed) + 1;
        if ticks == stall { reason } else { None }
    }

    fn describe(&self) -> String {
        let unread = match stream::unread(self.fd.load(Relaxed)) {
            Ok(bytes) => bytes.to_string(),
            Err(error) => error.to_string(),
        };
        let note = self.note.lock().map(|text| text.clone()).unwrap_or_default();
        let tcp = sys::tcp_sending(self.fd.load(Relaxed)).unwrap_or_else(|error| error.to_string());
        format!(
            "sent {} received {} {:?} {} FIONREAD {unread} last events {:#x} {note}, TCP: {tcp}",
            self.sent.load(Relaxed),
            self.received.load(Relaxed),
            self.stage(),
            self.target.load(Relaxed),
            self.last_events.load(Relaxed),
        )
    }
}

/// A connection, known to both of its ends.
pub struct Connection {
    pub id: u64,
    pub may_reset: bool,
    name: String,
    /// The process of the end that is not in this one.
    peer: Option<Arc<Peer>>,
    ends: [EndState; 2],
}

impl Connection {
    pub fn end(&self, side: Side) -> &EndState {
        &self.ends[side.index()]
    }

    fn closed(&self) -> bool {
        let closed = |end: &EndState| end.stage() == Stage::Closed;
        self.ends.iter().all(closed) || (self.peer.is_some() && self.ends.iter().any(closed))
    }

    fn peer_is_dead(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.is_dead())
    }

    fn describe(&self) -> String {
        format!(
            "client: {}; server: {}",
            self.ends[0].describe(),
            self.ends[1].describe()
        )
    }
}

pub struct Monitor {
    deadline: Instant,
    /// Ticks without progress that make a stall.
    stall: u32,
    live: Mutex<HashMap<u64, Arc<Connection>>>,
    faults: AtomicU64,
}

impl Monitor {
    /// Starts the thread that ends the process after a fault, a stall or the deadline.
    pub fn start(seconds: u64, stall: u64) -> Arc<Self> {
        let deadline = Instant::now() + patience(Duration::from_secs(seconds));
        let monitor = Arc::new(Self {
            deadline,
            stall: patience(Duration::from_secs(stall)).div_duration_f64(TICK) as u32,
            live: Mutex::default(),
            faults: AtomicU64::new(0),
        });
        let watching = Arc::clone(&monitor);
        thread::spawn(move || watching.watch());
        monitor
    }

    pub fn open(&self, id: u64, name: String, may_reset: bool, peer: Option<Arc<Peer>>) -> Arc<Connection> {
        let connection = Arc::new(Connection {
            id,
            may_reset,
            name,
            peer,
            ends: Default::default(),
        });
        self.lock().insert(id, Arc::clone(&connection));
        connection
    }

    pub fn close(&self, connection: &Connection, side: Side) {
        let end = connection.end(side);
        end.write_closed();
        end.set(Stage::Closed, 0);
        let mut live = self.lock();
        if connection.closed() {
            live.remove(&connection.id);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.live.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Reports a fault; the process ends soon after.
    pub fn fault(&self, text: impl AsRef<str>) {
        if self.faults.fetch_add(1, Relaxed) < MOST_FAULTS {
            say(&format!("fault: {}", text.as_ref()));
        }
    }

    pub fn fault_at(&self, connection: &Connection, side: Side, text: impl AsRef<str>) {
        let which = format!("connection {} {side:?}", connection.name);
        self.fault(format!("{which}: {} ({})", text.as_ref(), connection.describe()));
    }

    pub fn failed(&self) -> bool {
        self.faults.load(Relaxed) > 0
    }

    fn watch(&self) {
        while !self.failed() {
            thread::sleep(TICK);
            self.find_stalls();
            if Instant::now() >= self.deadline {
                self.fault("the run did not end before its deadline");
                self.note_open(0);
                self.exit();
            }
        }
        thread::sleep(GRACE);
        self.note_open(WAITING_TICKS);
        self.exit();
    }

    /// Reports open connections that wait, as a hint to the cause of the faults.
    fn note_open(&self, ticks: u32) {
        let live = self.lock();
        let waits = |end: &EndState| (ticks..self.stall).contains(&end.ticks.load(Relaxed));
        for connection in live
            .values()
            .filter(|connection| connection.ends.iter().any(waits))
            .take(MOST_NOTES)
        {
            say(&format!(
                "waiting: connection {} ({})",
                connection.name,
                connection.describe()
            ));
        }
    }

    fn find_stalls(&self) {
        for connection in self.lock().values() {
            for side in [Side::Client, Side::Server] {
                let (end, peer_is_dead) = (connection.end(side), connection.peer_is_dead());
                let Some(reason) = end.tick(connection.end(side.other()), peer_is_dead, self.stall) else {
                    continue;
                };
                let seconds = (TICK * self.stall).as_secs();
                self.fault_at(connection, side, format!("stalled for {seconds} s: {reason}"));
            }
        }
    }

    fn exit(&self) -> ! {
        say(&format!("faults={}", self.faults.load(Relaxed)));
        std::process::exit(1)
    }
}

fn say(line: &str) {
    // When standard error is closed there is nobody to report to.
    let _ = writeln!(std::io::stderr(), "{line}");
}
