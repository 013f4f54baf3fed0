//! The protocol of a running instance: a Unix socket, named after its cgroup.
//!
//! A question is one line; the answer is JSON, up to the end of the connection.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

/// Where the sockets are; each is named after the inode of its cgroup.
pub const FOLDER: &str = "/run/sockredir";
/// How long either side waits for the other.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The word of an instance that wants to take over.
pub const REPLACE: &str = "replace";
/// The answer to a user who may not ask for this.
pub const DENIED: &[u8] = b"null";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Question {
    /// The status; restarts the interval of its rates.
    Status,
    /// The status, without side effects.
    Sample,
    Flows,
    /// Have established connections adopted; for root and the user of the instance.
    Adopt,
}

impl Question {
    const ALL: [Self; 4] = [Self::Status, Self::Sample, Self::Flows, Self::Adopt];

    pub fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Sample => "sample",
            Self::Flows => "flows",
            Self::Adopt => "adopt",
        }
    }

    /// True if it changes what the instance does.
    pub fn is_order(self) -> bool {
        self == Self::Adopt
    }
}

impl FromStr for Question {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|question| question.word() == word) {
            Some(question) => Ok(question),
            None => bail!("no such question: {word}"),
        }
    }
}

/// The path of the instance's socket, by the cgroup's inode.
pub fn socket_of(inode: u64) -> PathBuf {
    Path::new(FOLDER).join(format!("{inode}.sock"))
}

/// Connects to the instance on a cgroup, given by inode and path.
pub fn connect(inode: u64, cgroup: &Path) -> Result<UnixStream> {
    let shown = cgroup.display();
    UnixStream::connect(socket_of(inode)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            anyhow!("no sockredir runs on cgroup {shown}: start it with `sockredir run --cgroup {shown}`")
        }
        _ => anyhow!("failed to reach the sockredir on cgroup {shown}: {error}"),
    })
}

/// The answer follows.
pub fn say(stream: &mut UnixStream, word: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    writeln!(stream, "{word}")
}
