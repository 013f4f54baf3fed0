//! The vocabulary of the other layers: counters and reasons, connections, programs, documents and the control protocol.

#![warn(missing_docs)]

pub(crate) mod counters;
pub(crate) mod document;
pub(crate) mod finding;
pub(crate) mod known;
pub(crate) mod output;
pub(crate) mod ports;
pub(crate) mod programs;
pub(crate) mod protocol;
pub(crate) mod reasons;
pub(crate) mod safety;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod socket;
pub(crate) mod text;

pub use counters::{Counter, Counters};
pub use finding::Finding;
pub use output::print;
pub use ports::PortSet;
pub use programs::{Programs, Trust};
pub use safety::SafetyCheck;
