//! The command line of the benchmark.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use sockredir::cli::{Admit, Generate};
use sockredir::datapath::Tunable;

use super::cases::Filter;
use super::external::External;
use super::worker::Job;

/// Measures plain TCP, a Unix socket and TCP that sockredir accelerates, side by side on this machine, in cgroups of its own.
#[derive(Debug, Parser)]
#[command(
    name = "sockredir-bench",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub bench: BenchArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// One process of a benchmark
    #[command(hide = true)]
    Worker { job: Job },
    /// What a package has of this definition
    #[command(hide = true, subcommand)]
    Generate(Generate),
}

#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Make the cgroups of the benchmark below this one [default: the root of cgroup2]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,

    /// All rows with shorter and fewer runs, in half a minute
    #[arg(long)]
    pub quick: bool,

    /// How often each row is measured [default: 7, with --quick 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,

    /// Only the rows that have this in their names
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<Filter>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Print comma-separated values
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,

    /// Draw charts into this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,

    /// Which programs to accelerate, as for `run`
    #[arg(long, value_enum, default_value_t = Admit::Nonblocking)]
    pub admit: Admit,

    /// Give a tunable of the datapath another value; an unknown name lists them
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub tunables: Vec<Tunable>,

    /// Measure another accelerator instead: the command is run with the path of a cgroup as its last argument, prints a line
    /// that begins with `ready`, and ends at SIGINT
    #[arg(long, value_name = "CMD", conflicts_with_all = ["admit", "tunables"])]
    pub external: Option<External>,
}
