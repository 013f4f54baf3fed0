//! `run --metrics`: the status of an instance, for Prometheus.

#[cfg(test)]
mod dist;
mod http;
mod text;

pub use http::{Listener, Server};
#[cfg(test)]
pub use text::sample;
pub use text::text;
