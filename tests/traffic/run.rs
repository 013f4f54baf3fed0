//! Owns what all threads of a run share: options, listeners, the table of who connects, the gate and the totals.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};
use std::{io, thread};

use anyhow::{Context, Result, bail};

use crate::conversation::{Side, Workload};
use crate::monitor::{Connection, Monitor};
use crate::pattern::Stream;
use crate::sys::{Listener, Waker};
use crate::{events, threads};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Family {
    V4,
    V6,
    /// IPv4 clients of a dual-stack IPv6 listener
    Mapped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Event loops; sockets are non-blocking from before connect and accept on
    Nonblocking,
    /// Threads with blocking calls
    Blocking,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    #[arg(long, value_enum, default_value = "v4")]
    pub family: Family,
    #[arg(long, value_enum, default_value = "nonblocking")]
    pub mode: Mode,
    /// Connections at a time
    #[arg(long)]
    pub connections: Option<u64>,
    /// Of all random choices and all bytes; taken from the clock by default
    #[arg(long)]
    pub seed: Option<u64>,
    /// How long the workloads run that end by time
    #[arg(long)]
    pub seconds: Option<u64>,
    /// A run that takes longer is a fault
    #[arg(long, default_value_t = 600)]
    pub deadline: u64,
    /// Send this byte of the first connection wrong: the run must fail
    #[arg(long)]
    pub flip: Option<u64>,
}

impl Common {
    /// The seed of this run, printed so that the run can be repeated.
    pub fn settle_seed(&mut self) -> u64 {
        let seed = self.seed.unwrap_or_else(|| {
            SystemTime::UNIX_EPOCH
                .elapsed()
                .map_or(1, |since| since.as_nanos() as u64 % 1_000_000_007)
        });
        self.seed = Some(seed);
        println!("seed={seed}");
        seed
    }

    /// A run that is to take its time may take it.
    fn longest(&self) -> u64 {
        self.deadline.max(self.seconds.unwrap_or(0) + 60)
    }

    /// Which byte of a stream to send wrong.
    pub fn flip_of(&self, connection: u64, side: Side) -> Option<u64> {
        self.flip.filter(|_| connection == 0 && side == Side::Client)
    }

    pub fn nonblocking(&self) -> bool {
        self.mode == Mode::Nonblocking
    }
}

/// The sums of one thread or of a whole run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub bytes: u64,
    pub messages: u64,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.bytes += other.bytes;
        self.messages += other.messages;
    }
}

/// A point where ends wait until the main thread lets them go on.
#[derive(Default)]
pub struct Gate {
    state: Mutex<(u64, u64)>,
    changed: Condvar,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, (u64, u64)> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn arrive(&self) {
        self.lock().0 += 1;
        self.changed.notify_all();
    }

    pub fn is_open(&self, release: u64) -> bool {
        self.lock().1 >= release
    }

    pub fn wait_open(&self, release: u64) {
        let mut state = self.lock();
        while state.1 < release {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    pub fn wait_arrivals(&self, arrivals: u64) {
        let mut state = self.lock();
        while state.0 < arrivals {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn release(&self) {
        self.lock().1 += 1;
        self.changed.notify_all();
    }
}

type Pair = (SocketAddr, SocketAddr);

/// Which connection an accepted socket belongs to.
#[derive(Default)]
struct Registry {
    expected: Mutex<HashMap<Pair, Arc<Connection>>>,
    changed: Condvar,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<Pair, Arc<Connection>>> {
        self.expected
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

pub struct Run {
    pub common: Common,
    pub seed: u64,
    pub connections: u64,
    pub workload: Box<dyn Workload>,
    pub monitor: Arc<Monitor>,
    pub gate: Gate,
    pub listeners: Vec<(Listener, SocketAddr)>,
    pub wakers: [Waker; 2],
    registry: Registry,
    opened: AtomicU64,
    clients_done: AtomicBool,
}

impl Run {
    pub fn new(common: &Common, connections: u64, workload: Box<dyn Workload>) -> Result<Arc<Self>> {
        let Some(seed) = common.seed else {
            bail!("the seed is not settled")
        };
        let listeners = (0..workload.listeners())
            .map(|number| listen(common.family, number as u8, common.nonblocking()))
            .collect::<io::Result<Vec<_>>>()
            .context("failed to listen on the loopback interface")?;
        Ok(Arc::new(Self {
            common: common.clone(),
            seed,
            connections,
            workload,
            monitor: Monitor::start(common.longest()),
            gate: Gate::default(),
            listeners,
            wakers: [Waker::new()?, Waker::new()?],
            registry: Registry::default(),
            opened: AtomicU64::new(0),
            clients_done: AtomicBool::new(false),
        }))
    }

    /// Starts both sides; the result is there when all connections are closed.
    pub fn start(self: &Arc<Self>) -> Running {
        let spawn = |side: Side| {
            let run = Arc::clone(self);
            thread::spawn(move || match run.common.mode {
                Mode::Nonblocking => events::drive(&run, side),
                Mode::Blocking => threads::drive(&run, side),
            })
        };
        Running {
            run: Arc::clone(self),
            sides: [spawn(Side::Server), spawn(Side::Client)],
        }
    }

    pub fn release_gate(&self) {
        self.gate.release();
        self.wakers.iter().for_each(Waker::wake);
    }

    /// The next connection, if the workload wants one.
    pub fn open_next(&self) -> Option<Arc<Connection>> {
        let id = self
            .opened
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |opened| {
                self.workload.more(opened).then_some(opened + 1)
            })
            .ok()?;
        Some(self.monitor.open(id, self.workload.may_reset(id)))
    }

    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    /// Where the client of this connection connects to.
    pub fn target(&self, connection: &Connection) -> SocketAddr {
        self.listeners[connection.id as usize % self.listeners.len()].1
    }

    /// Tells the server who is about to be accepted.
    pub fn expect(&self, connection: &Arc<Connection>, client: SocketAddr) {
        let pair = (canonical(client), self.target(connection));
        self.registry.lock().insert(pair, Arc::clone(connection));
        self.registry.changed.notify_all();
    }

    /// The connection of an accepted socket; the client's thread may be about to tell.
    pub fn claim(&self, listener: usize, client: SocketAddr) -> Option<Arc<Connection>> {
        let pair = (canonical(client), self.listeners[listener].1);
        let mut expected = self.registry.lock();
        for _ in 0..100 {
            if let Some(connection) = expected.remove(&pair) {
                return Some(connection);
            }
            let waited = self
                .registry
                .changed
                .wait_timeout(expected, Duration::from_millis(100));
            expected = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        self.monitor.fault(format!(
            "accepted a connection from {client} that no client opened"
        ));
        None
    }

    pub fn set_clients_done(&self) {
        self.clients_done.store(true, Ordering::SeqCst);
        self.wakers[Side::Server.index()].wake();
    }

    pub fn clients_done(&self) -> bool {
        self.clients_done.load(Ordering::SeqCst)
    }

    /// The streams that a side sends and receives.
    pub fn streams(&self, connection: &Connection, side: Side) -> (Stream, Stream) {
        let stream = |direction| Stream::new(self.seed, connection.id, direction);
        match side {
            Side::Client => (stream(0), stream(1)),
            Side::Server => (stream(1), stream(0)),
        }
    }

    /// Makes the wrong byte that `--flip` asks for.
    pub fn flip(&self, connection: &Connection, side: Side, offset: u64, bytes: &mut [u8]) {
        flip_byte(self.common.flip_of(connection.id, side), offset, bytes);
    }

    /// Half of the connections send small messages at once, the others as the kernel likes.
    pub fn tune(&self, connection: &Connection, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(connection.id % 2 == 1)
    }
}

pub fn flip_byte(flip: Option<u64>, offset: u64, bytes: &mut [u8]) {
    let place = flip.and_then(|flip| flip.checked_sub(offset));
    if let Some(byte) = place.and_then(|place| bytes.get_mut(place as usize)) {
        *byte ^= 0x80;
    }
}

/// Both sides at work.
pub struct Running {
    run: Arc<Run>,
    sides: [thread::JoinHandle<Result<Tally>>; 2],
}

impl Running {
    pub fn finish(self) -> Result<Tally> {
        let mut sum = Tally::default();
        for side in self.sides {
            match side.join() {
                Ok(tally) => sum.add(tally?),
                Err(_) => bail!("a thread panicked"),
            }
        }
        if self.run.monitor.failed() {
            bail!("faults, see above");
        }
        Ok(sum)
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A listener and the address that its clients use.
pub fn listen(family: Family, number: u8, nonblocking: bool) -> io::Result<(Listener, SocketAddr)> {
    let v4 = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1 + number));
    let (bind, target) = match family {
        Family::V4 => (v4, v4),
        Family::V6 => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
        Family::Mapped => (Ipv6Addr::UNSPECIFIED.into(), v4),
    };
    let listener = Listener::bind(SocketAddr::new(bind, 0), nonblocking)?;
    let target = SocketAddr::new(target, listener.address().port());
    Ok((listener, target))
}
