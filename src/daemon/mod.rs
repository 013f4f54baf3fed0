//! `sockredir run`: the instance from its start to its totals, and its answers meanwhile.
//!
//! [`run()`] sets everything up and starts the threads; only [`main_loop`] changes the datapath. Others send it a
//! [`request`]: the sockets of [`control`] and [`metrics`], and signals. [`events`] has a thread of its own.

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
mod pair;
#[cfg(test)]
mod reference;
mod reporter;
mod request;
mod run;

pub use handover::reload;
pub use run::run;
