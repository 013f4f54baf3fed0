//! What an instance reports to another shell: `status`, `flows`, `explain`, and the log of its decisions.

#[path = "../common/mod.rs"]
mod common;

mod ask;
mod decisions;
mod figures;
mod flows;
mod instance;
