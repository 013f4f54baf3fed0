//! `sockredir run`: the instance from its start to its totals, and those who ask it meanwhile.
//!
//! [`run()`] makes everything ready and starts the threads; [`main_loop`] is where all that changes the datapath is done. Others ask
//! for that by a [`request`]: the socket of [`control`], the one of [`metrics`], and signals. [`events`] has a thread of its own.

#![warn(missing_docs)]

mod adoption;
mod control;
mod endpoints;
mod events;
mod handover;
mod known;
mod log;
mod main_loop;
mod memory;
mod metrics;
mod notify;
#[cfg(test)]
mod operating;
mod pair;
mod reporter;
mod request;
mod run;

pub use handover::reload;
pub use run::run;
