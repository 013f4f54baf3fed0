//! The comparison: plain TCP, sockredir and the aya implementation on the same workloads, and what they say of each.
//!
//! `make compare` runs all parts and `make bench-programs` the last one. Each part writes its raw data and its part of the
//! report into a folder.

#[path = "../tests/common/mod.rs"]
mod common;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/programs/servers.rs"]
mod servers;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/programs/stage.rs"]
mod stage;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/programs/web.rs"]
mod web;

mod accelerator;
mod bench;
mod footprint;
mod programs;
mod report;
mod safety;
mod statistics;
mod transcripts;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};

use crate::accelerator::Accelerator;
use crate::common::Interrupts;
use crate::report::Section;

/// Measures sockredir, and the aya implementation where it is given, against plain TCP.
#[derive(Parser)]
#[command(name = "compare")]
struct Cli {
    /// The loader of the aya implementation, as `compare/build` has printed it [default: it is left out]
    #[arg(long, value_name = "FILE")]
    aya: Option<PathBuf>,
    /// Where to write the report and the raw data
    #[arg(long, value_name = "DIR", default_value = "target/compare")]
    into: PathBuf,
    /// How often each row of the real programs is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long each of these measurements lasts
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 1500, value_parser = clap::value_parser!(u32).range(100..))]
    milliseconds: u32,
    /// `sockredir-bench --quick` instead of the full one
    #[arg(long)]
    quick: bool,
    /// Which parts to run [default: all]
    parts: Vec<Part>,
    /// What `cargo bench` passes
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Part {
    /// What the accelerators change that they must not
    Safety,
    /// Sizes, memory, start-up and build
    Footprint,
    /// `sockredir-bench` with each
    Bench,
    /// Redis, PostgreSQL, nginx and memcached
    Programs,
}

impl Part {
    fn run(self, cli: &Cli, accelerators: &[Accelerator]) -> Result<Section> {
        match self {
            Self::Safety => safety::run(accelerators, &cli.into),
            Self::Footprint => footprint::run(accelerators, &cli.into),
            Self::Bench => bench::run(accelerators, &cli.into, cli.quick),
            Self::Programs => programs::run(accelerators, &cli.into, cli.rounds, cli.milliseconds),
        }
    }
}

fn main() -> ExitCode {
    match compare(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(cli: &Cli) -> Result<()> {
    fs::create_dir_all(&cli.into).with_context(|| format!("failed to make {}", cli.into.display()))?;
    let interrupts = Interrupts::catch();
    let accelerators = accelerator::all(cli.aya.as_deref());
    let parts = if cli.parts.is_empty() {
        Part::value_variants()
    } else {
        &cli.parts
    };
    for part in parts {
        let section = part.run(cli, &accelerators)?;
        println!("\n{}", section.text);
        section.write(&cli.into)?;
        if interrupts.happened() {
            bail!("interrupted");
        }
    }
    let report = report::assemble(&cli.into)?;
    println!("The report is in {}", report.display());
    Ok(())
}
