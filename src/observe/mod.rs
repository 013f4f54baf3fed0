//! Seeing what an instance does: what it tells, how it is asked, and how that is shown.

pub mod adopt;
pub mod control;
pub mod desk;
#[cfg(test)]
mod document;
pub mod explain;
pub mod flows;
pub mod log;
pub mod metrics;
pub mod model;
mod pair;
pub mod reasons;
#[cfg(test)]
mod samples;
pub mod socket;
pub mod status;
pub mod text;
pub mod top;
