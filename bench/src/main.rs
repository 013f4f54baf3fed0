//! `sockredir-bench`: plain TCP, a Unix socket and accelerated TCP side by side, on this machine.

mod accelerator;
mod cases;
mod cli;
mod csv;
mod external;
mod figures;
mod host;
mod place;
mod plot;
mod process;
mod report;
mod rounds;
mod statistics;
mod table;
mod worker;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use clap::CommandFactory as _;
use sockredir::datapath;
use sockredir::datapath::cgroup::Cgroup;
use sockredir::generate::{Manual, generate};
use sockredir::model::print;
use sockredir::preflight::check_privileges;

use accelerator::Accelerator;
use cli::{BenchArgs, Cli, Command};
use host::{Activity, Host};
use place::{CgroupPair, NamespacePair, Processors};
use report::{FORMAT, Report, Row};
use rounds::{Extent, Setup, measure_all, obstacle};

fn main() -> ExitCode {
    sockredir::main(|cli: Cli| match cli.command {
        None => bench(&cli.bench),
        Some(Command::Worker { job }) => worker::work(&job).map(|()| ExitCode::SUCCESS),
        Some(Command::Generate(what)) => {
            let manual = Manual {
                name: "sockredir-bench",
                see_also: &["sockredir"],
                files: &[],
            };
            generate(&what, Cli::command(), &manual).map(|()| ExitCode::SUCCESS)
        }
    })
}

fn bench(args: &BenchArgs) -> Result<ExitCode> {
    datapath::set_verbose(false);
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))
        .context("failed to catch SIGINT and SIGTERM")?;
    // Before a measurement could be in vain.
    let chart = args.plot.as_deref().map(create).transpose()?;
    check_privileges()?;
    let parent = Cgroup::open(args.cgroup.as_deref())?;
    refuse_if_covered(&parent)?;

    let report = measure(args, &parent, &interrupted)?;
    if let Some(mut chart) = chart {
        let drawing = plot::draw(&report)?;
        chart
            .write_all(drawing.as_bytes())
            .context("failed to write the charts")?;
    }
    if args.json {
        print(&(serde_json::to_string(&report)? + "\n"))?;
    } else if args.csv {
        print(&csv::text(&report))?;
    } else {
        print(&table::text(&report))?;
    }
    let failed = report.rows.iter().filter(|row| row.has_failed()).count();
    if failed > 0 {
        bail!(
            "{failed} of {} rows failed: the results say why",
            report.rows.len()
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn create(file: &Path) -> Result<File> {
    File::create(file).with_context(|| {
        format!(
            "failed to create {} for the charts (name another file)",
            file.display()
        )
    })
}

/// With sockredir running, plain TCP would not be plain.
fn refuse_if_covered(cgroup: &Cgroup) -> Result<()> {
    let programs = datapath::programs_over(cgroup.fd())?;
    if programs.iter().any(|name| name.starts_with("sockredir")) {
        bail!(
            "a running sockredir covers cgroup {}, and plain TCP would be accelerated there: stop it, or name a cgroup that it \
             does not cover with --cgroup",
            cgroup.path().display()
        );
    }
    Ok(())
}

fn measure(args: &BenchArgs, parent: &Cgroup, interrupted: &AtomicBool) -> Result<Report> {
    let mut notes = BTreeSet::new();
    let others = datapath::programs_over(parent.fd())?;
    if !others.is_empty() {
        notes.insert(format!(
            "other programs see all TCP connections here: {}",
            others.join(", ")
        ));
    }
    let namespaces = match NamespacePair::new() {
        Ok(namespaces) => Some(namespaces),
        Err(error) => {
            notes.insert(format!("failed to make network namespaces: {error:#}"));
            None
        }
    };
    let processors = Processors::choose()?;
    let mut cases = cases::all();
    cases.retain(|case| args.filter.as_ref().is_none_or(|filter| filter.takes(case)));
    cases.retain(|case| {
        let obstacle = obstacle(case, namespaces.as_ref(), &processors, args.external.is_some());
        notes.extend(obstacle.map(|obstacle| format!("skipped: {obstacle}")));
        obstacle.is_none()
    });

    let cgroups = CgroupPair::below(parent.path())?;
    let mut storage = datapath::Storage::uninit();
    let mut setup = Setup {
        cases,
        extent: Extent::new(args.quick, args.rounds),
        cgroups: &cgroups,
        namespaces: namespaces.as_ref(),
        processors,
        accelerator: Accelerator::start(args, &cgroups.accelerated(), interrupted, &mut storage)?,
        interrupted,
    };
    let begin = Activity::now()?;
    let results = measure_all(&mut setup)?;
    let during = begin.until(Activity::now()?);

    let columns = ["plain", "unix", setup.accelerator.name()].map(str::to_owned);
    let rows = results.into_iter().map(|results| Row::of(results, &columns));
    let tunables = args.tunables.iter().cloned();
    Ok(Report {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION"),
        mode: if args.quick { "quick" } else { "full" },
        rounds: setup.extent.rounds,
        window_ms: setup.extent.window_ms,
        rows: rows.collect(),
        columns,
        admit: args.admit.name(),
        tunables: tunables.map(|tunable| (tunable.name, tunable.value)).collect(),
        host: Host::look(),
        during,
        processors,
        private_network: namespaces.is_some(),
        notes,
    })
}
