//! The life of `sockredir run`: start, wait for a signal, stop without losing a byte.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::cgroup::Cgroup;
use crate::checks;
use crate::cli::{Admit, RunArgs};
use crate::counters::Counters;
use crate::kernel::{self, Datapath, Ends};
use crate::notify::Manager;
use crate::observe::control::{self, Control};
use crate::observe::desk::{Desk, Event};
use crate::observe::log::DecisionLog;
use crate::observe::metrics::Listener;
use crate::observe::model::Instance;
use crate::observe::text::{bytes, percent, short};
use crate::ports::PortSet;
use crate::splice::SpliceWatch;

/// How often the cgroup is looked after.
const WATCH: Duration = Duration::from_secs(1);
/// How often the drain looks at the queues.
const DRAIN_STEP: Duration = Duration::from_millis(20);
/// How long ends may take to leave the map once nothing is queued any more; those in use stay, and are harmless.
const LEAVE_TIME: Duration = Duration::from_millis(500);
/// How often decisions are logged: the kernel side keeps as many as its ring buffer holds.
const LOG_STEP: Duration = Duration::from_millis(100);
/// How often a service manager is told how much was redirected.
const TELL: Duration = Duration::from_secs(10);

/// What blocking programs can notice of acceleration, for those who ask for it.
const BLOCKING_DIFFERENCES: &str = "note: with --admit any, a blocking recv on an accelerated connection can return EAGAIN on a \
    reset, a signal, a shutdown by another thread, room for a writer or data that another reader took, and MSG_WAITALL can return \
    short (docs/differences.md, Blocking calls)";

pub fn run(args: &RunArgs) -> Result<()> {
    kernel::set_verbose(args.verbose);
    let (sender, events) = mpsc::channel();
    let signals = sender.clone();
    // A receiver that has gone is waiting for nothing any more.
    ctrlc::set_handler(move || drop(signals.send(Event::Stop)))
        .context("failed to catch SIGINT and SIGTERM")?;

    let manager = Manager::from_environment()?;
    let mut storage = kernel::Storage::uninit();
    let (report, ready) = checks::check_all(args.cgroup.as_deref(), &options(args), &mut storage);
    report.demand(&args.force)?;
    let (cgroup, mut datapath) = ready.map_err(|check| anyhow!("{check} failed"))?;
    let metrics = args.metrics.map(Listener::bind).transpose()?;
    let log = args
        .log_decisions
        .then(|| DecisionLog::begin(&datapath))
        .transpose()?;
    datapath
        .attach(cgroup.fd(), &coverage(args))
        .with_context(|| format!("failed to attach to cgroup {}", cgroup.path().display()))?;
    let metrics = metrics
        .map(|metrics| serve(metrics, sender.clone()))
        .transpose()?;
    let control = Control::open(&cgroup, sender);
    if let Err(error) = &control {
        announce(&format!(
            "note: {error:#}: `status`, `flows`, `top` and `explain` will not find this instance"
        ))?;
    }
    if args.admit == Admit::Any {
        announce(BLOCKING_DIFFERENCES)?;
    }
    let instance = instance(args, &cgroup);
    let covered = covered(args, &instance);
    announce(&format!("ready: {covered}"))?;
    manager.ready(&covered)?;
    if let Some(address) = metrics {
        announce(&format!("metrics: http://{address}/metrics"))?;
    }

    let mut life = Life {
        args,
        events,
        desk: Desk::new(instance),
        log,
        manager,
        covered,
    };
    let watched = life.watch(&cgroup, &datapath);
    let unread = life.drain(&mut datapath)?;
    let totals = datapath.counters()?;
    drop(control);
    drop(datapath);
    watched?;
    if unread > 0 {
        announce(&format!(
            "{unread} sockets still had unread data and were left as they are: they stay on TCP"
        ))?;
    }
    announce(&format!("totals\n{totals}"))
}

/// Answers scrapes from now on; where that is.
fn serve(metrics: Listener, desk: Sender<Event>) -> Result<SocketAddr> {
    let address = metrics.address()?;
    metrics.serve(move || control::sample_of(&desk))?;
    Ok(address)
}

fn options(args: &RunArgs) -> kernel::Options {
    kernel::Options {
        admit_blocking: args.admit == Admit::Any,
        log_decisions: args.log_decisions,
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

/// What is covered, in a line.
fn covered(args: &RunArgs, instance: &Instance) -> String {
    let programs = match args.admit {
        Admit::Nonblocking => "non-blocking programs; --admit any includes blocking ones",
        Admit::Any => "non-blocking and blocking programs",
    };
    format!(
        "cgroup {}, connections over loopback, {}, {programs}",
        instance.cgroup.display(),
        instance.ports_in_words()
    )
}

/// Prints to standard output, at once.
fn announce(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.trim_end())
        .and_then(|()| out.flush())
        .context("failed to write to standard output")
}

fn instance(args: &RunArgs, cgroup: &Cgroup) -> Instance {
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let list = |ports: &Option<PortSet>, default: &str| {
        ports.as_ref().map_or(default.to_owned(), PortSet::to_string)
    };
    Instance {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: process::id(),
        cgroup: cgroup.path().to_owned(),
        started_at: started.map_or(0, |started| started.as_secs()),
        uptime_seconds: 0.0,
        kernel: kernel::release(),
        stopping: false,
        admit: args.admit.name().to_owned(),
        ports: list(&args.ports, "all"),
        exclude_ports: list(&args.exclude_ports, "none"),
        exclude_programs: args.exclude_programs.names().map(str::to_owned).collect(),
    }
}

/// An instance from its first connection on.
struct Life<'a> {
    args: &'a RunArgs,
    events: Receiver<Event>,
    desk: Desk,
    log: Option<DecisionLog>,
    manager: Manager,
    /// What the service manager is told to be accelerated.
    covered: String,
}

impl Life<'_> {
    /// Waits so long, however many ask meanwhile; true if it is to stop.
    fn wait(&mut self, datapath: &Datapath<'_>, time: Duration) -> Result<bool> {
        let end = Instant::now() + time;
        let mut left = time;
        loop {
            match self.events.recv_timeout(left) {
                Ok(Event::Asked(asked)) => self.desk.answer(datapath, asked),
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(true),
                Err(RecvTimeoutError::Timeout) => break,
            }
            left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
        }
        self.manager.alive();
        self.tell_decisions(datapath)?;
        Ok(false)
    }

    fn tell_manager(&self, counters: &Counters) {
        let redirected = counters.value("bytes_redirected");
        let all = redirected + counters.value("bytes_tcp");
        let accelerated = counters.value("admitted_request_response") + counters.value("admitted_bulk");
        self.manager.status(&format!(
            "{}; {} connections accelerated so far, {} of {} redirected",
            self.covered,
            short(accelerated as f64),
            percent(redirected as f64 / all.max(1) as f64),
            bytes(all as f64)
        ));
    }

    fn tell_decisions(&mut self, datapath: &Datapath<'_>) -> Result<()> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let lines = log.lines(datapath)?;
        if lines.is_empty() {
            Ok(())
        } else {
            announce(&lines)
        }
    }

    /// Returns at the first signal; fails if the cgroup vanishes.
    fn watch(&mut self, cgroup: &Cgroup, datapath: &Datapath<'_>) -> Result<()> {
        let interval = self.args.interval.map(Duration::from_secs);
        let mut due = interval.map(|interval| Instant::now() + interval);
        let mut last = datapath.counters()?;
        let mut splices = SpliceWatch::default();
        let mut tick = Instant::now() + WATCH;
        let mut tell = Instant::now() + TELL;
        loop {
            let until = due.map_or(tick, |due| due.min(tick));
            let mut wait = until.saturating_duration_since(Instant::now());
            if self.log.is_some() {
                wait = wait.min(LOG_STEP);
            }
            if self.wait(datapath, wait)? {
                return Ok(());
            }
            if Instant::now() >= tick {
                look_after(cgroup, datapath, &mut splices)?;
                tick = Instant::now() + WATCH;
            }
            if Instant::now() >= tell {
                self.tell_manager(&datapath.counters()?);
                tell = Instant::now() + TELL;
            }
            if due.is_some_and(|due| Instant::now() >= due) {
                let now = datapath.counters()?;
                announce(&format!(
                    "last {} s\n{}",
                    self.args.interval.unwrap_or_default(),
                    now.since(&last)
                ))?;
                last = now;
                due = due.zip(interval).map(|(due, interval)| due + interval);
            }
        }
    }

    /// Stops redirecting and waits until what was redirected has been read, at most for the drain time or until the next
    /// signal. Returns how many sockets still had unread data.
    fn drain(&mut self, datapath: &mut Datapath<'_>) -> Result<usize> {
        let begin = Instant::now();
        let deadline = begin + Duration::from_secs(self.args.drain_timeout);
        datapath.stop_redirects();
        self.desk.stopping();
        self.manager
            .stopping("waiting until what is queued has been read");
        loop {
            datapath.release_idle()?;
            let Ends { mapped, unread, .. } = datapath.ends()?;
            let waited = begin.elapsed();
            let is_over =
                mapped == 0 || (unread.is_empty() && waited >= LEAVE_TIME) || Instant::now() >= deadline;
            if is_over || self.wait(datapath, DRAIN_STEP)? {
                self.tell_decisions(datapath)?;
                return Ok(unread.len());
            }
        }
    }
}

fn look_after(cgroup: &Cgroup, datapath: &Datapath<'_>, splices: &mut SpliceWatch) -> Result<()> {
    if !cgroup.exists() {
        bail!(
            "cgroup {} was removed: nothing is accelerated any more, start again on one that lasts",
            cgroup.path().display()
        );
    }
    for program in splices.tick(datapath)? {
        eprintln!(
            "sockredir: {program} splices, which does not see redirected data: its new connections stay on TCP; keep all of \
             them there with --exclude-programs {program}"
        );
    }
    Ok(())
}
