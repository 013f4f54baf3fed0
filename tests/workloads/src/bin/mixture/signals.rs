//! Owns the signals of this program: a thread that interrupts another thread's calls now and then.

use std::io;
use std::thread;
use std::time::Duration;

use workloads::pattern::Random;
use workloads::sys;

const SIGNAL: i32 = libc::SIGUSR1;

/// From now on the calling thread is interrupted every few milliseconds; with `restart`, its calls resume automatically.
pub fn interrupt_this_thread(restart: bool, mut random: Random) -> io::Result<()> {
    sys::count_signal(SIGNAL, if restart { libc::SA_RESTART } else { 0 })?;
    let thread = sys::thread_id();
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_micros(random.range(200, 4000)));
            // A thread that has ended is not there to be interrupted.
            let _ = sys::signal_thread(thread, SIGNAL);
        }
    });
    Ok(())
}
