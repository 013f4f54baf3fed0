//! Owns the paths of the programs that tests start and that other members of the workspace make.

use std::path::{Path, PathBuf};

/// A program that cargo has built beside the tool.
pub fn built(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_sockredir")).with_file_name(name);
    assert!(
        program.is_file(),
        "{} is missing; `cargo build --workspace` builds it, with `--release` for tests with `--release`",
        program.display()
    );
    program
}
