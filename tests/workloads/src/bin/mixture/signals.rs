//! Owns the signals of this program, with its `unsafe`: a thread that interrupts another thread's calls now and then.

use std::io;
use std::mem;
use std::ptr;
use std::thread;
use std::time::Duration;

use workloads::pattern::Random;

const SIGNAL: i32 = libc::SIGUSR1;

extern "C" fn nothing(_signal: i32) {}

/// From now on the calling thread is interrupted every few milliseconds; with `restart`, its calls resume automatically.
pub fn interrupt_this_thread(restart: bool, mut random: Random) -> io::Result<()> {
    let handler: extern "C" fn(i32) = nothing;
    // SAFETY: all bytes zero is a valid sigaction without flags.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = if restart { libc::SA_RESTART } else { 0 };
    // SAFETY: the handler does nothing.
    if unsafe { libc::sigaction(SIGNAL, &action, ptr::null_mut()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: no pointers, and it cannot fail.
    let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_micros(random.range(200, 4000)));
            // SAFETY: no pointers; a thread that has ended is not there to be interrupted.
            unsafe { libc::syscall(libc::SYS_tgkill, process, thread, SIGNAL) };
        }
    });
    Ok(())
}
