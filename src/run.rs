//! The life of `sockredir run`: start, wait for a signal, stop without losing a byte.

use std::io::Write as _;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::cgroup::Cgroup;
use crate::checks;
use crate::cli::{Admit, RunArgs};
use crate::kernel::{self, Datapath, Ends};
use crate::ports::PortSet;
use crate::splice::SpliceWatch;

/// How often the cgroup is looked after.
const WATCH: Duration = Duration::from_secs(1);
/// How often the drain looks at the queues.
const DRAIN_STEP: Duration = Duration::from_millis(20);
/// How long ends may take to leave the map once nothing is queued any more; those in use stay, and are harmless.
const LEAVE_TIME: Duration = Duration::from_millis(500);

/// What blocking programs can notice of acceleration, for those who ask for it.
const BLOCKING_DIFFERENCES: &str = "note: with --admit any, a blocking recv on an accelerated connection can return EAGAIN on a \
    reset, a signal, a shutdown by another thread, room for a writer or data that another reader took, and MSG_WAITALL can return \
    short (docs/differences.md, Blocking calls)";

/// A request to stop: SIGINT, SIGTERM or SIGHUP.
struct StopSignal;

pub fn run(args: &RunArgs) -> Result<()> {
    kernel::set_verbose(args.verbose);
    let (sender, signals) = mpsc::channel();
    // A receiver that has gone is waiting for nothing any more.
    ctrlc::set_handler(move || drop(sender.send(StopSignal)))
        .context("failed to catch SIGINT and SIGTERM")?;

    let mut storage = kernel::Storage::uninit();
    let (report, ready) = checks::check_all(args.cgroup.as_deref(), &options(args), &mut storage);
    report.demand(&args.force)?;
    let (cgroup, mut datapath) = ready.map_err(|check| anyhow!("{check} failed"))?;
    datapath
        .attach(cgroup.fd(), &coverage(args))
        .with_context(|| format!("failed to attach to cgroup {}", cgroup.path().display()))?;
    if args.admit == Admit::Any {
        announce(BLOCKING_DIFFERENCES)?;
    }
    announce(&ready_line(args, &cgroup))?;

    let watched = watch(args, &cgroup, &datapath, &signals);
    let unread = drain(args, &mut datapath, &signals)?;
    let totals = datapath.counters()?;
    drop(datapath);
    watched?;
    if unread > 0 {
        announce(&format!(
            "{unread} sockets still had unread data and were left as they are: they stay on TCP"
        ))?;
    }
    announce(&format!("totals\n{totals}"))
}

fn options(args: &RunArgs) -> kernel::Options {
    kernel::Options {
        admit_blocking: args.admit == Admit::Any,
        max_flows: args.max_flows,
        tunables: Vec::new(),
    }
}

fn coverage(args: &RunArgs) -> kernel::Coverage {
    kernel::Coverage {
        ports: args.ports.clone().unwrap_or_else(PortSet::all),
        exclude_ports: args.exclude_ports.clone().unwrap_or_else(PortSet::none),
        exclude_programs: args.exclude_programs.names().map(str::to_owned).collect(),
    }
}

/// What is covered, for people and for scripts that wait for its first word.
fn ready_line(args: &RunArgs, cgroup: &Cgroup) -> String {
    let ports = match (&args.ports, &args.exclude_ports) {
        (None, None) => "all ports".to_owned(),
        (Some(ports), None) => format!("ports {ports}"),
        (None, Some(excluded)) => format!("all ports but {excluded}"),
        (Some(ports), Some(excluded)) => format!("ports {ports} but {excluded}"),
    };
    let programs = match args.admit {
        Admit::Nonblocking => "non-blocking programs; --admit any includes blocking ones",
        Admit::Any => "non-blocking and blocking programs",
    };
    format!(
        "ready: cgroup {}, connections over loopback, {ports}, {programs}",
        cgroup.path().display()
    )
}

/// Prints to standard output, at once.
fn announce(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.trim_end())
        .and_then(|()| out.flush())
        .context("failed to write to standard output")
}

/// Returns at the first signal; fails if the cgroup vanishes.
fn watch(
    args: &RunArgs,
    cgroup: &Cgroup,
    datapath: &Datapath<'_>,
    signals: &Receiver<StopSignal>,
) -> Result<()> {
    let interval = args.interval.map(Duration::from_secs);
    let mut due = interval.map(|interval| Instant::now() + interval);
    let mut last = datapath.counters()?;
    let mut splices = SpliceWatch::default();
    let mut tick = Instant::now() + WATCH;
    loop {
        let wait = due.map_or(WATCH, |due| {
            due.saturating_duration_since(Instant::now()).min(WATCH)
        });
        match signals.recv_timeout(wait) {
            Ok(StopSignal) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if !cgroup.exists() {
            bail!(
                "cgroup {} was removed: nothing is accelerated any more, start again on one that lasts",
                cgroup.path().display()
            );
        }
        if Instant::now() >= tick {
            for program in splices.tick(datapath)? {
                eprintln!(
                    "sockredir: {program} splices, which does not see redirected data: its new connections stay on TCP; keep \
                     all of them there with --exclude-programs {program}"
                );
            }
            tick = Instant::now() + WATCH;
        }
        if due.is_some_and(|due| Instant::now() >= due) {
            let now = datapath.counters()?;
            announce(&format!(
                "last {} s\n{}",
                args.interval.unwrap_or_default(),
                now.since(&last)
            ))?;
            last = now;
            due = due.zip(interval).map(|(due, interval)| due + interval);
        }
    }
}

/// Stops redirecting and waits until what was redirected has been read, at most for the drain time or until the next
/// signal. Returns how many sockets still had unread data.
fn drain(args: &RunArgs, datapath: &mut Datapath<'_>, signals: &Receiver<StopSignal>) -> Result<usize> {
    let begin = Instant::now();
    let deadline = begin + Duration::from_secs(args.drain_timeout);
    datapath.stop_redirects();
    loop {
        datapath.release_idle()?;
        let Ends { mapped, unread } = datapath.ends()?;
        let waited = begin.elapsed();
        if mapped == 0 || (unread.is_empty() && waited >= LEAVE_TIME) || Instant::now() >= deadline {
            return Ok(unread.len());
        }
        if signals.recv_timeout(DRAIN_STEP).is_ok() {
            return Ok(unread.len());
        }
    }
}
