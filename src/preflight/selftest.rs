//! Checks, on connections of the tool's own, that this kernel behaves as the datapath expects.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::connection::{Connection, PATIENCE, Received, TestCgroup, TestSocket, until};
use crate::datapath::{Coverage, Datapath, sys};
use crate::model::counters::{Counter, Counters};
use crate::model::finding::Finding;
use crate::model::safety::SafetyCheck;

const KERNELS: &str = "use Linux 6.12.75, 6.18.14, 7.0 or a later one of these series";
/// Doubled by the kernel. Large enough for the messages of every check except the queue bound.
const BUFFER: usize = 128 << 10;
const SMALL: usize = 10;
/// More than an end observes before its flow is admitted.
const ROUNDS: usize = 12;
/// Of this many small messages in one direction the first are redirected, and then a run of them goes through TCP.
const MIXED: usize = 8;
/// A one-way run of this length takes a flow out of the socket map.
const ONE_WAY: usize = 72;
/// Sockets: the listener, one for each check, and one to splice from.
const CONNECTIONS: usize = 2 + SafetyCheck::OF_CONNECTIONS.len();
/// More messages than one receive queue may hold.
const MANY: usize = 600;
/// The limit on messages in one receive queue.
const MOST_MESSAGES: u64 = 512;

/// The datapath under test, attached to a cgroup of its own.
pub struct SelfTest<'test, 'a> {
    datapath: &'test mut Datapath<'a>,
    begin: Instant,
    bed: TestBed,
}

/// Makes the connections.
struct TestBed {
    listener: TcpListener,
    /// Sockets left to connect.
    sockets: Vec<OwnedFd>,
    /// A connection that no check has used yet.
    first: Option<Connection>,
}

impl TestBed {
    fn connect(&mut self) -> Result<Connection> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let socket = self.sockets.pop().context("there are no sockets left")?;
        Connection::establish(&self.listener, socket).context("failed to connect over loopback")
    }
}

impl<'test, 'a> SelfTest<'test, 'a> {
    /// Needs a cgroup below the given one while sockets are created there, or to be alone in its own; and the loopback
    /// interface.
    pub fn begin(datapath: &'test mut Datapath<'a>, parent: &Path) -> Result<Self, Finding> {
        let begin = Instant::now();
        match set_up(datapath, parent) {
            Ok(bed) => Ok(Self { datapath, begin, bed }),
            Err(finding) => {
                datapath.detach();
                Err(finding)
            }
        }
    }

    /// Runs one check, on a connection of its own.
    pub fn check(&mut self, check: SafetyCheck) -> Result<(), Finding> {
        let tried = self.try_check(check);
        // There may be room for a single flow only.
        self.forget();
        tried.map_err(|error| Finding::new(format!("{} ({error:#})", check.failure()), KERNELS))
    }

    /// Detaches everything and resets the counters. Returns how long the test took.
    pub fn end(mut self) -> Duration {
        // An error counts as not working.
        let splice_works = self.try_splice().unwrap_or(false);
        self.datapath.end_test(splice_works);
        self.begin.elapsed()
    }

    /// True if splice returns redirected data, which it does on no released kernel yet.
    fn try_splice(&mut self) -> Result<bool> {
        let mut connection = self.bed.connect()?;
        connection.converse(ROUNDS, SMALL)?;
        let start = self.datapath.counters()?;
        let Connection { client, server } = &mut connection;
        client.send(SMALL)?;
        self.ensure_redirected(&start)?;
        Ok(sys::splice_all(&server.stream)? == SMALL)
    }

    fn try_check(&mut self, check: SafetyCheck) -> Result<()> {
        let mut connection = self.bed.connect()?;
        let start = self.datapath.counters()?;
        connection.converse(ROUNDS, SMALL)?;
        self.ensure_redirected(&start)?;
        match check {
            SafetyCheck::SelfTest | SafetyCheck::Redirects => Ok(()),
            SafetyCheck::Order => self.order(&mut connection),
            SafetyCheck::Fionread => fionread(&mut connection),
            SafetyCheck::EdgeTriggered => edge_triggered(&mut connection),
            SafetyCheck::QueueBound => self.queue_bound(&mut connection),
            SafetyCheck::AfterClose => after_close(connection),
            SafetyCheck::Leaving => self.leaving(&mut connection),
        }
    }

    /// Waits until the records of closed connections are gone. A leftover shows in the checks that follow.
    fn forget(&self) {
        let _ = until(|| Ok(self.datapath.flows() == 0));
    }

    fn since(&self, start: &Counters) -> Result<Counters> {
        Ok(self.datapath.counters()?.since(start))
    }

    fn ensure_redirected(&self, start: &Counters) -> Result<()> {
        let counted = self.since(start)?;
        ensure!(
            counted.value(const { Counter::of("messages_redirected") }) > 0,
            "{}",
            counted.in_a_line()
        );
        Ok(())
    }

    /// Redirected, through TCP, and redirected again, with nothing read meanwhile.
    fn order(&self, connection: &mut Connection) -> Result<()> {
        let start = self.datapath.counters()?;
        let Connection { client, server } = connection;
        send_mixed(client)?;
        // The answer ends the run that went through TCP.
        server.send(SMALL)?;
        send_mixed(client)?;
        server.receive_until(client.sent)?;
        client.receive_until(server.sent)?;
        let counted = self.since(&start)?;
        ensure!(
            counted.value(const { Counter::of("messages_redirected") }) > 0
                && counted.value(const { Counter::of("messages_one_way") }) > 0,
            "not tried: {}",
            counted.in_a_line()
        );
        Ok(())
    }

    /// Nobody reads: large messages first, then many small ones; both must hit a limit.
    fn queue_bound(&self, connection: &mut Connection) -> Result<()> {
        let most = 4 * 2 * BUFFER;
        let Connection { client, server } = connection;
        let begin = client.sent;
        while client.send(1 << 16)? > 0 {
            ensure!(client.sent - begin <= most, "more than {most} bytes were taken");
        }
        server.receive_until(client.sent)?;
        let start = self.datapath.counters()?;
        for _ in 0..MANY {
            client.send(1)?;
            server.send(1)?;
        }
        let queued = self
            .since(&start)?
            .value(const { Counter::of("messages_redirected") });
        ensure!(queued <= 2 * MOST_MESSAGES, "{queued} messages were queued");
        server.receive_until(client.sent)?;
        client.receive_until(server.sent)
    }

    /// The flow turns into a stream of small messages, and goes back to TCP while some are unread.
    fn leaving(&self, connection: &mut Connection) -> Result<()> {
        for _ in 0..ONE_WAY {
            connection.client.send(SMALL)?;
        }
        // Each call looks at an end that should not leave.
        connection.server.send(SMALL)?;
        connection.client.receive_until(connection.server.sent)?;
        connection.server.receive_until(connection.client.sent)?;
        let left = until(|| {
            connection.converse(1, SMALL)?;
            Ok(self.datapath.ends()?.mapped == 0)
        })?;
        ensure!(left, "they stay in the socket map");
        connection.converse(ROUNDS, SMALL)
    }
}

fn set_up(datapath: &mut Datapath<'_>, parent: &Path) -> Result<TestBed, Finding> {
    let (cgroup, sockets) = sockets_in_a_cgroup(parent).map_err(|error| {
        Finding::new(
            format!(
                "failed to make sockets in a cgroup below {}: {error}",
                parent.display()
            ),
            "run as root where cgroup2 can be written, or in a cgroup without other processes, as a service or a container \
             does",
        )
    })?;
    datapath
        .attach_programs(&[cgroup.folder().as_raw_fd()], &Coverage::everything())
        .map_err(|error| {
            Finding::new(
                format!(
                    "failed to attach to a cgroup below {} or to its own: {error:#}",
                    parent.display()
                ),
                "see with `bpftool cgroup tree` whether other programs have it for themselves",
            )
        })?;
    open(sockets).map_err(|error| {
        Finding::new(
            format!("{error:#}"),
            "bring the loopback interface up with `ip link set lo up`",
        )
    })
}

/// Below the cgroup for `run`; if none can be created, or no process started there, in that of this process.
fn sockets_in_a_cgroup(parent: &Path) -> io::Result<(TestCgroup, Vec<OwnedFd>)> {
    let sockets_of = |cgroup: TestCgroup| {
        let sockets = cgroup.sockets(CONNECTIONS)?;
        Ok((cgroup, sockets))
    };
    TestCgroup::below(parent)
        .and_then(sockets_of)
        .or_else(|error| TestCgroup::own().ok_or(error).and_then(sockets_of))
}

fn open(mut sockets: Vec<OwnedFd>) -> Result<TestBed> {
    for socket in &sockets {
        sys::fix_buffers(socket, BUFFER as i32)?;
    }
    let listener = sys::listen(sockets.pop().context("there are no sockets")?)?;
    let mut bed = TestBed {
        listener,
        sockets,
        first: None,
    };
    bed.first = Some(bed.connect()?);
    Ok(bed)
}

/// A few messages: the first are redirected, the last go through TCP.
fn send_mixed(end: &mut TestSocket) -> Result<()> {
    (0..MIXED).try_for_each(|_| end.send(SMALL).map(drop))
}

fn fionread(connection: &mut Connection) -> Result<()> {
    let Connection { client, server } = connection;
    for _ in 0..MIXED {
        client.send(SMALL)?;
        let unread = client.sent - server.received;
        let mut said = 0;
        until(|| {
            said = sys::unread_bytes(&server.stream)?;
            Ok(said == unread)
        })?;
        ensure!(said == unread, "it says {said} of {unread}");
    }
    server.receive_until(client.sent)?;
    let said = sys::unread_bytes(&server.stream)?;
    ensure!(said == 0, "it says {said} when all is read");
    Ok(())
}

/// Every arrival raises an edge, and a short read has emptied the queue.
fn edge_triggered(connection: &mut Connection) -> Result<()> {
    let Connection { client, server } = connection;
    let edges = sys::Edges::of(&server.stream)?;
    for message in 1..=MIXED {
        client.send(SMALL)?;
        ensure!(edges.next(PATIENCE)?, "no edge for message {message} of {MIXED}");
    }
    let unread = client.sent - server.received;
    match server.receive()? {
        Received::Bytes(got) => ensure!(got == unread, "a read stopped at {got} of {unread} bytes"),
        Received::Nothing | Received::End => bail!("nothing to read after {MIXED} edges"),
    }
    client.send(SMALL)?;
    ensure!(edges.next(PATIENCE)?, "no edge after a short read");
    server.receive_until(client.sent)
}

fn after_close(connection: Connection) -> Result<()> {
    let Connection {
        mut client,
        mut server,
    } = connection;
    send_mixed(&mut client)?;
    drop(client.stream);
    server.receive_until(client.sent)?;
    let ended = until(|| match server.receive()? {
        Received::End => Ok(true),
        Received::Nothing => Ok(false),
        Received::Bytes(_) => bail!("more arrived than was sent"),
    })?;
    ensure!(ended, "the end did not arrive");
    Ok(())
}
