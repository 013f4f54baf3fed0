//! Owns what all threads of a run share: its sides, listeners, the table of expected clients, and the totals.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use std::{io, thread};

use anyhow::{Context, Result, bail};
use workloads::pattern::Stream;
use workloads::sys::Waker;
use workloads::sys::stream::{self, Listener};

use crate::conversation::{Side, Workload};
use crate::gate::Gate;
use crate::monitor::{Connection, Monitor};
use crate::options::{Common, Family, Mode, flip_byte};
use crate::peer::{self, Peer};
use crate::{events, threads};

/// A connection's id has its number in the run in the low bits, and the number of the run above.
const NUMBER_BITS: u32 = 24;

/// The totals of one thread or of a whole run.
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

type Pair = (SocketAddr, SocketAddr);

/// Maps accepted sockets to their connections.
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

/// Which ends of a run are in this process.
#[derive(Clone, Debug)]
pub enum Sides {
    Both,
    /// The clients are in a process that may be killed.
    Servers,
    /// The servers are, and listen at these addresses.
    Clients(Vec<SocketAddr>),
}

/// What distinguishes the runs of a process.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The prefix of its connections' numbers in fault reports
    pub name: String,
    /// Runs with different numbers have no connection with the same bytes
    pub number: u64,
    /// Modes of the clients and of the servers
    pub modes: [Mode; 2],
    /// Families of the listeners, in turn
    pub families: Vec<Family>,
    pub sides: Sides,
}

pub struct Run {
    pub common: Common,
    pub seed: u64,
    pub connections: u64,
    pub workload: Box<dyn Workload>,
    pub monitor: Arc<Monitor>,
    pub gate: Gate,
    pub listeners: Vec<Listener>,
    pub wakers: [Waker; 2],
    peer: Option<Arc<Peer>>,
    parts: Parts,
    /// The address of each listener
    targets: Vec<SocketAddr>,
    registry: Registry,
    opened: AtomicU64,
    clients_done: AtomicBool,
}

impl Run {
    /// The usual run: the only one, entirely in this process and in one mode.
    pub fn new(common: &Common, connections: u64, workload: Box<dyn Workload>) -> Result<Arc<Self>> {
        let parts = Parts {
            name: String::new(),
            number: 0,
            modes: [common.mode; 2],
            families: vec![common.family],
            sides: Sides::Both,
        };
        let monitor = Monitor::start(common.longest(), common.stall);
        Self::of(parts, common, connections, workload, monitor)
    }

    pub fn of(
        parts: Parts,
        common: &Common,
        connections: u64,
        workload: Box<dyn Workload>,
        monitor: Arc<Monitor>,
    ) -> Result<Arc<Self>> {
        let Some(seed) = common.seed else {
            bail!("the seed is not settled")
        };
        let nonblocking = parts.modes[Side::Server.index()] == Mode::Nonblocking;
        let (listeners, targets) = match &parts.sides {
            Sides::Clients(targets) => (Vec::new(), targets.clone()),
            Sides::Both | Sides::Servers => parts
                .families
                .iter()
                .cycle()
                .take(workload.listeners())
                .zip(0..)
                .map(|(family, number)| listen(*family, number, nonblocking))
                .collect::<io::Result<_>>()
                .context("failed to listen on the loopback interface")?,
        };
        let peer = match parts.sides {
            Sides::Both => None,
            Sides::Servers | Sides::Clients(_) => Some(Arc::default()),
        };
        Ok(Arc::new(Self {
            common: common.clone(),
            seed,
            connections,
            workload,
            monitor,
            gate: Gate::default(),
            listeners,
            targets,
            wakers: [Waker::new()?, Waker::new()?],
            peer,
            parts,
            registry: Registry::default(),
            opened: AtomicU64::new(0),
            clients_done: AtomicBool::new(false),
        }))
    }

    /// Starts the sides in this process; the result is available when all connections are closed.
    pub fn start(self: &Arc<Self>) -> Running {
        let sides: &[Side] = match self.parts.sides {
            Sides::Both => &[Side::Server, Side::Client],
            Sides::Servers => &[Side::Server],
            Sides::Clients(_) => &[Side::Client],
        };
        let spawn = |side: &Side| {
            let (run, side) = (Arc::clone(self), *side);
            thread::spawn(move || match run.parts.modes[side.index()] {
                Mode::Nonblocking => events::drive(&run, side),
                Mode::Blocking => threads::drive(&run, side),
            })
        };
        Running {
            run: Arc::clone(self),
            sides: sides.iter().map(spawn).collect(),
        }
    }

    /// The process of the other side was killed: no more clients will come, and every connection must end.
    pub fn peer_died(&self) {
        if let Some(peer) = &self.peer {
            peer.died();
        }
        self.set_clients_done();
    }

    pub fn targets(&self) -> &[SocketAddr] {
        &self.targets
    }

    pub fn release_gate(&self) {
        self.gate.release();
        self.wakers.iter().for_each(Waker::wake);
    }

    fn open(&self, number: u64) -> Arc<Connection> {
        let id = id_of(self.parts.number, number);
        let may_reset = self.peer.is_some() || self.workload.may_reset(id);
        let name = format!("{}{number}", self.parts.name);
        self.monitor.open(id, name, may_reset, self.peer.clone())
    }

    /// The next connection, if the workload wants another.
    pub fn open_next(&self) -> Option<Arc<Connection>> {
        let number = self
            .opened
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |opened| {
                self.workload.more(opened).then_some(opened + 1)
            })
            .ok()?;
        Some(self.open(number))
    }

    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    /// The address to which this connection's client connects.
    fn target(&self, connection: &Connection) -> SocketAddr {
        self.targets[number_of(connection.id) as usize % self.targets.len()]
    }

    /// The client socket of a connection, connected or connecting; `None` if its server was killed.
    pub fn connect(&self, connection: &Arc<Connection>) -> io::Result<Option<TcpStream>> {
        let target = self.target(connection);
        let nonblocking = self.parts.modes[Side::Client.index()] == Mode::Nonblocking;
        let source = self
            .peer
            .as_ref()
            .map(|_| (peer::source_of(number_of(connection.id)), 0).into());
        match stream::connect(source, target, nonblocking && !self.common.late) {
            Ok(stream) => {
                stream.set_nonblocking(nonblocking)?;
                self.expect(connection, stream.local_addr()?);
                self.workload.tune(connection.id, Side::Client, &stream)?;
                Ok(Some(stream))
            }
            Err(error) if self.peer.is_some() && is_reset("connect", &error) => {
                self.monitor.close(connection, Side::Client);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Announces to the server which client it is about to accept.
    fn expect(&self, connection: &Arc<Connection>, client: SocketAddr) {
        if self.peer.is_some() {
            return;
        }
        let pair = (canonical(client), self.target(connection));
        self.registry.lock().insert(pair, Arc::clone(connection));
        self.registry.changed.notify_all();
    }

    /// Accepts the next client of a listener, with its connection unless the client is not ours.
    pub fn accept(&self, listener: usize) -> io::Result<(TcpStream, Option<Arc<Connection>>)> {
        let nonblocking = self.parts.modes[Side::Server.index()] == Mode::Nonblocking;
        let (stream, client) = self.listeners[listener].accept(nonblocking && !self.common.late)?;
        stream.set_nonblocking(nonblocking)?;
        let connection = match self.peer {
            None => self.claim(listener, client),
            Some(_) => peer::number_of(client.ip()).map(|number| {
                self.opened.fetch_add(1, Ordering::SeqCst);
                self.open(number)
            }),
        };
        match &connection {
            Some(connection) => self.workload.tune(connection.id, Side::Server, &stream)?,
            None => self.monitor.fault(format!(
                "accepted a connection from {client} that no client opened"
            )),
        }
        Ok((stream, connection))
    }

    /// Waits, as the client's thread may not have announced it yet.
    fn claim(&self, listener: usize, client: SocketAddr) -> Option<Arc<Connection>> {
        let pair = (canonical(client), self.targets[listener]);
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

    /// Corrupts the byte selected by `--flip`.
    pub fn flip(&self, connection: &Connection, side: Side, offset: u64, bytes: &mut [u8]) {
        flip_byte(self.common.flip_of(number_of(connection.id), side), offset, bytes);
    }
}

pub fn id_of(run: u64, number: u64) -> u64 {
    run << NUMBER_BITS | number
}

/// A connection's number within its run.
pub fn number_of(id: u64) -> u64 {
    id & ((1 << NUMBER_BITS) - 1)
}

/// Both sides at work.
pub struct Running {
    run: Arc<Run>,
    sides: Vec<thread::JoinHandle<Result<Tally>>>,
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

/// True for the errors by which a call shows that the peer reset or refused the connection.
pub fn is_reset(call: &str, error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected};
    match call {
        "connect" => matches!(error.kind(), ConnectionRefused | ConnectionReset),
        "send" => matches!(error.kind(), ConnectionReset | BrokenPipe),
        "shutdown" => error.kind() == NotConnected,
        _ => error.kind() == ConnectionReset,
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A listener and the address for its clients.
pub fn listen(family: Family, number: u8, nonblocking: bool) -> io::Result<(Listener, SocketAddr)> {
    let v4 = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1 + number));
    let (bind, target) = match family {
        Family::V4 => (v4, v4),
        Family::V6 => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
        Family::Mapped => (Ipv6Addr::UNSPECIFIED.into(), v4),
    };
    let listener = Listener::bind(SocketAddr::new(bind, 0), nonblocking, false)?;
    let target = SocketAddr::new(target, listener.address().port());
    Ok((listener, target))
}
