//! Programs that splice, under a tool with default options: each answer is as quick as on plain TCP, and none is missing, from
//! the first connection on.

#[path = "../common/mod.rs"]
mod common;

mod case;
mod fresh;
mod known_first;
mod mixture;
mod programs;
mod scanned;
mod stage;
