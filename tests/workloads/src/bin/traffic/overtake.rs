//! Owns the workload `overtake`: one thread's large message is taken back from the socket map and goes to TCP after another
//! thread's small one was redirected, and TCP loses it at first. The first thread's next message must not overtake it.

use std::io::Write as _;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use workloads::sys::fault::Pages;
use workloads::sys::{self, stream};

use crate::direct::{Pair, connect};
use crate::options::{Common, Mode};
use crate::task;

/// One segment, and more than is redirected if TCP limits buffers to 64 KiB.
const LARGE: usize = 40 << 10;
const SMALL: usize = 100;
/// Enough one-way messages of this size that the last ones go through TCP.
const ONE_WAY: usize = 8;
const TINY: usize = 10;
/// Longer than the other thread takes to wait for the socket too, and than TCP delays an acknowledgement.
const DELAYED: Duration = Duration::from_millis(120);

/// The bytes of the first thread's sends in order, and those of the other thread.
const FIRST: u8 = 1;
const SECOND: u8 = 2;
const OTHER: u8 = 3;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
}

/// One send that takes everything.
fn send(mut stream: &TcpStream, bytes: &[u8]) -> Result<()> {
    let count = stream.write(bytes).context("send failed")?;
    ensure!(
        count == bytes.len(),
        "a send took {count} of {} bytes",
        bytes.len()
    );
    Ok(())
}

/// The same, on one processor: a waiter for a lock is woken at once only if the last owner ran on another one.
fn send_on(processor: usize, stream: &TcpStream, bytes: &[u8]) -> Result<()> {
    task::stay_on(processor)?;
    send(stream, bytes)
}

/// True if the other thread's message was redirected before the large one was sent.
fn attempt(pair: &mut Pair, processors: [usize; 2]) -> Result<bool> {
    let mut buffer = vec![0; LARGE];
    pair.echo(1, TINY, &mut buffer)?;
    for _ in 0..ONE_WAY {
        pair.server.send_all(TINY, &mut buffer)?;
    }
    let (client, server) = (pair.client.stream(), pair.server.stream());
    let pages = Pages::new(LARGE)?;
    pair.server.lose_segments(true)?;
    thread::scope(|scope| -> Result<()> {
        // Its send holds the socket's lock while it waits for the pages. On releasing the lock it first sends the
        // acknowledgement that is due, and only then continues with the large message.
        let first = scope.spawn(|| send_on(processors[0], client, pages.bytes()));
        pages.wait_for_touch()?;
        let other = scope.spawn(|| send_on(processors[1], client, &[OTHER; SMALL]));
        thread::sleep(DELAYED);
        pages.give(&[FIRST; LARGE])?;
        for thread in [first, other] {
            thread.join().map_err(|_| anyhow!("a sender panicked"))??;
        }
        Ok(())
    })?;
    let is_ahead = stream::unread(server.as_raw_fd())? != 0;
    send(client, &[SECOND; SMALL])?;
    pair.server.lose_segments(false)?;

    let mut received = Vec::new();
    while received.len() < LARGE + 2 * SMALL {
        pair.server.wait_for(sys::IN)?;
        let count = stream::receive(server, &mut buffer, 0).context("recv failed")?;
        ensure!(count > 0, "end of file after {} bytes", received.len());
        received.extend_from_slice(&buffer[..count]);
    }
    received.retain(|byte| *byte != OTHER);
    ensure!(
        received.len() == LARGE + SMALL,
        "bytes of the other thread are lost or came twice"
    );
    ensure!(received.is_sorted(), "what a thread sent later came first");
    pair.client.receive_until(pair.server.sent, &mut buffer)?;
    Ok(is_ahead)
}

pub fn main(mut options: Options) -> Result<()> {
    ensure!(
        options.common.mode == Mode::Nonblocking,
        "overtake has no blocking mode"
    );
    let seed = options.common.settle_seed();
    let mut buffer = vec![0; 1 << 10];
    let processors = task::two_processors()?;
    let mut ahead = 0;
    for pair in &mut connect(&options.common, seed, options.common.connections.unwrap_or(8))? {
        pair.client.send_at_once()?;
        pair.server.send_at_once()?;
        pair.echo(64, TINY, &mut buffer)?;
        ahead += u64::from(attempt(pair, processors)?);
    }
    println!("ahead={ahead}");
    Ok(())
}
