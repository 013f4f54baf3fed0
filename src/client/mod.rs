//! The commands that ask a running instance and show its answers.

#![warn(missing_docs)]

mod adopt;
mod ask;
mod explain;
mod flows;
mod status;
mod top;

pub use adopt::adopt;
pub use explain::explain;
pub use flows::flows;
pub use status::status;
pub use top::top;
