//! Owns a thread that makes a tool scan for connections to adopt, over and over.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::arena::Arena;
use super::ask::control_socket;

/// Scans until it is dropped.
pub struct Scans {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Scans {
    /// Scans for whatever tool runs on the arena's cgroup in the meantime.
    pub fn begin(arena: &Arena, pause: Duration) -> Self {
        let socket = control_socket(arena);
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                // Nobody waits for the answer, and without a running tool there is none.
                if let Ok(mut asker) = UnixStream::connect(&socket) {
                    let _ = asker.write_all(b"adopt\n");
                }
                thread::sleep(pause);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Scans {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It returns nothing.
            let _ = thread.join();
        }
    }
}
