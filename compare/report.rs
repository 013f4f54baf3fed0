//! Owns the report: sections of Markdown that the parts have written, put together.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Sections in the order of the report, each in a file of its name.
const ORDER: [&str; 4] = ["safety", "bench", "programs", "footprint"];

/// What a part has to say.
pub struct Section {
    pub name: &'static str,
    /// Markdown that begins with a heading of the second level.
    pub text: String,
}

impl Section {
    pub fn write(&self, into: &Path) -> Result<()> {
        write(&into.join(format!("{}.md", self.name)), &self.text)
    }
}

pub fn write(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content).with_context(|| format!("failed to write {}", path.display()))
}

/// Puts together the sections that are there, also those of earlier runs.
pub fn assemble(folder: &Path) -> Result<PathBuf> {
    let read = |name: &str| fs::read_to_string(folder.join(format!("{name}.md"))).unwrap_or_default();
    let sections = ORDER.map(read);
    let report = folder.join("report.md");
    let text = format!(
        "# Plain TCP, sockredir and the aya implementation side by side\n\n{}\n{}",
        host(),
        sections.join("\n")
    );
    write(&report, &text)?;
    Ok(report)
}

/// The machine, in a sentence.
fn host() -> String {
    let line = |path: &str, prefix: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text
            .lines()
            .find(|line| line.starts_with(prefix))
            .map(str::to_owned);
        line.unwrap_or_default()
    };
    let kernel = line("/proc/sys/kernel/osrelease", "");
    let processor = line("/proc/cpuinfo", "model name");
    let processor = processor
        .split_once(": ")
        .map_or("an unknown processor", |(_, name)| name);
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "Linux {kernel} on {processor}, {count} processors. The aya implementation is in `compare/aya`: IPv4, both ends of each \
         connection in a SockHash under addresses and ports, every message redirected; a message without a peer goes on \
         through TCP. Raw data is beside this file.\n"
    )
}

/// A table of Markdown. The first column is text, the others are aligned to the right if they are `figures`.
pub fn table(header: &[&str], rows: &[Vec<String>], figures: bool) -> String {
    let mut text = format!("| {} |\n|---", header.join(" | "));
    for _ in &header[1..] {
        text.push_str(if figures { "|---:" } else { "|---" });
    }
    text.push_str("|\n");
    for row in rows {
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// Bytes as people read them.
pub fn bytes(count: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        if count >> shift > 0 {
            return format!("{:.1} {unit}", count as f64 / f64::from(1 << shift));
        }
    }
    format!("{count} B")
}
