//! Standard output for texts that are printed as a whole.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};

/// A reader that has had enough is no failure.
pub fn print(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("failed to write to standard output")
        }
        _ => Ok(()),
    }
}
