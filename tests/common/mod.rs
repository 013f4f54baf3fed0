//! The harness of the integration tests: places to run in, the programs that run there, and what the kernel says of them.
#![allow(dead_code, unused_imports, reason = "every test uses its own part of the harness")]

mod arena;
mod kernel;
mod process;
mod sys;
mod tool;
mod traffic;

pub use arena::Arena;
pub use kernel::{KernelLog, kernel_objects, wait_until_gone};
pub use process::Process;
pub use tool::{Tool, ToolReport};
pub use traffic::{Traffic, TrafficReport};
