//! Owns the workload `awaited`: a recv that has chosen TCP's own function waits for its socket's lock while a scan adopts the
//! socket; meanwhile data and the end of the stream arrive. The recv must not see the end first.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use workloads::sys::fault::Pages;
use workloads::sys::{self, stream};

use crate::direct::{Pair, connect};
use crate::older::wait_for_line;
use crate::options::{Common, Mode};
use crate::task;

const PAGE: usize = 4096;
const SIZE: usize = 512;
/// Longer than the interval between scans.
const SCANS: Duration = Duration::from_millis(650);
/// Longer than a message takes to arrive.
const MOMENT: Duration = Duration::from_millis(100);

const END_FIRST: &str = "the end of the stream came before its data";

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
}

/// Starts a thread on a processor and waits until it blocks on a socket's lock.
fn spawn_until_locked<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    processor: usize,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    let (sender, receiver) = channel::<Result<PathBuf>>();
    let thread = scope.spawn(move || {
        drop(sender.send(task::stay_on(processor).and_then(|()| task::current())));
        work()
    });
    let task = receiver.recv().context("a thread has ended")??;
    task::wait_for(&task, task::LOCKED)?;
    Ok(thread)
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))
}

/// Returns what the server's last call reads. Waiters get the socket's lock in turn: a call, a scan that finds the socket
/// adoptable, another call, a scan that adopts it, and the last call, which is woken for the lock but gets no processor while
/// further scans find the lock free.
fn read_behind_scans(client: &TcpStream, server: &TcpStream) -> Result<io::Result<usize>> {
    let processors = task::two_processors()?;
    let pages = [Pages::new(PAGE)?, Pages::new(PAGE)?];
    let (is_occupied, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let first = scope.spawn(|| pages[0].receive(server));
        pages[0].wait_for_touch()?;
        wait_for_line()?;
        let second = spawn_until_locked(scope, processors[0], || pages[1].receive(server))?;
        pages[0].give(&[0; PAGE])?;
        join(first)??;
        pages[1].wait_for_touch()?;
        wait_for_line()?;
        let last = spawn_until_locked(scope, processors[1], || {
            stream::receive(server, &mut [0; SIZE], 0)
        })?;
        let busy = scope.spawn(|| task::occupy(processors[1], &is_occupied, &is_over));
        while !is_occupied.load(SeqCst) && !busy.is_finished() {
            thread::yield_now();
        }
        pages[1].give(&[0; PAGE])?;
        join(second)??;
        thread::sleep(SCANS);
        stream::send(client, &[0; SIZE], 0)?;
        client.shutdown(Shutdown::Write)?;
        thread::sleep(MOMENT);
        is_over.store(true, SeqCst);
        join(busy)??;
        join(last)
    })
}

pub fn main(mut options: Options) -> Result<()> {
    ensure!(
        options.common.mode == Mode::Nonblocking,
        "awaited has no blocking mode"
    );
    let seed = options.common.settle_seed();
    let mut buffer = vec![0; SIZE];
    for pair in &mut connect(&options.common, seed, 1)? {
        pair.echo(1, SIZE, &mut buffer)?;
        // A byte for each of the first calls.
        pair.client.send_all(2, &mut buffer)?;
        let Pair { client, server } = pair;
        let mut received = match read_behind_scans(client.stream(), server.stream())? {
            Ok(count) => {
                ensure!(count > 0, END_FIRST);
                count
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error).context("recv failed"),
        };
        while received < SIZE {
            server.wait_for(sys::IN)?;
            let count = stream::receive(server.stream(), &mut buffer, 0).context("recv failed")?;
            ensure!(count > 0, END_FIRST);
            received += count;
        }
    }
    Ok(())
}
