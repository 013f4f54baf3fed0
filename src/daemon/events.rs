//! Does at once what the datapath asks for: not in the loop of the instance, which may be in a scan.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::datapath::{Datapath, Event, Events, Images, send_resets};
use crate::image::{self, Splicing};
use crate::model::known::{File, Image};
use crate::model::output::announce;

/// After resets, so that whoever causes many does not keep a processor busy; far less than anybody notices.
const STEP: Duration = Duration::from_millis(20);

/// The thread; it ends with this, when it has done what there was to do.
#[derive(Debug)]
pub struct EventThread {
    end: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// What it works with.
struct Work {
    events: Events,
    images: Images,
    /// What was said already, which is not said again.
    told: HashSet<String>,
}

impl EventThread {
    pub fn start(datapath: &Datapath<'_>) -> Result<Self> {
        let mut work = Work {
            events: datapath.events()?,
            images: datapath.images()?,
            told: HashSet::new(),
        };
        let (end, other) = UnixStream::pair().context("failed to make a pair of sockets")?;
        let thread = thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || {
                if let Err(error) = work.until_closed(&other) {
                    eprintln!(
                        "sockredir: {error:#}: no connection is reset any more, and new programs stay unknown"
                    );
                }
            })
            .context("failed to begin the thread for events")?;
        Ok(Self {
            end: Some(end),
            thread: Some(thread),
        })
    }
}

/// Whether a process is there, also one that /proc hides.
fn exists(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH))
}

impl Drop for EventThread {
    fn drop(&mut self) {
        self.end = None;
        // It prints what fails.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Work {
    fn until_closed(&mut self, end: &UnixStream) -> Result<()> {
        loop {
            let is_over = self.events.wait(end.as_fd())?;
            let mut resets = Vec::new();
            for event in self.events.take()? {
                match event {
                    Event::Program { pid, file } => self.look_at(pid, file),
                    Event::Splices { name } => self.tell_splices(&name)?,
                    Event::Reset(reset) => resets.push(reset),
                }
            }
            let has_reset = !resets.is_empty();
            for cause in send_resets(resets) {
                if self.told.insert(cause.clone()) {
                    eprintln!("sockredir: note: a connection could not be reset, and may hang: {cause}");
                }
            }
            if is_over {
                return Ok(());
            }
            if has_reset {
                thread::sleep(STEP);
            }
        }
    }

    /// Whatever cannot be told or noted stays unknown, and is watched for longer.
    fn look_at(&self, pid: u32, file: File) {
        let image = match image::of_process(pid) {
            Ok(Splicing::Cannot) => Image::WithoutSplice,
            Ok(Splicing::Can(..)) => Image::WithSplice,
            Err(error) if error.kind() == ErrorKind::NotFound && !exists(pid) => return,
            Err(_) => Image::WithSplice,
            Ok(Splicing::Unknown(_)) => return,
        };
        // By now the process may be another one, or execute another file.
        let is_same = || {
            let exe = fs::metadata(format!("/proc/{pid}/exe"));
            exe.is_ok_and(|exe| (exe.ctime() * 1_000_000_000 + exe.ctime_nsec()) as u64 == file.changed)
        };
        if image == Image::WithoutSplice && !is_same() {
            return;
        }
        let _ = self.images.note(file, image);
    }

    fn tell_splices(&mut self, name: &str) -> Result<()> {
        if !self.told.insert(name.to_owned()) {
            return Ok(());
        }
        announce(&format!(
            "{name} splices, which does not see redirected data: its connections stay on TCP"
        ))
    }
}
