//! Standard output for texts that are printed as a whole.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};

/// How much of a text was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Printed {
    /// All of it.
    All,
    /// The reader has closed its end, which is not an error.
    NotAll,
}

/// Fails if standard output cannot be written; a reader that has closed its end is not an error.
pub fn print(text: &str) -> Result<Printed> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Printed::All),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Printed::NotAll),
        Err(error) => Err(error).context("failed to write to standard output"),
    }
}

/// Prints the lines of a running instance; fails once nobody can read them any more.
pub fn announce(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end())
        .and_then(|()| out.flush())
        .context("failed to write to standard output")
}
