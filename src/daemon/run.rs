//! `sockredir run`: from the checks to the totals.

use std::process;
use std::sync::mpsc;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow};

use super::adoption::Schedule;
use super::endpoints;
use super::events::EventThread;
use super::handover::Takeover;
use super::log::DecisionLog;
use super::main_loop::{MainLoop, open_endpoints};
use super::memory::Memory;
use super::notify::Manager;
use super::reporter::Reporter;
use super::request::Request;
use crate::cli::{Admit, RunArgs, Scope};
use crate::datapath;
use crate::datapath::cgroup::Cgroups;
use crate::model::document::Instance;
use crate::model::output::announce;
use crate::model::ports::PortSet;
use crate::model::text::folders;
use crate::preflight::{Single, check_all, check_scans};

/// What blocking programs may notice of acceleration, printed with `--admit any`.
const BLOCKING_DIFFERENCES: &str = "note: with --admit any, a blocking recv on an accelerated connection can return EAGAIN on a \
    reset, a signal, a shutdown by another thread, room for a writer or data that another reader took, and MSG_WAITALL can return \
    short (docs/differences.md, Blocking calls)";

/// Returns after a signal, once redirected data has been read. Fails if a check refuses or a cgroup vanishes.
pub fn run(args: &RunArgs) -> Result<()> {
    datapath::set_verbose(args.verbose);
    let (sender, requests) = mpsc::channel();
    let signals = sender.clone();
    // A receiver that has gone no longer waits for anything.
    ctrlc::set_handler(move || drop(signals.send(Request::Stop)))
        .context("failed to catch SIGINT and SIGTERM")?;

    let mut manager = Manager::from_environment()?;
    let mut storage = datapath::Storage::uninit();
    let single = if args.replace {
        Single::NotYet
    } else {
        Single::Demanded
    };
    let (report, ready) = check_all(&args.cgroups, single, &options(args), &mut storage);
    report.demand(&args.force)?;
    let (cgroups, mut datapath) = ready.map_err(|check| anyhow!("{check} failed"))?;
    if let Err(finding) = datapath.splice_watch().meaning() {
        eprintln!("sockredir: note: {finding}");
    }
    let is_first = cgroups.try_lock()?;
    // An instance to be replaced may hold that address until the handover.
    let mut listening = if is_first {
        endpoints::listen(args.metrics)?
    } else {
        None
    };
    let log = args
        .log_decisions
        .then(|| DecisionLog::begin(&datapath))
        .transpose()?;
    let event_thread = EventThread::start(&datapath)?;
    let coverage = coverage(args);
    let memory = Memory::open(args.known_programs.as_deref());
    memory.recall(&datapath, &coverage)?;
    datapath
        .attach(&cgroups.fds(), &coverage)
        .with_context(|| format!("failed to attach to cgroup {}", folders(&cgroups.paths())))?;
    // Until the handover the old instance, whose programs run first, takes new connections.
    let earlier = (!is_first).then(|| Takeover::begin(&cgroups)).transpose()?;
    if !is_first {
        listening = endpoints::listen(args.metrics)?;
    }
    if earlier.is_some() {
        // The old instance wrote what it knows during the handover.
        memory.recall(&datapath, &coverage)?;
    }
    let (metrics, address) = listening.unzip();
    let endpoints = open_endpoints(&cgroups, metrics, &sender)?;
    if args.admit == Admit::Any {
        announce(BLOCKING_DIFFERENCES)?;
    }
    let instance = instance(args, &cgroups);
    let covered = covered(args, &instance);
    announce(&format!("ready: {covered}"))?;
    if let Some(address) = address {
        announce(&format!("metrics: http://{address}/metrics"))?;
    }
    let inherited = earlier.map(take_over).transpose()?.flatten();
    manager.ready(&covered)?;
    if let Some(inherited) = inherited {
        inherited.ready(&covered)?;
        manager = inherited;
    }

    let schedule = Schedule::new(args.adopt, check_scans(), Instant::now());
    if let Some(obstacle) = schedule.obstacle() {
        eprintln!("sockredir: note: {obstacle}");
    }
    let mut main_loop = MainLoop {
        args,
        cgroups,
        datapath,
        requests,
        sender,
        endpoints: Some(endpoints),
        metrics: address,
        is_replaced: false,
        reporter: Reporter::new(instance),
        schedule,
        log,
        memory,
        manager,
        covered,
    };
    let watched = main_loop.watch();
    let left = main_loop.drain()?;
    let totals = main_loop.datapath.counters()?;
    // Out of the kernel before the last message.
    drop(main_loop);
    drop(event_thread);
    watched?;
    let unread = left.queues.ends as usize;
    if unread > 0 {
        announce(&format!(
            "{unread} sockets still had unread data and were left as they are: they stay on TCP"
        ))?;
    }
    let idle = left.mapped - unread;
    if idle > 0 {
        announce(&format!(
            "{idle} sockets could not be taken out of the socket map: they stay on TCP, in the map until they close"
        ))?;
    }
    announce(&format!("totals\n{totals}"))
}

/// The last step of a handover; returns the inherited service manager, if any.
fn take_over(earlier: Takeover) -> Result<Option<Manager>> {
    announce(&format!(
        "taken over from process {}, which goes on with the connections that it has",
        earlier.from()
    ))?;
    earlier.finish()
}

fn options(args: &RunArgs) -> datapath::Options {
    datapath::Options {
        admit_blocking: args.admit == Admit::Any,
        scope_host: args.scope == Scope::Host,
        same_user: args.same_user,
        same_cgroup: args.same_cgroup,
        log_decisions: args.log_decisions,
        max_flows: args.max_flows,
        tunables: Vec::new(),
    }
}

fn coverage(args: &RunArgs) -> datapath::Coverage {
    datapath::Coverage {
        ports: args.ports.clone().unwrap_or_else(PortSet::all),
        exclude_ports: args.exclude_ports.clone().unwrap_or_else(PortSet::none),
        exclude_programs: args.exclude_programs.clone(),
        trusted: args.trust_programs.clone(),
    }
}

/// What is covered, on one line.
fn covered(args: &RunArgs, instance: &Instance) -> String {
    let programs = match args.admit {
        Admit::Nonblocking => "non-blocking programs; --admit any includes blocking ones",
        Admit::Any => "non-blocking and blocking programs",
    };
    format!(
        "cgroup {}, {}, {}, {programs}",
        folders(&instance.cgroups),
        instance.connections_in_words(),
        instance.ports_in_words()
    )
}

fn instance(args: &RunArgs, cgroups: &Cgroups) -> Instance {
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let list = |ports: &Option<PortSet>, default: &str| {
        ports.as_ref().map_or(default.to_owned(), PortSet::to_string)
    };
    Instance {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: process::id(),
        cgroups: cgroups.paths(),
        started_at: started.map_or(0, |started| started.as_secs()),
        uptime_seconds: 0.0,
        kernel: datapath::release(),
        stopping: false,
        admit: args.admit.name().to_owned(),
        scope: args.scope.name().to_owned(),
        same_user: args.same_user,
        same_cgroup: args.same_cgroup,
        ports: list(&args.ports, "all"),
        exclude_ports: list(&args.exclude_ports, "none"),
        exclude_programs: args.exclude_programs.names().map(str::to_owned).collect(),
    }
}
