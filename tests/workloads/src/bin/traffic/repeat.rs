//! Owns the workload `repeat`: TCP retransmits what has arrived, together with what has not.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::direct::connect;
use crate::options::{Common, Mode};

/// Longer than the tail loss probe takes, which is to be lost too, and shorter than the minimum retransmission timeout.
const PROBED: Duration = Duration::from_millis(100);
const MESSAGE: usize = 10;
const LOST: usize = 3;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
}

pub fn main(mut options: Options) -> Result<()> {
    ensure!(
        options.common.mode == Mode::Nonblocking,
        "repeat has no blocking mode"
    );
    let seed = options.common.settle_seed();
    let mut buffer = vec![0; 1 << 10];
    for pair in &mut connect(&options.common, seed, options.common.connections.unwrap_or(4))? {
        pair.client.send_at_once()?;
        // The first message arrives but its acknowledgement does not, so the client queues it next to the lost ones, and
        // a retransmission merges them into one segment.
        pair.client.lose_segments(true)?;
        pair.client.send_all(MESSAGE, &mut buffer)?;
        pair.server.receive_until(pair.client.sent, &mut buffer)?;
        pair.server.lose_segments(true)?;
        for _ in 0..LOST {
            pair.client.send_all(MESSAGE, &mut buffer)?;
        }
        thread::sleep(PROBED);
        pair.client.lose_segments(false)?;
        pair.server.lose_segments(false)?;
        pair.server.receive_until(pair.client.sent, &mut buffer)?;
        pair.echo(64, 64, &mut buffer)?;
    }
    Ok(())
}
