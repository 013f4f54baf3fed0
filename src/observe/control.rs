//! How a running instance is asked what it does: over a Unix socket, by name of its cgroup.
//!
//! A question is a line, the answer is JSON, and the end of the connection ends it. Anyone may ask, as with `ss`; the processes
//! of other users are told to root only. What changes something, and to hand over, is for root and the instance's own user.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender, SyncSender};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{Shutdown, UnixCredentials, getsockopt, shutdown};
use nix::unistd::Uid;
use serde::de::DeserializeOwned;

use super::desk::{Answer, Asked, Event, Question};
use super::model::{Adopted, Flows, Process, Status};
use super::text::folders;
use crate::cgroup::{Cgroup, Cgroups};
use crate::handover;

/// Where the sockets are, each named after the inode of its cgroup.
const FOLDER: &str = "/run/sockredir";
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions at a time; more are turned away. Other users than root have half of them.
const ASKERS: usize = 32;
/// A question is shorter.
const QUESTION_BYTES: u64 = 64;
/// What the instance that takes over says.
const REPLACE: &str = "replace";
/// The answer to a user who may not ask for that.
const DENIED: &[u8] = b"null";

/// Answers until it is dropped.
pub struct Control {
    /// The socket, and links to it by the names of the other cgroups.
    names: Vec<PathBuf>,
    listener: Arc<UnixListener>,
}

impl Control {
    /// Begins to answer for the instance on these cgroups, which must have locked them. Questions go to `desk`.
    pub fn open(cgroups: &Cgroups, desk: Sender<Event>) -> Result<Self> {
        fs::create_dir_all(FOLDER)
            .and_then(|()| fs::set_permissions(FOLDER, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("failed to make {FOLDER}"))?;
        let names: Vec<_> = cgroups.iter().map(|cgroup| socket_of(cgroup.inode())).collect();
        names.iter().try_for_each(|name| forget(name))?;
        let (socket, others) = (names[0].clone(), names[1..].to_vec());
        let shown = socket.display();
        let listener = UnixListener::bind(&socket).with_context(|| format!("failed to bind {shown}"))?;
        let listener = Arc::new(listener);
        let control = Self {
            names,
            listener: Arc::clone(&listener),
        };
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))
            .with_context(|| format!("failed to let others connect to {shown}"))?;
        for name in others {
            symlink(&socket, &name).with_context(|| format!("failed to make {}", name.display()))?;
        }
        thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || answer_all(&listener, &desk))
            .context("failed to start a thread")?;
        Ok(control)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        for name in &self.names {
            // It is harmless when it stays.
            let _ = fs::remove_file(name);
        }
        // Or when it goes on to listen without a name.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

/// Removes the name of an instance that was killed.
fn forget(name: &Path) -> Result<()> {
    match fs::remove_file(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", name.display()))
        }
        _ => Ok(()),
    }
}

fn socket_of(inode: u64) -> PathBuf {
    Path::new(FOLDER).join(format!("{inode}.sock"))
}

fn answer_all(listener: &UnixListener, desk: &Sender<Event>) {
    // One copy for each asker.
    let askers = Arc::new(());
    for asker in listener.incoming() {
        let asker = match asker {
            Ok(asker) => asker,
            // It was shut down.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            Err(_) => {
                // Such as too many open files: it may be better in a moment.
                thread::sleep(Duration::from_millis(10));
                continue;
            }
        };
        let Ok(peer) = getsockopt(&asker, PeerCredentials) else {
            continue;
        };
        let most = if peer.uid() == 0 { ASKERS } else { ASKERS / 2 };
        if Arc::strong_count(&askers) > most {
            continue;
        }
        let (desk, one) = (desk.clone(), Arc::clone(&askers));
        let talk = move || {
            // An asker that has gone wants no answer.
            let _ = answer(asker, &peer, &desk);
            drop(one);
        };
        // Without a thread for it, the asker is turned away.
        drop(thread::Builder::new().spawn(talk));
    }
}

fn answer(mut asker: UnixStream, peer: &UnixCredentials, desk: &Sender<Event>) -> Result<()> {
    asker.set_read_timeout(Some(PATIENCE))?;
    asker.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new((&asker).take(QUESTION_BYTES)).read_line(&mut line)?;
    if line.trim_end() == REPLACE {
        return hand_over(&asker, peer, desk);
    }
    let question: Question = line.trim_end().parse()?;
    if question.is_order() && !may_order(peer) {
        asker.write_all(DENIED)?;
        return Ok(());
    }
    let text = match ask(desk, question)? {
        Answer::Status(status) => serde_json::to_vec(&status)?,
        Answer::Flows(mut flows) => {
            hide_foreign(&mut flows, peer.uid());
            serde_json::to_vec(&flows)?
        }
        Answer::Adopted(adopted) => serde_json::to_vec(&adopted)?,
    };
    asker.write_all(&text)?;
    Ok(())
}

/// Root, and whoever runs the instance.
fn may_order(peer: &UnixCredentials) -> bool {
    peer.uid() == 0 || peer.uid() == Uid::effective().as_raw()
}

fn hand_over(asker: &UnixStream, peer: &UnixCredentials, desk: &Sender<Event>) -> Result<()> {
    let by = u32::try_from(peer.pid()).unwrap_or(0);
    let offer = if may_order(peer) {
        wait_for(desk, |reply| Event::Replace { by, reply })
    } else {
        Err(anyhow!("only root and the user that it runs as may replace it"))
    };
    let offer = offer.map_err(|error| format!("{error:#}"));
    let is_ready = handover::offer(asker, &offer).unwrap_or(false);
    if offer.is_ok() {
        // Nothing is sent: the desk drops its end.
        let _ = wait_for::<()>(desk, |told| Event::Replaced { by, is_ready, told });
    }
    Ok(())
}

/// The status, asked for within the instance.
pub fn sample_of(desk: &Sender<Event>) -> Result<Status> {
    match ask(desk, Question::Sample)? {
        Answer::Status(status) => Ok(*status),
        Answer::Flows(_) | Answer::Adopted(_) => bail!("the status was asked for"),
    }
}

fn ask(desk: &Sender<Event>, question: Question) -> Result<Answer> {
    wait_for(desk, |reply| Event::Asked(Asked { question, reply }))
}

/// What comes back for an event.
fn wait_for<T>(desk: &Sender<Event>, event: impl FnOnce(SyncSender<Result<T>>) -> Event) -> Result<T> {
    let (reply, answer) = mpsc::sync_channel(1);
    desk.send(event(reply))
        .map_err(|_| anyhow!("the instance is ending"))?;
    answer
        .recv_timeout(PATIENCE)
        .context("the instance is busy or ending")?
}

/// Users other than root learn of their own processes only.
fn hide_foreign(flows: &mut Flows, uid: u32) {
    if uid == 0 {
        return;
    }
    let is_own = |process: &Process| process.uid == uid;
    let ends = flows
        .flows
        .iter_mut()
        .flat_map(|flow| [&mut flow.client, &mut flow.server]);
    for end in ends {
        end.processes.retain(is_own);
    }
    for listener in &mut flows.listeners {
        listener.processes.retain(is_own);
    }
}

/// Asks the instance on a cgroup, or the only one.
pub fn status(cgroup: Option<&Path>) -> Result<Status> {
    question(cgroup, Question::Status)
}

/// As [`status`], but the instance does not begin to count anew for `since_last`.
pub fn sample(cgroup: Option<&Path>) -> Result<Status> {
    question(cgroup, Question::Sample)
}

pub fn flows(cgroup: Option<&Path>) -> Result<Flows> {
    question(cgroup, Question::Flows)
}

/// Has established connections adopted.
pub fn adopt(cgroup: Option<&Path>) -> Result<Adopted> {
    let adopted: Option<Adopted> = question(cgroup, Question::Adopt)?;
    adopted.context("only root and the user of the running sockredir may have it adopt connections")
}

fn question<T: DeserializeOwned>(cgroup: Option<&Path>, question: Question) -> Result<T> {
    let stream = match cgroup {
        Some(path) => connect_to(path)?,
        None => connect_to_only()?,
    };
    let answer = converse(stream, question).context("failed to ask the running sockredir")?;
    if answer.is_empty() {
        bail!("the running sockredir did not answer, it is busy or ending: try again");
    }
    serde_json::from_slice(&answer)
        .context("failed to read the answer of the running sockredir (use the same version as it has)")
}

fn converse(mut stream: UnixStream, question: Question) -> io::Result<Vec<u8>> {
    say(&mut stream, question.word())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// The answer follows.
fn say(stream: &mut UnixStream, word: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    writeln!(stream, "{word}")
}

fn connect_to(path: &Path) -> Result<UnixStream> {
    connect(&Cgroup::open(Some(path))?)
}

fn connect(cgroup: &Cgroup) -> Result<UnixStream> {
    let shown = cgroup.path().display();
    UnixStream::connect(socket_of(cgroup.inode())).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            anyhow!("no sockredir runs on cgroup {shown}: start it with `sockredir run --cgroup {shown}`")
        }
        _ => anyhow!("failed to reach the sockredir on cgroup {shown}: {error}"),
    })
}

/// To the instance on the first of the cgroups that has one.
fn connect_to_any(cgroups: &Cgroups) -> Result<UnixStream> {
    let stream = cgroups.iter().find_map(|cgroup| connect(cgroup).ok());
    stream.map_or_else(|| connect(cgroups.first()), Ok)
}

/// Fails if no instance runs on the cgroups.
pub fn ensure_running(cgroups: &Cgroups) -> Result<()> {
    connect_to_any(cgroups).map(drop)
}

/// Asks the instance on the cgroups to hand over. Its offer follows.
pub fn ask_to_hand_over(cgroups: &Cgroups) -> Result<UnixStream> {
    let mut stream = connect_to_any(cgroups)?;
    say(&mut stream, REPLACE).context("failed to ask the running sockredir")?;
    Ok(stream)
}

fn connect_to_only() -> Result<UnixStream> {
    let files = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    // An instance on several cgroups has one socket, and links to it.
    let mut streams: Vec<UnixStream> = files
        .filter(|file| file.file_type().is_ok_and(|kind| !kind.is_symlink()))
        .filter_map(|file| UnixStream::connect(file.path()).ok())
        .collect();
    let Some(stream) = streams.pop() else {
        bail!("no sockredir runs on this host: start it with `sockredir run`");
    };
    if streams.is_empty() {
        return Ok(stream);
    }
    streams.push(stream);
    let mut cgroups: Vec<String> = streams.into_iter().filter_map(cgroup_of).collect();
    cgroups.sort();
    bail!(
        "several sockredir run: name the cgroup of one with --cgroup ({})",
        cgroups.join(", ")
    )
}

fn cgroup_of(stream: UnixStream) -> Option<String> {
    let answer = converse(stream, Question::Sample).ok()?;
    let status: Status = serde_json::from_slice(&answer).ok()?;
    Some(folders(&status.instance.cgroups))
}
