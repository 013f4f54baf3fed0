//! Owns the server: it answers each message, and greets every client if it speaks first.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use workloads::pattern::Random;
use workloads::sys;
use workloads::sys::stream::Listener;

use crate::message::{ANSWER, Framing, GREETING, Message, REQUEST};
use crate::wire::{Wire, is_early_end};

/// A connection may be idle for as long as its client likes.
const PATIENCE: Duration = Duration::from_secs(3600);
const SALT: u64 = 0x6772_6565;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    seed: u64,
    #[arg(long, value_enum, default_value = "bare")]
    framing: Framing,
    /// Speak first
    #[arg(long)]
    greet: bool,
    /// Milliseconds before a greeting
    #[arg(long, default_value_t = 0)]
    pause: u64,
    #[arg(long, default_value_t = 8)]
    large_one_in: u64,
}

pub fn main(options: &Options) -> Result<()> {
    let listener = Listener::bind(options.listen, true, false).context("failed to listen")?;
    thread::spawn(|| {
        // Standard input only serves to end the server, so its content does not matter.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        println!("ok");
        std::process::exit(0);
    });
    let mut epoll = sys::Epoll::new()?;
    epoll.add(&listener, sys::IN, 0)?;
    let mut events = Vec::new();
    for connection in 0.. {
        events.clear();
        while events.is_empty() {
            epoll.wait(-1, &mut events)?;
        }
        let (stream, _) = listener.accept(true).context("failed to accept")?;
        let options = options.clone();
        thread::spawn(move || {
            let served =
                Wire::new(stream, PATIENCE).and_then(|mut wire| serve(&options, connection, &mut wire));
            // The client reports connections that end early.
            if let Err(error) = served.or_else(|error| is_early_end(&error).then_some(()).ok_or(error)) {
                eprintln!("fault: the server's connection {connection}: {error}");
            }
        });
    }
    Ok(())
}

fn serve(options: &Options, connection: u32, wire: &mut Wire) -> io::Result<()> {
    let Options { framing, seed, .. } = *options;
    if options.greet {
        thread::sleep(Duration::from_millis(options.pause));
        let mut random = Random::of(seed, connection.into(), SALT);
        let greeting = Message::draw(&mut random, connection, 0, options.large_one_in);
        let stream = greeting.stream(seed, GREETING);
        wire.send(&greeting.head(framing), &stream, greeting.body)?;
    }
    while let Some(message) = wire.head(|bytes| Message::parse(framing, bytes))? {
        wire.body(&message.stream(seed, REQUEST), message.body)?;
        let answer = message.stream(seed, ANSWER);
        wire.send(&message.answer_head(framing), &answer, message.answer)?;
    }
    Ok(())
}
