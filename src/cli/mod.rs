//! The definition of the command line, and nothing else: plain values, of which nothing here knows what becomes. What is written of
//! each option is its help.

mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::model::ports::PortSet;
use crate::model::programs::{Programs, Trust};
use crate::model::safety::SafetyCheck;

pub use values::{Admit, Adopt, FlowFilter, FlowOrder, Scope, Subject};

/// Makes TCP connections between programs on this host as fast as Unix sockets, with no change to the programs.
///
/// Without a command this is `sockredir run`.
#[derive(Debug, Parser)]
#[command(name = "sockredir", args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Accelerate local connections until SIGINT or SIGTERM (the default)
    Run(RunArgs),
    /// Start a new instance in the background that takes over with these options, without touching a connection (run --replace)
    Reload(RunArgs),
    /// Check whether `run` would start here, and say what each check means; the exit status is 1 if it would not
    Doctor(DoctorArgs),
    /// What the running instance is, what it has done, and how fast, since the last call
    Status(StatusArgs),
    /// A row for each connection: its ends and their processes, whether it is accelerated and why, what went which way
    Flows(FlowsArgs),
    /// Why the connections of a port or a process are accelerated or not, in words, and what would change it
    Explain(ExplainArgs),
    /// Have the running instance adopt established connections now, whatever its `--adopt` says
    Adopt(AdoptArgs),
    /// Watch what a running instance does and what becomes of each connection: a screen on a terminal, else lines of text
    Top(TopArgs),
    /// What a package has of this definition
    #[command(hide = true, subcommand)]
    Generate(Generate),
}

#[derive(Debug, Subcommand)]
pub enum Generate {
    /// Write a manual page for each command into a folder; they have the date of SOURCE_DATE_EPOCH
    Man { folder: PathBuf },
    /// Print the completions of a shell
    Completions { shell: Shell },
}

/// The default of `--max-flows`.
pub const DEFAULT_FLOWS: u32 = 65536;

#[derive(Args, Debug)]
pub struct RunArgs {
    /// Accelerate the programs of this cgroup and of those below it, also between several [default: the root of cgroup2, that
    /// is all programs]
    #[arg(long = "cgroup", value_name = "DIR")]
    pub cgroups: Vec<PathBuf>,

    /// Take over from the instance that runs on the cgroup, if one does: it goes on with the connections that it has until they
    /// end, and this one takes those that follow
    #[arg(long)]
    pub replace: bool,

    /// Which programs to accelerate
    #[arg(long, value_enum, default_value_t = Admit::Nonblocking)]
    pub admit: Admit,

    /// Which connections to accelerate
    #[arg(long, value_enum, default_value_t = Scope::Loopback)]
    pub scope: Scope,

    /// Accelerate only connections whose two ends belong to one user
    #[arg(long)]
    pub same_user: bool,

    /// Accelerate only connections whose two ends are in one and the same cgroup
    #[arg(long)]
    pub same_cgroup: bool,

    /// Which connections to adopt that are established already: those whose two ends have become non-blocking, or were open before
    /// [default: auto, or off on kernels where `doctor` notes `scans`]
    #[arg(long, value_enum)]
    pub adopt: Option<Adopt>,

    /// Accelerate only connections with one of these ports at either end: numbers and ranges, as in 80,8000-8080
    /// [default: all ports]
    #[arg(long, value_name = "LIST")]
    pub ports: Option<PortSet>,

    /// Leave connections with one of these ports at either end alone [default: none]
    #[arg(long, value_name = "LIST")]
    pub exclude_ports: Option<PortSet>,

    /// Leave connections of these programs alone, by the names of their processes. Those of the default splice, which does
    /// not work on accelerated connections
    #[arg(
        long,
        value_name = "LIST",
        default_value = "docker-proxy,rootlessport,rootlesskit,systemd-socket-,pasta,pasta.avx2,passt,passt.avx2"
    )]
    pub exclude_programs: Programs,

    /// Take these programs, by the names of their processes, as known to read from sockets with recv only, and not to block: they
    /// are accelerated from their first connection on. `all` takes every program so, `none` (the default) watches each one first
    #[arg(long, value_name = "LIST", default_value = "none", hide_default_value = true)]
    pub trust_programs: Trust,

    /// Keep what is known of programs in this file, from one instance to the next; `none` forgets it
    /// [default: programs in $STATE_DIRECTORY or /var/lib/sockredir]
    #[arg(long, value_name = "FILE")]
    pub known_programs: Option<PathBuf>,

    /// The most connections to follow at a time; further ones stay on TCP
    #[arg(long, value_name = "N", default_value_t = DEFAULT_FLOWS, value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub max_flows: u32,

    /// Print the counters every so many seconds [default: off]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub interval: Option<u64>,

    /// Serve the figures to Prometheus at /metrics, on this port of 127.0.0.1 or on this address, as in `9464` or `[::]:9464`
    /// [default: off]
    #[arg(long, value_name = "ADDR", value_parser = values::address)]
    pub metrics: Option<SocketAddr>,

    /// When stopping, wait at most so many seconds until accelerated connections have read what is queued
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub drain_timeout: u64,

    /// Print a line of JSON for each decision on a connection; at most some 1,800 a second, the rest is counted
    #[arg(long)]
    pub log_decisions: bool,

    /// Start though this check of the self-test has failed; `sockredir doctor` tells what that means
    #[arg(
        long,
        value_name = "CHECK",
        value_delimiter = ',',
        hide_possible_values = true
    )]
    pub force: Vec<SafetyCheck>,

    /// Print what libbpf has to say, on standard error
    #[arg(short, long)]
    pub verbose: bool,
}

#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// The cgroup that `run` is to have, or several [default: the root of cgroup2]
    #[arg(long = "cgroup", value_name = "DIR")]
    pub cgroups: Vec<PathBuf>,

    /// The scope that `run` is to have
    #[arg(long, value_enum, default_value_t = Scope::Loopback)]
    pub scope: Scope,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The instance on this cgroup [default: the only one]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct AdoptArgs {
    /// The instance on this cgroup [default: the only one]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct FlowsArgs {
    /// The instance on this cgroup [default: the only one]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,

    /// Only connections that have this: port=N, process=NAME or process=PID, state=STATE, reason=REASON; of several, all
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<FlowFilter>,

    /// The order of the rows
    #[arg(long, value_enum, default_value_t = FlowOrder::Client)]
    pub sort: FlowOrder,

    /// Again every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub watch: Option<u64>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct TopArgs {
    /// The instance on this cgroup [default: the only one]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,

    /// Ask the instance every so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub interval: u64,

    /// Print a line of JSON each time, with a status and the flows
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// A port, or the number of a process; port:N and pid:N say which it is
    #[arg(value_name = "PORT|PID")]
    pub subject: Subject,

    /// The instance on this cgroup [default: the only one]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What is wrong with a command line, without clap's paragraphs of help.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let words: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
    words.join("; ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn no_command_is_run() {
        let cli = parse("sockredir --ports 80 --drain-timeout 3").unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.run.drain_timeout, 3);
        assert!(
            matches!(parse("sockredir run --max-flows 5").unwrap().command, Some(Command::Run(run)) if run.max_flows == 5)
        );
    }

    #[test]
    fn safety_checks_are_forced_one_by_one_or_in_a_list() {
        let force = |line| parse(line).unwrap().run.force;
        assert!(force("sockredir").is_empty());
        assert_eq!(
            force("sockredir --force order,edge-triggered --force self-test"),
            [
                SafetyCheck::Order,
                SafetyCheck::EdgeTriggered,
                SafetyCheck::SelfTest
            ]
        );
    }

    #[test]
    fn metrics_are_off_or_at_an_address() {
        let metrics = |line| {
            parse(line)
                .unwrap()
                .run
                .metrics
                .map(|address| address.to_string())
        };
        assert_eq!(metrics("sockredir"), None);
        assert_eq!(
            metrics("sockredir --metrics 9464").as_deref(),
            Some("127.0.0.1:9464")
        );
        assert_eq!(
            metrics("sockredir --metrics [::]:9464").as_deref(),
            Some("[::]:9464")
        );
    }

    #[test]
    fn a_wrong_argument_is_told_in_one_line() {
        for line in [
            "sockredir --ports 0",
            "sockredir --ports 1,70000",
            "sockredir --exclude-ports 9-5",
            "sockredir --max-flows 0",
            "sockredir --admit some",
            "sockredir --adopt some",
            "sockredir adopt 5",
            "sockredir --interval 0",
            "sockredir --metrics localhost:9464",
            "sockredir --exclude-programs /usr/bin/x",
            "sockredir --force privileges",
            "sockredir --force order,",
            "sockredir doctor --force order",
            "sockredir flows --filter port=0",
            "sockredir flows --filter speed=9",
            "sockredir flows --sort colour",
            "sockredir flows --watch 0",
            "sockredir explain",
            "sockredir explain nginx",
            "sockredir top --interval 0",
            "sockredir --nonsense",
            "sockredir nonsense",
        ] {
            let text = one_line(&parse(line).unwrap_err());
            assert!(!text.contains('\n') && !text.is_empty(), "{line}: {text}");
        }
    }
}
