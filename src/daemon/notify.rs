//! Keeps the service manager informed: ready, stopping, alive, and a status line (sd_notify(3)).

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// How to reach a service manager, and how often.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Service {
    /// As in NOTIFY_SOCKET.
    socket: String,
    /// Half of the watchdog timeout.
    watchdog: Option<Duration>,
}

/// The service manager of this process, if it has one.
#[derive(Debug, Default)]
pub struct Manager {
    reached: Option<(UnixDatagram, Service)>,
    /// When the next watchdog notification is due.
    due: Option<Instant>,
}

impl Manager {
    /// Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID. Fails if the socket cannot be reached.
    pub fn from_environment() -> Result<Self> {
        let Some(address) = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else {
            return Ok(Self::default());
        };
        let variable = |name| env::var(name).ok();
        Self::of(&Service {
            socket: address.to_string_lossy().into_owned(),
            watchdog: watchdog_period(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), process::id()),
        })
    }

    /// The manager of another process, which has handed over to this one.
    pub fn of(service: &Service) -> Result<Self> {
        let connect = || -> io::Result<UnixDatagram> {
            let socket = UnixDatagram::unbound()?;
            // A manager that does not read must not block its service.
            socket.set_nonblocking(true)?;
            socket.connect_addr(&socket_address(&service.socket)?)?;
            Ok(socket)
        };
        let socket = connect().with_context(|| {
            format!(
                "failed to reach the service manager at {}, named in NOTIFY_SOCKET",
                service.socket
            )
        })?;
        Ok(Self {
            reached: Some((socket, service.clone())),
            due: service.watchdog.map(|_| Instant::now()),
        })
    }

    pub fn service(&self) -> Option<&Service> {
        self.reached.as_ref().map(|(_, service)| service)
    }

    /// Connections are accelerated from now on.
    pub fn ready(&self, status: &str) -> Result<()> {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)))
            .context("failed to tell the service manager that it is ready")
    }

    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={}", one_line(status)));
    }

    pub fn stopping(&self, status: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }

    /// The main process is another one now, which sends its own notifications.
    pub fn replaced_by(&mut self, pid: u32) {
        self.tell(&format!("MAINPID={pid}"));
        *self = Self::default();
    }

    /// Must be called more often than the watchdog period, which is half the timeout.
    pub fn alive(&mut self) {
        let now = Instant::now();
        let (Some(due), Some(period)) = (self.due, self.service().and_then(|service| service.watchdog))
        else {
            return;
        };
        if now < due {
            return;
        }
        self.due = Some(now + period);
        self.tell("WATCHDOG=1");
    }

    /// A failed notification is no reason to stop: the manager watches the process itself.
    fn tell(&self, text: &str) {
        let _ = self.send(text);
    }

    fn send(&self, text: &str) -> io::Result<()> {
        match &self.reached {
            Some((socket, _)) => socket.send(text.as_bytes()).map(|_| ()),
            None => Ok(()),
        }
    }
}

/// A socket on which this process acts as another one's service manager.
pub struct Listening(UnixDatagram);

impl Listening {
    /// The second value is the other process's NOTIFY_SOCKET.
    pub fn begin() -> io::Result<(Self, String)> {
        let name = format!("sockredir-{}", process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        Ok((Self(socket), format!("@{name}")))
    }

    /// Waits at most this long.
    pub fn is_ready(&self, time: Duration) -> io::Result<bool> {
        self.0.set_read_timeout(Some(time))?;
        let mut message = [0; 16];
        match self.0.recv(&mut message) {
            Ok(length) => Ok(message[..length].starts_with(b"READY=1")),
            Err(error) if is_early(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn is_early(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// A path, or a name in the abstract namespace if it begins with `@`.
fn socket_address(address: &str) -> io::Result<SocketAddr> {
    match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None if address.starts_with('/') => SocketAddr::from_pathname(address),
        None => Err(io::Error::other("it is neither a path nor an abstract socket")),
    }
}

/// Half of the watchdog timeout, if it applies to this PID.
fn watchdog_period(microseconds: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let microseconds: u64 = microseconds?.parse().ok()?;
    (microseconds > 0).then(|| Duration::from_micros(microseconds / 2))
}

/// A newline would start another assignment.
fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A manager's socket with a read timeout.
    fn listening(address: &SocketAddr) -> UnixDatagram {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn manager(socket: &str, watchdog: Option<Duration>) -> Result<Manager> {
        Manager::of(&Service {
            socket: socket.to_owned(),
            watchdog,
        })
    }

    #[test]
    fn an_abstract_socket_hears_each_message() {
        let name = format!("sockredir-notify-{}", process::id());
        let heard = listening(&SocketAddr::from_abstract_name(&name).unwrap());
        let manager = manager(&format!("@{name}"), None).unwrap();
        manager.ready("all ports,\nall programs").unwrap();
        assert_eq!(received(&heard), "READY=1\nSTATUS=all ports, all programs");
        manager.status("7 flows");
        assert_eq!(received(&heard), "STATUS=7 flows");
        manager.stopping("draining");
        assert_eq!(received(&heard), "STOPPING=1\nSTATUS=draining");
    }

    #[test]
    fn a_socket_with_a_path_hears_that_the_process_is_alive() {
        let path = env::temp_dir().join(format!("sockredir-notify-{}", process::id()));
        let heard = listening(&SocketAddr::from_pathname(&path).unwrap());
        let mut manager = manager(path.to_str().unwrap(), Some(Duration::from_secs(3600))).unwrap();
        fs::remove_file(&path).unwrap();
        manager.alive();
        // Not again before it is due.
        manager.alive();
        manager.status("after that");
        assert_eq!(received(&heard), "WATCHDOG=1");
        assert_eq!(received(&heard), "STATUS=after that");
    }

    #[test]
    fn without_a_watchdog_nothing_is_said_of_being_alive() {
        let name = format!("sockredir-notify-quiet-{}", process::id());
        let heard = listening(&SocketAddr::from_abstract_name(&name).unwrap());
        let mut manager = manager(&format!("@{name}"), None).unwrap();
        manager.alive();
        manager.status("after that");
        assert_eq!(received(&heard), "STATUS=after that");
    }

    #[test]
    fn a_process_that_was_replaced_names_the_other_one_and_is_quiet() {
        let (heard, address) = Listening::begin().unwrap();
        let mut old = manager(&address, Some(Duration::from_secs(3600))).unwrap();
        assert!(!heard.is_ready(Duration::from_millis(1)).unwrap());
        let offered = old.service().cloned().unwrap();
        old.replaced_by(7);
        old.alive();
        old.status("unheard");
        Manager::of(&offered).unwrap().ready("the new one").unwrap();
        assert_eq!(received(&heard.0), "MAINPID=7");
        assert!(heard.is_ready(Duration::from_secs(10)).unwrap());
    }

    #[test]
    fn a_manager_that_listens_no_more_fails_only_the_readiness() {
        let name = format!("sockredir-notify-gone-{}", process::id());
        let heard = listening(&SocketAddr::from_abstract_name(&name).unwrap());
        let manager = manager(&format!("@{name}"), None).unwrap();
        drop(heard);
        manager.status("unheard");
        manager.stopping("unheard");
        assert!(manager.ready("unheard").is_err());
    }

    #[test]
    fn without_a_manager_everything_is_quiet() {
        let mut manager = Manager::default();
        manager.ready("nobody hears it").unwrap();
        manager.alive();
        manager.stopping("nobody hears it");
    }

    #[test]
    fn only_paths_and_abstract_names_are_addresses() {
        for address in ["vsock:2:1234", "relative", "@"] {
            let refused = manager(address, None);
            assert!(refused.is_err(), "{address}");
        }
    }

    #[test]
    fn the_watchdog_is_told_twice_in_its_time_if_it_is_ours() {
        let text = |text: &str| Some(text.to_owned());
        let half = Some(Duration::from_secs(15));
        assert_eq!(watchdog_period(text("30000000"), None, 7), half);
        assert_eq!(watchdog_period(text("30000000"), text("7"), 7), half);
        assert_eq!(watchdog_period(text("30000000"), text("8"), 7), None);
        assert_eq!(watchdog_period(text("0"), None, 7), None);
        assert_eq!(watchdog_period(text("soon"), None, 7), None);
        assert_eq!(watchdog_period(None, text("7"), 7), None);
    }
}
