//! The life of `sockredir run`: start, wait for a signal, stop without losing a byte.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::adopt::Schedule;
use crate::cgroup::{self, Cgroups};
use crate::checks::{self, Single};
use crate::cli::{Admit, RunArgs, Scope};
use crate::counters::Counters;
use crate::front::{self, Front};
use crate::handover::{self, Offer, Takeover};
use crate::kernel::{self, Datapath, Ends};
use crate::notify::Manager;
use crate::observe::desk::{Desk, Event};
use crate::observe::log::DecisionLog;
use crate::observe::metrics::Listener;
use crate::observe::model::Instance;
use crate::observe::text::{bytes, folders, percent, short};
use crate::ports::PortSet;
use crate::splice::SpliceWatch;

/// How often the cgroups are looked after.
const WATCH: Duration = Duration::from_secs(1);
/// How often the drain looks at the queues.
const DRAIN_STEP: Duration = Duration::from_millis(20);
/// How long ends may take to leave the map once nothing is queued any more; those in use stay, and are harmless.
const LEAVE_TIME: Duration = Duration::from_millis(500);
/// How long the lock of a process that has ended may last.
const TAKE_BACK_TIME: Duration = Duration::from_secs(1);
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

    let mut manager = Manager::from_environment()?;
    let mut storage = kernel::Storage::uninit();
    let single = if args.replace {
        Single::NotYet
    } else {
        Single::Demanded
    };
    let (report, ready) = checks::check_all(&args.cgroups, single, &options(args), &mut storage);
    report.demand(&args.force)?;
    let (cgroups, mut datapath) = ready.map_err(|check| anyhow!("{check} failed"))?;
    let is_first = cgroups.try_lock()?;
    // The instance that is to be replaced may have that address until then.
    let mut listening = if is_first {
        front::listen(args.metrics)?
    } else {
        None
    };
    let log = args
        .log_decisions
        .then(|| DecisionLog::begin(&datapath))
        .transpose()?;
    datapath
        .attach(&cgroups.fds(), &coverage(args))
        .with_context(|| format!("failed to attach to cgroup {}", folders(&cgroups.paths())))?;
    // Until it has handed over, what is new is taken by the earlier one, whose programs come first.
    let earlier = (!is_first).then(|| Takeover::begin(&cgroups)).transpose()?;
    if !is_first {
        listening = front::listen(args.metrics)?;
    }
    let (metrics, address) = listening.unzip();
    let front = open_front(&cgroups, metrics, &sender)?;
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

    let mut life = Life {
        args,
        cgroups,
        datapath,
        events,
        sender,
        front: Some(front),
        metrics: address,
        is_replaced: false,
        desk: Desk::new(instance, Schedule::new(args.adopt, Instant::now())),
        log,
        manager,
        covered,
    };
    let watched = life.watch();
    let unread = life.drain()?;
    let totals = life.datapath.counters()?;
    // Gone from the kernel before the last word.
    drop(life);
    watched?;
    if unread > 0 {
        announce(&format!(
            "{unread} sockets still had unread data and were left as they are: they stay on TCP"
        ))?;
    }
    announce(&format!("totals\n{totals}"))
}

/// The last step of it; the service manager that comes with it, if one does.
fn take_over(earlier: Takeover) -> Result<Option<Manager>> {
    announce(&format!(
        "taken over from process {}, which goes on with the connections that it has",
        earlier.from()
    ))?;
    earlier.finish()
}

/// As [`Front::open`]; says what cannot be had.
fn open_front(cgroups: &Cgroups, metrics: Option<Listener>, desk: &Sender<Event>) -> Result<Front> {
    let (front, failed) = Front::open(cgroups, metrics, desk)?;
    if let Some(error) = failed {
        announce(&format!(
            "note: {error:#}: `status`, `flows`, `top` and `explain` will not find this instance, and none can take over from it"
        ))?;
    }
    Ok(front)
}

fn options(args: &RunArgs) -> kernel::Options {
    kernel::Options {
        admit_blocking: args.admit == Admit::Any,
        scope_host: args.scope == Scope::Host,
        same_user: args.same_user,
        same_cgroup: args.same_cgroup,
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
        "cgroup {}, {}, {}, {programs}",
        folders(&instance.cgroups),
        instance.connections_in_words(),
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
        kernel: kernel::release(),
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

/// An instance from its first connection on.
struct Life<'a> {
    args: &'a RunArgs,
    cgroups: Cgroups,
    datapath: Datapath<'a>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    /// None from the offer to hand over on.
    front: Option<Front>,
    /// Where the metrics are.
    metrics: Option<SocketAddr>,
    /// Another instance takes what is new.
    is_replaced: bool,
    desk: Desk,
    log: Option<DecisionLog>,
    manager: Manager,
    /// What the service manager is told to be accelerated.
    covered: String,
}

impl Life<'_> {
    /// Waits so long or until the next scan is due, however many ask meanwhile; true if it is to stop.
    fn wait(&mut self, time: Duration) -> Result<bool> {
        let end = Instant::now() + time;
        loop {
            let next = self.desk.schedule.next().map_or(end, |next| next.min(end));
            let left = next.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(Event::Asked(asked)) => self.desk.answer(&self.datapath, asked),
                Ok(Event::Replace { by, reply }) => {
                    // One that has gone is heard of next.
                    drop(reply.send(self.hand_over(by)));
                }
                Ok(Event::Replaced { by, is_ready, told }) => {
                    self.replaced(by, is_ready)?;
                    drop(told);
                }
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(true),
                Err(RecvTimeoutError::Timeout) => break,
            }
            if left.is_zero() {
                break;
            }
        }
        self.manager.alive();
        self.tell_decisions()?;
        Ok(false)
    }

    /// Makes room for another instance, which this process may become.
    fn hand_over(&mut self, by: u32) -> Result<Offer> {
        if self.manager.service().is_some() && !cgroup::shares_own(by) {
            bail!("it is a service: reload that, as with `systemctl reload sockredir`");
        }
        let Some(front) = self.front.take() else {
            bail!("another one takes over already");
        };
        drop(front);
        self.datapath.hand_over(true);
        self.cgroups.unlock()?;
        Ok(handover::own_offer(&self.manager))
    }

    /// The other one is in charge, or this one is again.
    fn replaced(&mut self, by: u32, is_ready: bool) -> Result<()> {
        if !is_ready && self.take_back()? {
            return announce(&format!("process {by} has not taken over: going on"));
        }
        self.is_replaced = true;
        self.desk.schedule.stop();
        self.manager.replaced_by(by);
        let flows = self.datapath.flows();
        announce(&format!(
            "handed over to process {by}: {flows} connections go on until they end"
        ))
    }

    /// False if another instance has the lock for good.
    fn take_back(&mut self) -> Result<bool> {
        // It goes with the last moments of the process that has failed.
        let deadline = Instant::now() + TAKE_BACK_TIME;
        while !self.cgroups.try_lock()? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(DRAIN_STEP);
        }
        self.datapath.hand_over(false);
        let metrics = front::listen(self.metrics)
            .inspect_err(|error| eprintln!("sockredir: {error:#}: there are no metrics any more"))
            .unwrap_or_default();
        self.front = Some(open_front(
            &self.cgroups,
            metrics.map(|(listener, _)| listener),
            &self.sender,
        )?);
        Ok(true)
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

    fn tell_decisions(&mut self) -> Result<()> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let lines = log.lines(&self.datapath)?;
        if lines.is_empty() {
            Ok(())
        } else {
            announce(&lines)
        }
    }

    /// Returns at the first signal, or when it was replaced and its connections have ended; fails if a cgroup vanishes.
    fn watch(&mut self) -> Result<()> {
        let interval = self.args.interval.map(Duration::from_secs);
        let mut due = interval.map(|interval| Instant::now() + interval);
        let mut last = self.datapath.counters()?;
        let mut splices = SpliceWatch::default();
        let mut tick = Instant::now() + WATCH;
        let mut tell = Instant::now() + TELL;
        loop {
            let until = due.map_or(tick, |due| due.min(tick));
            let mut wait = until.saturating_duration_since(Instant::now());
            if self.log.is_some() {
                wait = wait.min(LOG_STEP);
            }
            if self.wait(wait)? {
                return Ok(());
            }
            let now = Instant::now();
            if self.desk.schedule.next().is_some_and(|next| now >= next) {
                self.desk.schedule.scan(&mut self.datapath)?;
            }
            if now >= tick {
                self.desk.schedule.notice(&self.datapath.counters()?, now);
                look_after(&self.cgroups, &self.datapath, &mut splices)?;
                if self.is_replaced && self.datapath.ends()?.mapped == 0 {
                    return Ok(());
                }
                tick = Instant::now() + WATCH;
            }
            if Instant::now() >= tell {
                self.tell_manager(&self.datapath.counters()?);
                tell = Instant::now() + TELL;
            }
            if due.is_some_and(|due| Instant::now() >= due) {
                let now = self.datapath.counters()?;
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
    fn drain(&mut self) -> Result<usize> {
        let begin = Instant::now();
        let deadline = begin + Duration::from_secs(self.args.drain_timeout);
        self.datapath.stop_redirects();
        self.desk.stopping();
        self.manager
            .stopping("waiting until what is queued has been read");
        loop {
            self.datapath.release_idle()?;
            let Ends { mapped, unread, .. } = self.datapath.ends()?;
            let waited = begin.elapsed();
            let is_over =
                mapped == 0 || (unread.is_empty() && waited >= LEAVE_TIME) || Instant::now() >= deadline;
            if is_over || self.wait(DRAIN_STEP)? {
                self.tell_decisions()?;
                return Ok(unread.len());
            }
        }
    }
}

fn look_after(cgroups: &Cgroups, datapath: &Datapath<'_>, splices: &mut SpliceWatch) -> Result<()> {
    if let Some(removed) = cgroups.iter().find(|cgroup| !cgroup.exists()) {
        bail!(
            "cgroup {} was removed: nothing is accelerated there any more, start again on one that lasts",
            removed.path().display()
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
