//! Owns the readers of a group, in a process of their own: each reads a part, answers, half-closes, and ends.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use workloads::pattern::Stream;
use workloads::sys;
use workloads::sys::stream::{self, Listener};

use super::{
    ANSWER, BUFFER, ECHO, Ending, GROUP, NAME, Options, Plan, STUCK, clock, read_now, receive_exactly,
};
use crate::run::listen;

pub fn read_group(options: &Options, seed: u64, group: u64) -> Result<()> {
    let nonblocking = options.common.nonblocking();
    let (listener, target) = match options.at {
        Some(address) => (Listener::bind(address, nonblocking, false)?, address),
        None => listen(options.common.family, 0, nonblocking)?,
    };
    println!("{target}");
    let count = GROUP as usize;
    let ending = options.ending(group);
    let delay = options.delay(seed, group);
    // All have half-closed before the first one ends, and all stay until the process is killed.
    let half_closed = Arc::new(Barrier::new(count + 1));
    let readers: Vec<_> = (0..count)
        .map(|_| {
            let stream = accept(&listener, nonblocking)?;
            let half_closed = Arc::clone(&half_closed);
            Ok(thread::spawn(move || {
                read(seed, ending, &stream, &half_closed, delay)
            }))
        })
        .collect::<io::Result<_>>()?;
    half_closed.wait();
    let tell = || clock().map(|now| println!("{}", now.as_nanos()));
    match ending {
        Ending::Killed => {
            thread::sleep(delay);
            tell()?;
            kill(Pid::this(), Signal::SIGKILL)?;
        }
        Ending::Held => {
            let mut sleep = Command::new("sleep");
            let mut sleep = sleep.arg(format!("{:.3}", delay.as_secs_f64())).spawn()?;
            half_closed.wait();
            sleep.wait()?;
            tell()?;
        }
        _ => {
            thread::sleep(delay);
            tell()?;
        }
    }
    for reader in readers {
        reader.join().map_err(|_| anyhow!("a reader panicked"))??;
    }
    Ok(())
}

fn accept(listener: &Listener, nonblocking: bool) -> io::Result<TcpStream> {
    loop {
        match listener.accept(nonblocking) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
            accepted => return accepted.map(|(stream, _)| stream),
        }
    }
}

fn read(seed: u64, ending: Ending, stream: &TcpStream, half_closed: &Barrier, delay: Duration) -> Result<()> {
    let mut name = [0; NAME];
    receive_exactly(stream, &mut name)?;
    let id = u64::from_be_bytes(name);
    let plan = Plan::of(seed, id);
    if !plan.is_large {
        stream::set_buffers(stream, Some(BUFFER), None)?;
    }
    stream.set_nodelay(true)?;
    let mut echo = [0; ECHO];
    for _ in 0..plan.echoes {
        receive_exactly(stream, &mut echo)?;
        stream::send(stream, &echo, 0)?;
    }
    let incoming = Stream::new(seed, id, 0);
    let mut buffer = vec![0; plan.first.max(plan.more).max(64 << 10) as usize];
    receive_exactly(stream, &mut buffer[..plan.first as usize])?;
    let check = |at: u64, bytes: &[u8]| {
        let checked = incoming.check(at, bytes);
        checked.map_err(|wrong| anyhow!("connection {id}: wrong bytes: {wrong:?}"))
    };
    check(0, &buffer[..plan.first as usize])?;
    stream::send(stream, &[2; ANSWER], 0)?;
    stream.shutdown(Shutdown::Write)?;
    if ending == Ending::Held {
        stream::let_inherit(stream)?;
    }
    half_closed.wait();
    match ending {
        Ending::Close => thread::sleep(delay),
        Ending::Partly => {
            thread::sleep(delay);
            if let Some(count) = read_now(stream, &mut buffer[..plan.more as usize])? {
                check(plan.first, &buffer[..count])?;
            }
        }
        Ending::Held => drop(half_closed.wait()),
        Ending::Killed => loop {
            thread::park();
        },
        Ending::ReadsOn | Ending::ReadsAll => {
            thread::sleep(delay);
            let mut got = plan.first;
            while ending == Ending::ReadsOn || got < plan.total {
                ensure!(stream::wait_for(stream, sys::IN, STUCK)?, "no end of the upload");
                match stream::receive(stream, &mut buffer, 0)? {
                    0 => break,
                    count => {
                        check(got, &buffer[..count])?;
                        got += count as u64;
                    }
                }
            }
            ensure!(
                got == plan.total,
                "connection {id}: {got} of {} bytes",
                plan.total
            );
        }
    }
    Ok(())
}
