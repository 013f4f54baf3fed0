//! The harness of the integration tests: environments, the programs that run in them, and what the kernel reports about them.
#![allow(
    dead_code,
    unused_imports,
    reason = "every test uses its own part of the harness"
)]

mod arena;
mod ask;
mod built;
mod kernel;
mod network;
mod process;
mod restrict;
mod scans;
mod sys;
mod tool;
mod traffic;
mod transcript;

pub use arena::Arena;
pub use ask::{ask, control_socket, is_fit_for_scans, json, text};
pub use built::built;
pub use kernel::{KernelLog, kernel_objects, map_entries, wait_until_gone};
pub use network::Network;
pub use process::Process;
pub use restrict::{
    break_fionread, drop_capabilities, hide_cgroup2, lock_cgroup2, replace_btf, without_loopback,
};
pub use scans::Scans;
pub use sys::{Interrupts, open_tunnel, wait_readable};
pub use tool::{Tool, ToolReport};
pub use traffic::{Traffic, TrafficReport};
pub use transcript::{Transcript, first_difference, transcript_of};
pub use workloads::pace::{is_slow, patience, work};
