//! Handles events of the datapath at once, outside the main loop, which may be busy with a scan.

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

/// Pause after resets, so that a flood of them does not occupy a processor; too short to notice.
const STEP: Duration = Duration::from_millis(20);

/// The event thread; dropping this ends it once pending events are handled.
#[derive(Debug)]
pub struct EventThread {
    end: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// State of the event thread.
struct Work {
    events: Events,
    images: Images,
    /// Messages already printed, each of which is printed once.
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

/// True if the process exists, even if /proc hides it.
fn exists(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH))
}

impl Drop for EventThread {
    fn drop(&mut self) {
        self.end = None;
        // It reports its own errors.
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

    /// A file that cannot be judged or noted stays unknown, so its program is watched for longer.
    fn look_at(&self, pid: u32, file: File) {
        let image = match image::of_process(pid) {
            Ok(Splicing::Cannot) => Image::WithoutSplice,
            Ok(Splicing::Can(..)) => Image::WithSplice,
            Err(error) if error.kind() == ErrorKind::NotFound && !exists(pid) => return,
            Err(_) => Image::WithSplice,
            Ok(Splicing::Unknown(_)) => return,
        };
        // By now the PID may belong to another process, or execute another file.
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
