//! Tells the service manager how the tool fares: ready, stopping, alive, and in a line what it does (sd_notify(3)).

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// The service manager that has started this process, if one has.
#[derive(Debug, Default)]
pub struct Manager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Watchdog>,
}

#[derive(Debug)]
struct Watchdog {
    period: Duration,
    due: Instant,
}

impl Manager {
    /// As NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say. Fails if the socket that they name cannot be reached.
    pub fn from_environment() -> Result<Self> {
        let Some(address) = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else {
            return Ok(Self::default());
        };
        let variable = |name| env::var(name).ok();
        let period = watchdog_period(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), process::id());
        Self::connect(&address, period).with_context(|| {
            format!(
                "failed to reach the service manager at {}, named in NOTIFY_SOCKET",
                address.to_string_lossy()
            )
        })
    }

    fn connect(address: &OsStr, period: Option<Duration>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // A manager that does not listen is not to hold up what it manages.
        socket.set_nonblocking(true)?;
        socket.connect_addr(&socket_address(address)?)?;
        Ok(Self {
            socket: Some(socket),
            watchdog: period.map(|period| Watchdog {
                period,
                due: Instant::now(),
            }),
        })
    }

    /// From now on connections are accelerated.
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

    /// To be called more often than the watchdog barks: it tells the manager twice in that time.
    pub fn alive(&mut self) {
        let Some(watchdog) = &mut self.watchdog else {
            return;
        };
        let now = Instant::now();
        if now < watchdog.due {
            return;
        }
        watchdog.due = now + watchdog.period;
        self.tell("WATCHDOG=1");
    }

    /// What cannot be said is no reason to stop: the manager sees for itself whether the process lives.
    fn tell(&self, text: &str) {
        let _ = self.send(text);
    }

    fn send(&self, text: &str) -> io::Result<()> {
        match &self.socket {
            Some(socket) => socket.send(text.as_bytes()).map(|_| ()),
            None => Ok(()),
        }
    }
}

/// A path, or with `@` in front a name in the abstract namespace.
fn socket_address(address: &OsStr) -> io::Result<SocketAddr> {
    match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(address),
        _ => Err(io::Error::other("it is neither a path nor an abstract socket")),
    }
}

/// Half of the time after which the manager would end the process with this number.
fn watchdog_period(microseconds: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let microseconds: u64 = microseconds?.parse().ok()?;
    (microseconds > 0).then(|| Duration::from_micros(microseconds / 2))
}

/// A line end would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A manager's socket, with an end of time to wait for a message.
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

    #[test]
    fn an_abstract_socket_hears_each_message() {
        let name = format!("sockredir-notify-{}", process::id());
        let heard = listening(&SocketAddr::from_abstract_name(&name).unwrap());
        let manager = Manager::connect(OsStr::new(&format!("@{name}")), None).unwrap();
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
        let mut manager = Manager::connect(path.as_os_str(), Some(Duration::from_secs(3600))).unwrap();
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
        let mut manager = Manager::connect(OsStr::new(&format!("@{name}")), None).unwrap();
        manager.alive();
        manager.status("after that");
        assert_eq!(received(&heard), "STATUS=after that");
    }

    #[test]
    fn a_manager_that_listens_no_more_fails_only_the_readiness() {
        let name = format!("sockredir-notify-gone-{}", process::id());
        let heard = listening(&SocketAddr::from_abstract_name(&name).unwrap());
        let manager = Manager::connect(OsStr::new(&format!("@{name}")), None).unwrap();
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
            let refused = Manager::connect(OsStr::new(address), None);
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
