//! Owns network namespaces: created without a name, reached by descriptor, gone with their last user.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;

use super::sys;

/// A network namespace; it lives as long as any of its copies or any process in it.
#[derive(Clone)]
pub struct Network(Arc<OwnedFd>);

impl Network {
    /// Creates one with loopback up.
    pub fn new() -> Self {
        let maker = thread::spawn(|| {
            sys::unshare_network()?;
            sys::loopback_up()?;
            File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
        });
        let made: io::Result<OwnedFd> = maker
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that makes it panicked")));
        Self(Arc::new(made.expect("failed to make a network namespace")))
    }

    /// The network namespace of a process.
    pub fn of(pid: u32) -> Self {
        let file = File::open(format!("/proc/{pid}/ns/net"));
        let file = file.unwrap_or_else(|error| panic!("failed to open the namespace of {pid}: {error}"));
        Self(Arc::new(file.into()))
    }

    /// A path under which `ip` can find it while this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs a closure in a thread that has entered it.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                sys::enter_network(self.0.as_fd()).expect("failed to enter the namespace");
                work()
            });
            inside.join().expect("the thread in the namespace panicked")
        })
    }

    /// Starts a command in it, and in the cgroup whose `cgroup.procs` is open.
    pub fn take(&self, command: &mut Command, procs: File) {
        sys::start_inside(command, procs, Arc::clone(&self.0));
    }

    /// Runs a whitespace-separated command line in it and returns its output; failure panics.
    pub fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words);
        let Output {
            status,
            stdout,
            stderr,
        } = self
            .inside(|| command.output())
            .unwrap_or_else(|error| panic!("failed to run {line}: {error}"));
        let text = String::from_utf8_lossy(&stdout).into_owned();
        assert!(
            status.success(),
            "{line}: {status}: {text}{}",
            String::from_utf8_lossy(&stderr)
        );
        text
    }

    /// Loads an nftables ruleset into it.
    pub fn filter(&self, rules: &str) {
        // nft wants a line break after each block.
        let rules = rules.replace('}', "}\n");
        let output = self.inside(|| Command::new("nft").arg(rules).output());
        let output = output.expect("failed to run nft");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Writes a setting below /proc/sys/net.
    pub fn set(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/{name}");
        self.inside(|| std::fs::write(&path, value))
            .unwrap_or_else(|error| panic!("failed to set {name}: {error}"));
    }

    /// The bytes that an interface has received and sent.
    pub fn bytes(&self, interface: &str) -> (u64, u64) {
        let text = self.inside(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
        let text = text.expect("failed to read the counters of the interfaces");
        let line = text
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
        let columns: Vec<u64> = line
            .into_iter()
            .flat_map(str::split_whitespace)
            .filter_map(|word| word.parse().ok())
            .collect();
        assert_eq!(
            columns.len(),
            16,
            "no interface {interface} in the namespace:\n{text}"
        );
        (columns[0], columns[8])
    }
}
