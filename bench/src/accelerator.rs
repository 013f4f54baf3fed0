//! The accelerator of the accelerated column: this tool's own datapath, or a command of the user's.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result, anyhow, ensure};
use sockredir::cli::{Admit, DEFAULT_FLOWS};
use sockredir::datapath::cgroup::Cgroups;
use sockredir::datapath::{Coverage, Datapath, Options, Storage};
use sockredir::model::{Counters, PortSet};
use sockredir::preflight::{Single, check_all, load};

use super::cli::BenchArgs;
use super::external::{External, Running};
use super::rounds::EXCLUDED_PORTS;

pub enum Accelerator<'a> {
    Own {
        datapath: Box<Datapath<'a>>,
        /// Keeps other instances out.
        _cgroups: Cgroups,
    },
    External {
        running: Running,
        name: String,
    },
}

impl<'a> Accelerator<'a> {
    /// Starts it on a cgroup; the tool's own only if `run` would start there.
    pub fn start(
        args: &BenchArgs,
        cgroup: &Path,
        interrupted: &AtomicBool,
        storage: &'a mut Storage,
    ) -> Result<Self> {
        match &args.external {
            Some(external) => Self::start_external(external, cgroup, interrupted),
            None => Self::start_own(args, cgroup, storage),
        }
    }

    fn start_external(external: &External, cgroup: &Path, interrupted: &AtomicBool) -> Result<Self> {
        Ok(Self::External {
            running: external.start(cgroup, interrupted)?,
            name: external.name.clone(),
        })
    }

    fn start_own(args: &BenchArgs, cgroup: &Path, storage: &'a mut Storage) -> Result<Self> {
        let mut options = Options {
            admit_blocking: args.admit == Admit::Any,
            scope_host: false,
            same_user: false,
            same_cgroup: false,
            log_decisions: false,
            max_flows: DEFAULT_FLOWS,
            tunables: Vec::new(),
        };
        // The self-test relies on the default values.
        let mut tested = Storage::uninit();
        let (report, ready) = check_all(&[cgroup.to_owned()], Single::Demanded, &options, &mut tested);
        report.demand(&[])?;
        let (cgroups, _) = ready.map_err(|check| anyhow!("{check} failed"))?;
        options.tunables.clone_from(&args.tunables);
        let mut datapath = load(&options, storage)?;
        let (first, last) = EXCLUDED_PORTS;
        let excluded: PortSet = format!("{first}-{last}")
            .parse()
            .map_err(|error| anyhow!("{error}"))?;
        let coverage = Coverage {
            exclude_ports: excluded,
            ..Coverage::everything()
        };
        datapath
            .attach(&cgroups.fds(), &coverage)
            .with_context(|| format!("failed to attach to cgroup {}", cgroups.first().path().display()))?;
        Ok(Self::Own {
            datapath: Box::new(datapath),
            _cgroups: cgroups,
        })
    }

    /// The name of its column.
    pub fn name(&self) -> &str {
        match self {
            Self::Own { .. } => "sockredir",
            Self::External { name, .. } => name,
        }
    }

    /// Its counts so far, if it provides any.
    pub fn counters(&self) -> Result<Option<Counters>> {
        match self {
            Self::Own { datapath, .. } => datapath.counters().map(Some),
            Self::External { .. } => Ok(None),
        }
    }

    pub fn ensure_running(&mut self) -> Result<()> {
        match self {
            Self::External { running, name } => {
                let is_running = running.is_running();
                ensure!(is_running, "{name} has ended by itself, before the benchmark did");
                Ok(())
            }
            Self::Own { .. } => Ok(()),
        }
    }
}
