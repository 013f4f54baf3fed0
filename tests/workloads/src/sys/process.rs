//! Owns signals, threads, processes and their limits.

use std::ffi::CStr;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::errno::{Errno, Outcome, outcome};

/// Sets the handler of a signal, which may only change atomics; `flags` are SA_RESTART or 0.
fn handle(signal: i32, handler: extern "C" fn(i32), flags: i32) -> Outcome {
    // SAFETY: all bytes zero is a valid sigaction without flags.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = flags;
    // SAFETY: the handlers of this module only change an atomic, which is safe in a signal handler.
    outcome(unsafe { libc::sigaction(signal, &action, ptr::null_mut()) })
}

static CAUGHT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn catch(_signal: i32) {
    CAUGHT.fetch_add(1, Ordering::SeqCst);
}

/// Counts this signal from now on; `flags` are SA_RESTART or 0.
pub fn count_signal(signal: i32, flags: i32) -> Outcome {
    handle(signal, catch, flags)
}

/// The number of signals caught since the last call.
pub fn signals_caught() -> usize {
    CAUGHT.swap(0, Ordering::SeqCst)
}

/// Restores a signal's default action, which std changes for SIGPIPE.
pub fn default_action(signal: i32) -> Outcome {
    // SAFETY: the default is no handler of ours.
    let before = unsafe { libc::signal(signal, libc::SIG_DFL) };
    outcome(if before == libc::SIG_ERR { -1 } else { 0 })
}

static TERMINATED: AtomicBool = AtomicBool::new(false);

extern "C" fn terminate(_signal: i32) {
    TERMINATED.store(true, Ordering::Relaxed);
}

/// From now on SIGTERM and SIGINT are recorded instead of ending the process.
pub fn catch_termination() -> Outcome<()> {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        handle(signal, terminate, libc::SA_RESTART)?;
    }
    Ok(())
}

pub fn terminated() -> bool {
    TERMINATED.load(Ordering::Relaxed)
}

pub fn thread_id() -> i32 {
    // SAFETY: no pointers.
    unsafe { libc::gettid() }
}

/// Sends a signal to one thread of this process.
pub fn signal_thread(thread: i32, signal: i32) -> Outcome {
    // SAFETY: no pointers.
    outcome(unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, signal) })
}

/// Runs a closure in a forked child, which then exits at once; the child has only the calling thread.
pub fn fork(work: impl FnOnce()) -> Outcome<i32> {
    // SAFETY: a scenario forks while it has one thread, so no lock is held by another one.
    match outcome(unsafe { libc::fork() })? {
        0 => {
            work();
            // SAFETY: no pointers; nothing of the parent's is to be run at the end of the child.
            unsafe { libc::_exit(0) }
        }
        child => Ok(child as i32),
    }
}

/// Waits for a child to exit: its exit status, or 128 plus the signal.
pub fn wait_for_child(child: i32) -> Outcome {
    let mut status = 0;
    // SAFETY: the kernel writes one int.
    outcome(unsafe { libc::waitpid(child, &mut status, 0) })?;
    let code = if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128 + libc::WTERMSIG(status)
    };
    Ok(code as usize)
}

/// Asks if a child has exited, without reaping it.
pub fn has_ended(child: u32) -> Outcome<bool> {
    // SAFETY: all bytes zero is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the kernel writes one siginfo_t.
    outcome(unsafe { libc::waitid(libc::P_PID, child, &mut info, options) })?;
    // SAFETY: the kernel has filled it, or left it all zero.
    Ok(unsafe { info.si_pid() } != 0)
}

/// Executes another program.
pub fn execute(path: &CStr, arguments: &[&CStr]) -> Errno {
    let mut list: Vec<_> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    list.push(ptr::null());
    // SAFETY: the list ends with a null pointer, and its strings with a zero byte.
    unsafe { libc::execv(path.as_ptr(), list.as_ptr()) };
    Errno::last()
}

/// Sends a signal to a child.
pub fn kill(child: i32, signal: i32) -> Outcome {
    // SAFETY: no pointers.
    outcome(unsafe { libc::kill(child, signal) })
}

/// Kills a process group and its leader.
pub fn kill_group(leader: u32) -> Outcome {
    // SAFETY: no pointers.
    outcome(unsafe { libc::kill(-(leader as i32), libc::SIGKILL) })
}

/// Switches the process to another user.
pub fn become_user(user: u32) -> Outcome<()> {
    // SAFETY: no pointers.
    outcome(unsafe { libc::setuid(user) }).map(drop)
}

/// Gives this thread priority over all others on its processor.
pub fn become_urgent() -> Outcome<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to `parameters`.
    outcome(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) }).map(drop)
}

/// Raises the limit on open files to its hard limit.
pub fn raise_file_limit() -> Outcome<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one rlimit.
    outcome(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads one rlimit.
    outcome(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }).map(drop)
}
