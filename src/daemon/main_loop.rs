//! A running instance once it is attached: what it waits for, how it hands over, and how it stops without losing a byte.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::adoption::Schedule;
use super::endpoints::{self, Endpoints};
use super::handover::Offer;
use super::log::DecisionLog;
use super::memory::Memory;
use super::metrics::Listener;
use super::notify::Manager;
use super::reporter::Reporter;
use super::request::Request;
use crate::cli::RunArgs;
use crate::datapath::cgroup::{self, Cgroups};
use crate::datapath::{Datapath, Ends, Namespaces};
use crate::model::counters::{Counter, Counters};
use crate::model::output::announce;
use crate::model::text::{bytes, percent, short};

/// How often the cgroups are checked.
const WATCH: Duration = Duration::from_secs(1);
/// How often a drain checks the queues.
const DRAIN_STEP: Duration = Duration::from_millis(20);
/// How long ends may take to leave the map once nothing is queued; those in use stay, which is harmless.
const LEAVE_TIME: Duration = Duration::from_millis(500);
/// How long an exiting process may still hold its lock.
const TAKE_BACK_TIME: Duration = Duration::from_secs(1);
/// How often decisions are logged; the ring buffer must hold what accrues meanwhile.
const LOG_STEP: Duration = Duration::from_millis(100);
/// How often the service manager gets a status line.
const TELL: Duration = Duration::from_secs(10);

/// An instance that is attached.
pub struct MainLoop<'a> {
    pub args: &'a RunArgs,
    pub cgroups: Cgroups,
    pub datapath: Datapath<'a>,
    pub requests: Receiver<Request>,
    pub sender: Sender<Request>,
    /// `None` once it has offered to hand over.
    pub endpoints: Option<Endpoints>,
    /// The address of the metrics.
    pub metrics: Option<SocketAddr>,
    /// Another instance takes new connections.
    pub is_replaced: bool,
    pub reporter: Reporter,
    pub schedule: Schedule,
    pub log: Option<DecisionLog>,
    pub memory: Memory,
    pub manager: Manager,
    /// What is covered, for the service manager.
    pub covered: String,
}

impl MainLoop<'_> {
    /// Waits this long or until the next scan is due, answering requests meanwhile; true if it is to stop.
    fn wait(&mut self, time: Duration) -> Result<bool> {
        let end = Instant::now() + time;
        loop {
            let next = self.schedule.next().map_or(end, |next| next.min(end));
            let left = next.saturating_duration_since(Instant::now());
            match self.requests.recv_timeout(left) {
                Ok(Request::Asked(asked)) => self.reporter.answer(&self.datapath, &mut self.schedule, asked),
                Ok(Request::Replace { by, reply }) => {
                    let offer = self.hand_over(by);
                    let is_offered = offer.is_ok();
                    // The asker has gone, so nobody will report the outcome of the handover.
                    if reply.send(offer).is_err() && is_offered {
                        self.replaced(by, false)?;
                    }
                }
                Ok(Request::Replaced { by, is_ready, told }) => {
                    self.replaced(by, is_ready)?;
                    drop(told);
                }
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(true),
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

    /// Makes room for another instance; a service hands over only within its own cgroup.
    fn hand_over(&mut self, by: u32) -> Result<Offer> {
        if self.manager.service().is_some() && !cgroup::shares_own(by) {
            bail!("it is a service: reload that, as with `systemctl reload sockredir`");
        }
        let Some(endpoints) = self.endpoints.take() else {
            bail!("another one takes over already");
        };
        drop(endpoints);
        self.datapath.hand_over(true);
        self.memory.keep(&self.datapath)?;
        self.cgroups.unlock()?;
        Ok(Offer::own(&self.manager))
    }

    /// The other instance is in charge, or this one is again.
    fn replaced(&mut self, by: u32, is_ready: bool) -> Result<()> {
        if !is_ready && self.take_back()? {
            return announce(&format!("process {by} has not taken over: going on"));
        }
        self.is_replaced = true;
        self.schedule.stop();
        self.manager.replaced_by(by);
        let flows = self.datapath.flows();
        announce(&format!(
            "handed over to process {by}: {flows} connections go on until they end"
        ))
    }

    /// False if another instance holds the lock for good.
    fn take_back(&mut self) -> Result<bool> {
        // A failed process holds the lock until its exit completes.
        let deadline = Instant::now() + TAKE_BACK_TIME;
        while !self.cgroups.try_lock()? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(DRAIN_STEP);
        }
        self.datapath.hand_over(false);
        let metrics = endpoints::listen(self.metrics)
            .inspect_err(|error| eprintln!("sockredir: {error:#}: there are no metrics any more"))
            .unwrap_or_default();
        self.endpoints = Some(open_endpoints(
            &self.cgroups,
            metrics.map(|(listener, _)| listener),
            &self.sender,
        )?);
        Ok(true)
    }

    fn tell_manager(&self, counters: &Counters) {
        let redirected = counters.value(const { Counter::of("bytes_redirected") });
        let all = redirected + counters.value(const { Counter::of("bytes_tcp") });
        let accelerated = counters.value(const { Counter::of("admitted_request_response") })
            + counters.value(const { Counter::of("admitted_bulk") });
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

    /// Returns at the first signal, or once replaced and without connections; fails if a cgroup vanishes.
    pub fn watch(&mut self) -> Result<()> {
        let interval = self.args.interval.map(Duration::from_secs);
        let mut due = interval.map(|interval| Instant::now() + interval);
        let mut last = self.datapath.counters()?;
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
            if self.schedule.next().is_some_and(|next| now >= next) {
                if let Some(note) = self.schedule.scan(&mut self.datapath)? {
                    eprintln!("sockredir: note: {note}");
                }
            }
            if now >= tick {
                if self.schedule.heeds_changes() {
                    self.schedule.notice(&self.datapath.counters()?, now);
                }
                look_after(&self.cgroups)?;
                if self.is_replaced && self.datapath.ends()?.mapped == 0 {
                    return Ok(());
                }
                tick = Instant::now() + WATCH;
            }
            if Instant::now() >= tell {
                self.tell_manager(&self.datapath.counters()?);
                if !self.is_replaced {
                    self.memory.keep(&self.datapath)?;
                }
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

    /// Stops redirecting and waits until redirected data has been read, at most for the drain timeout or until the next
    /// signal. Returns what is still in the map then.
    pub fn drain(&mut self) -> Result<Ends> {
        let begin = Instant::now();
        let deadline = begin + Duration::from_secs(self.args.drain_timeout);
        self.datapath.stop_redirects();
        if !self.is_replaced {
            self.memory.keep(&self.datapath)?;
        }
        self.reporter.stopping();
        self.schedule.stop();
        self.manager
            .stopping("waiting until what is queued has been read");
        let mut ends = self.datapath.ends()?;
        let elsewhere = Namespaces::look();
        loop {
            if self.schedule.obstacle().is_none() {
                self.datapath.release_idle(&ends, &elsewhere)?;
            }
            ends = self.datapath.ends()?;
            let waited = begin.elapsed();
            let is_over = ends.mapped == 0
                || (ends.queues.ends == 0 && waited >= LEAVE_TIME)
                || Instant::now() >= deadline;
            if is_over || self.wait(DRAIN_STEP)? {
                self.tell_decisions()?;
                return Ok(ends);
            }
        }
    }
}

fn look_after(cgroups: &Cgroups) -> Result<()> {
    if let Some(removed) = cgroups.iter().find(|cgroup| !cgroup.exists()) {
        bail!(
            "cgroup {} was removed: nothing is accelerated there any more, start again on one that lasts",
            removed.path().display()
        );
    }
    Ok(())
}

/// As [`Endpoints::open`]; reports what could not be opened.
pub fn open_endpoints(
    cgroups: &Cgroups,
    metrics: Option<Listener>,
    main_loop: &Sender<Request>,
) -> Result<Endpoints> {
    let (endpoints, failed) = Endpoints::open(cgroups, metrics, main_loop)?;
    if let Some(error) = failed {
        announce(&format!(
            "note: {error:#}: `status`, `flows`, `top` and `explain` will not find this instance, and none can take over from it"
        ))?;
    }
    Ok(endpoints)
}
