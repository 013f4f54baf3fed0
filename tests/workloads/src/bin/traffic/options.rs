//! Owns the options that all workloads share.

use std::time::SystemTime;

use crate::conversation::Side;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Family {
    V4,
    V6,
    /// IPv4 clients of a dual-stack IPv6 listener
    Mapped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Event loops; sockets are non-blocking before connect and from accept on
    Nonblocking,
    /// Threads with blocking calls
    Blocking,
}

impl Mode {
    pub fn blocking(is_blocking: bool) -> Self {
        if is_blocking {
            Mode::Blocking
        } else {
            Mode::Nonblocking
        }
    }
}

#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    #[arg(long, value_enum, default_value = "v4")]
    pub family: Family,
    #[arg(long, value_enum, default_value = "nonblocking")]
    pub mode: Mode,
    /// Sockets of event loops block until they are connected or accepted
    #[arg(long)]
    pub late: bool,
    /// Concurrent connections
    #[arg(long)]
    pub connections: Option<u64>,
    /// Seed of all random choices and all bytes; taken from the clock by default
    #[arg(long)]
    pub seed: Option<u64>,
    /// Seconds that workloads without a fixed amount of work run for
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Seconds after which a run is at fault
    #[arg(long, default_value_t = 600)]
    pub deadline: u64,
    /// Seconds without progress, although the peer has done its part, that are a fault
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub stall: u64,
    /// Corrupt this byte of the first connection: the run must fail
    #[arg(long)]
    pub flip: Option<u64>,
}

impl Common {
    /// The seed of this run, printed so that the run can be repeated.
    pub fn settle_seed(&mut self) -> u64 {
        let seed = self.seed.unwrap_or_else(|| {
            SystemTime::UNIX_EPOCH
                .elapsed()
                .map_or(1, |since| since.as_nanos() as u64 % 1_000_000_007)
        });
        self.seed = Some(seed);
        println!("seed={seed}");
        seed
    }

    /// The deadline, extended for a run with a long --seconds.
    pub fn longest(&self) -> u64 {
        self.deadline.max(self.seconds.unwrap_or(0) + 60)
    }

    /// The offset of the byte to corrupt in a stream.
    pub fn flip_of(&self, connection: u64, side: Side) -> Option<u64> {
        self.flip.filter(|_| connection == 0 && side == Side::Client)
    }

    pub fn nonblocking(&self) -> bool {
        self.mode == Mode::Nonblocking
    }
}

pub fn flip_byte(flip: Option<u64>, offset: u64, bytes: &mut [u8]) {
    let place = flip.and_then(|flip| flip.checked_sub(offset));
    if let Some(byte) = place.and_then(|place| bytes.get_mut(place as usize)) {
        *byte ^= 0x80;
    }
}
