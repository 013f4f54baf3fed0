//! Answers questions to a running instance (see [`protocol`](crate::model::protocol)).
//!
//! Anyone may ask, as with `ss`; only root sees the processes of other users. Orders and handover are reserved for root and the
//! user of the instance.

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

use super::handover;
use super::request::{Answer, Asked, Request};
use crate::datapath::cgroup::Cgroups;
use crate::model::document::{Flows, Process, Status};
use crate::model::protocol::{DENIED, FOLDER, PATIENCE, Question, REPLACE, socket_of};

/// Askers served at a time; more are turned away. Users other than root get half of them.
const ASKERS: usize = 32;
/// The size limit of a question.
const QUESTION_BYTES: u64 = 64;

/// Answers until dropped.
pub struct Control {
    /// The socket, and links to it named after the other cgroups.
    names: Vec<PathBuf>,
    listener: Arc<UnixListener>,
}

impl Control {
    /// Starts answering for the instance on these cgroups, which must be locked. Questions go to `main_loop`.
    pub fn open(cgroups: &Cgroups, main_loop: Sender<Request>) -> Result<Self> {
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
            .spawn(move || answer_all(&listener, &main_loop))
            .context("failed to start a thread")?;
        Ok(control)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        for name in &self.names {
            // A leftover name is harmless.
            let _ = fs::remove_file(name);
        }
        // So is a listener without a name.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

/// Removes the socket file of an instance that was killed.
fn forget(name: &Path) -> Result<()> {
    match fs::remove_file(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", name.display()))
        }
        _ => Ok(()),
    }
}

fn answer_all(listener: &UnixListener, main_loop: &Sender<Request>) {
    // One reference per asker.
    let askers = Arc::new(());
    for asker in listener.incoming() {
        let asker = match asker {
            Ok(asker) => asker,
            // It was shut down.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            Err(_) => {
                // Perhaps too many open files, which may pass.
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
        let (main_loop, one) = (main_loop.clone(), Arc::clone(&askers));
        let talk = move || {
            // An asker that has gone needs no answer.
            let _ = answer(asker, &peer, &main_loop);
            drop(one);
        };
        // Without a thread, the asker is turned away.
        drop(thread::Builder::new().spawn(talk));
    }
}

fn answer(mut asker: UnixStream, peer: &UnixCredentials, main_loop: &Sender<Request>) -> Result<()> {
    asker.set_read_timeout(Some(PATIENCE))?;
    asker.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new((&asker).take(QUESTION_BYTES)).read_line(&mut line)?;
    if line.trim_end() == REPLACE {
        return hand_over(&asker, peer, main_loop);
    }
    let question: Question = line.trim_end().parse()?;
    if question.is_order() && !may_order(peer) {
        asker.write_all(DENIED)?;
        return Ok(());
    }
    let text = match ask(main_loop, question)? {
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

/// Root and the user of the instance.
fn may_order(peer: &UnixCredentials) -> bool {
    peer.uid() == 0 || peer.uid() == Uid::effective().as_raw()
}

fn hand_over(asker: &UnixStream, peer: &UnixCredentials, main_loop: &Sender<Request>) -> Result<()> {
    let by = u32::try_from(peer.pid()).unwrap_or(0);
    let offer = if may_order(peer) {
        wait_for(main_loop, |reply| Request::Replace { by, reply })
    } else {
        Err(anyhow!("only root and the user that it runs as may replace it"))
    };
    let offer = offer.map_err(|error| format!("{error:#}"));
    let is_ready = handover::offer(asker, &offer).unwrap_or(false);
    if offer.is_ok() {
        // No answer is sent: the main loop drops the channel.
        let _ = wait_for::<()>(main_loop, |told| Request::Replaced { by, is_ready, told });
    }
    Ok(())
}

/// The status, for use within the instance.
pub fn sample_of(main_loop: &Sender<Request>) -> Result<Status> {
    match ask(main_loop, Question::Sample)? {
        Answer::Status(status) => Ok(*status),
        Answer::Flows(_) | Answer::Adopted(_) => bail!("the status was asked for"),
    }
}

fn ask(main_loop: &Sender<Request>, question: Question) -> Result<Answer> {
    wait_for(main_loop, |reply| Request::Asked(Asked { question, reply }))
}

/// Sends a request and waits for its answer.
fn wait_for<T>(
    main_loop: &Sender<Request>,
    request: impl FnOnce(SyncSender<Result<T>>) -> Request,
) -> Result<T> {
    let (reply, answer) = mpsc::sync_channel(1);
    main_loop
        .send(request(reply))
        .map_err(|_| anyhow!("the instance is ending"))?;
    answer
        .recv_timeout(PATIENCE)
        .context("the instance is busy or ending")?
}

/// Users other than root see only their own processes.
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
