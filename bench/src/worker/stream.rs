//! One direction at full speed: from the connect until the receiver has confirmed that everything arrived.

use anyhow::{Result, bail, ensure};
use nix::sys::epoll::EpollFlags;

use super::meter::Meter;
use super::peer::{BUFFER, Buffers};
use super::socket::{Address, Events, Listener, Socket};
use super::{ClientReport, ServerReport, Task};
use crate::cases::Programs;

/// How many bytes, or messages, the sender sends between two looks at the clock.
const LOOK_BYTES: usize = 1 << 16;
const LOOK_MESSAGES: usize = 64;

/// Waits if the socket does not block.
struct Wait(Option<Events>);

impl Wait {
    fn on(socket: &Socket, programs: Programs, what: EpollFlags) -> Result<Self> {
        if programs == Programs::Blocking {
            return Ok(Self(None));
        }
        let events = Events::new()?;
        events.watch(socket, 0, what)?;
        Ok(Self(Some(events)))
    }

    fn wait(&mut self) -> Result<()> {
        match &mut self.0 {
            Some(events) => drop(events.wait()?),
            None => bail!("a blocking call returned EAGAIN"),
        }
        Ok(())
    }
}

pub fn send(task: &Task, address: &Address) -> Result<ClientReport> {
    let buffers = Buffers::new(task.size);
    let meter = Meter::start();
    let socket = Socket::connect(address, task.manner())?;
    let mut writable = Wait::on(&socket, task.programs, EpollFlags::EPOLLOUT)?;
    let look = (LOOK_BYTES / task.size).clamp(1, LOOK_MESSAGES) as u64;
    let (mut sent, mut messages) = (0, 0);
    while messages % look != 0 || meter.begin.elapsed() < task.window() {
        let mut left = task.size;
        while left > 0 {
            match socket.send(buffers.pattern.at(sent, left))? {
                Some(taken) => {
                    left -= taken;
                    sent += taken as u64;
                }
                None => writable.wait()?,
            }
        }
        messages += 1;
    }
    socket.end_sending()?;
    let arrived = receive_count(&socket, task.programs)?;
    let seconds = meter.begin.elapsed().as_secs_f64();
    ensure!(arrived == sent, "{arrived} of {sent} bytes of the stream arrived");
    Ok(ClientReport {
        seconds,
        operations: messages,
        bytes: sent,
        cpu_seconds: meter.cpu_seconds(),
        payload: sent,
        ..ClientReport::default()
    })
}

fn receive_count(socket: &Socket, programs: Programs) -> Result<u64> {
    let mut readable = Wait::on(socket, programs, EpollFlags::EPOLLIN)?;
    let mut count = [0; size_of::<u64>()];
    let mut got = 0;
    while got < count.len() {
        match socket.receive(&mut count[got..])? {
            Some(0) => bail!("the receiver of the stream closed the connection"),
            Some(more) => got += more,
            None => readable.wait()?,
        }
    }
    Ok(u64::from_ne_bytes(count))
}

pub fn receive(task: &Task, listener: &Listener) -> Result<ServerReport> {
    let mut buffers = Buffers::new(BUFFER);
    let mut connections = Events::new()?;
    connections.watch(listener, 0, EpollFlags::EPOLLIN)?;
    drop(connections.wait()?);
    let meter = Meter::start();
    let socket = listener.accept()?;
    let mut readable = Wait::on(&socket, task.programs, EpollFlags::EPOLLIN)?;
    let (mut received, mut arrivals) = (0u64, 0);
    loop {
        match socket.receive(&mut buffers.received)? {
            Some(0) => break,
            Some(got) => {
                buffers
                    .pattern
                    .check(received, &buffers.received[..got], arrivals)?;
                received += got as u64;
                arrivals += 1;
                // A short read has emptied the queue.
                if got < BUFFER && task.programs == Programs::Nonblocking {
                    readable.wait()?;
                }
            }
            None => readable.wait()?,
        }
    }
    socket.send(&received.to_ne_bytes())?;
    Ok(ServerReport {
        messages: received.div_ceil(task.size as u64),
        cpu_seconds: meter.cpu_seconds(),
    })
}
