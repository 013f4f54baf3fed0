//! When to scan for connections to adopt: at the start and after changes, at growing intervals, until the scans rest.

use std::mem;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::request::Answer;
use crate::cli::Adopt;
use crate::datapath::{Datapath, ENTERING, Scan};
use crate::model::counters::{Counter, Counters};
use crate::model::document::{Adopted, Adoption, FORMAT};
use crate::model::finding::Finding;

/// The interval after a scan that found something; doubled after one that did not. Adoption takes two sightings of an end.
const FIRST: Duration = Duration::from_millis(250);
const LAST: Duration = Duration::from_secs(16);
/// Scans take at most one part in this many of a processor's time.
const SHARE: u32 = 50;
/// The same for the two seconds for which the first end of a connection waits in the map for its peer.
const HURRIED: u32 = 10;
/// Scans in a row without a find after which they rest: half a minute after the last change.
const IDLE: u32 = 7;
/// Scans for each asker: the first notes ends, the second adopts them.
const ASKED: u32 = 2;

/// Counters that change when a connection is not followed that may be later.
const CHANGES: [Counter; 9] = [
    Counter::of("refused_blocking"),
    Counter::of("refused_blocking_server"),
    Counter::of("refused_unknown_server"),
    Counter::of("refused_service"),
    Counter::of("refused_full"),
    Counter::of("tcp_only_blocking"),
    Counter::of("tcp_only_pattern"),
    Counter::of("tcp_only_no_mate"),
    Counter::of("drain_done"),
];

/// Someone waiting for the scans they asked for.
struct Asker {
    reply: SyncSender<Result<Answer>>,
    told: Adopted,
    left: u32,
}

/// The scans of an instance.
pub struct Schedule {
    mode: Adopt,
    /// Why there are no scans unless the user asks for them explicitly.
    obstacle: Option<Finding>,
    /// None while they rest.
    next: Option<Instant>,
    interval: Duration,
    idle: u32,
    /// What earlier scans found is out of date.
    rested: bool,
    /// Network namespaces that the last scan could not enter, and whether the user has been told of any.
    shut: u32,
    has_noted_shut: bool,
    changes: u64,
    askers: Vec<Asker>,
    scans: u64,
    last: Duration,
    all: Duration,
}

impl Schedule {
    /// For an instance that was just attached: the user's choice, and whether the kernel is fit for scans.
    pub fn new(asked: Option<Adopt>, fit: Result<(), Finding>, now: Instant) -> Self {
        let obstacle = fit.err().filter(|_| asked.is_none());
        let mode = asked.unwrap_or(if obstacle.is_some() {
            Adopt::Off
        } else {
            Adopt::Auto
        });
        Self {
            mode,
            obstacle,
            next: (mode != Adopt::Off).then_some(now),
            interval: FIRST,
            idle: 0,
            rested: false,
            shut: 0,
            has_noted_shut: false,
            changes: 0,
            askers: Vec::new(),
            scans: 0,
            last: Duration::ZERO,
            all: Duration::ZERO,
        }
    }

    pub fn obstacle(&self) -> Option<&Finding> {
        self.obstacle.as_ref()
    }

    /// When the next scan is due.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// No more scans from now on.
    pub fn stop(&mut self) {
        self.mode = Adopt::Off;
        self.next = None;
        self.askers.clear();
    }

    /// Requests scans now, whatever the mode.
    pub fn ask(&mut self, reply: SyncSender<Result<Answer>>, now: Instant) {
        let told = Adopted {
            format: FORMAT,
            ..Adopted::default()
        };
        self.askers.push(Asker {
            reply,
            told,
            left: ASKED,
        });
        self.next = Some(now);
    }

    /// True if a change can lead to a scan.
    pub fn heeds_changes(&self) -> bool {
        self.mode != Adopt::Off
    }

    /// Scans again if the counters show a relevant change.
    pub fn notice(&mut self, counters: &Counters, now: Instant) {
        let changes = CHANGES.iter().map(|counter| counters.value(*counter)).sum();
        if changes == self.changes {
            return;
        }
        self.changes = changes;
        self.idle = 0;
        if self.mode == Adopt::Auto && self.next.is_none() {
            self.interval = FIRST;
            self.next = Some(now + self.interval);
        }
    }

    /// Scans and answers the askers; returns a note for the user, at most once.
    pub fn scan(&mut self, datapath: &mut Datapath<'_>) -> Result<Option<String>> {
        if self.rested {
            datapath.forget_candidates()?;
        }
        let scan = datapath.scan()?;
        self.scanned(&scan, Instant::now());
        self.rested = self.next.is_none();
        Ok(self.note())
    }

    fn note(&mut self) -> Option<String> {
        if self.shut == 0 || mem::replace(&mut self.has_noted_shut, true) {
            return None;
        }
        Some(format!(
            "established connections of {} other network namespaces are not adopted: entering these takes {ENTERING}, and \
             seeing their processes",
            self.shut
        ))
    }

    fn scanned(&mut self, scan: &Scan, now: Instant) {
        self.scans += 1;
        self.last = scan.took;
        self.all += scan.took;
        self.shut = scan.shut;
        if scan.noted + scan.halves + scan.adopted > 0 {
            self.idle = 0;
            self.interval = FIRST;
        } else {
            self.idle += 1;
            self.interval = LAST.min(self.interval * 2);
        }
        self.interval = self.interval.max(scan.took * SHARE);
        self.next = self.follow(scan, now);
        self.tell(scan);
        if !self.askers.is_empty() {
            self.next = Some(now + FIRST);
        }
    }

    /// When the next scan is due if nothing changes until then.
    fn follow(&self, scan: &Scan, now: Instant) -> Option<Instant> {
        if self.mode == Adopt::Off {
            return None;
        }
        if scan.halves > 0 {
            return Some(now + scan.took * HURRIED);
        }
        if self.idle < IDLE {
            return Some(now + self.interval);
        }
        let due = scan.due.filter(|_| self.mode == Adopt::Auto)?;
        Some(now + due.max(self.interval))
    }

    fn tell(&mut self, scan: &Scan) {
        for asker in &mut self.askers {
            asker.told.scans += 1;
            asker.told.seconds += scan.took.as_secs_f64();
            asker.told.adopted += u64::from(scan.adopted);
            asker.left -= 1;
        }
        let (told, waiting) = mem::take(&mut self.askers)
            .into_iter()
            .partition(|asker: &Asker| asker.left == 0);
        self.askers = waiting;
        for asker in told {
            // An asker that has gone needs no answer.
            drop(asker.reply.send(Ok(Answer::Adopted(asker.told))));
        }
    }

    /// The adoption part of `status`.
    pub fn adoption(&self) -> Adoption {
        Adoption {
            mode: self.mode.name().to_owned(),
            scans: self.scans,
            scan_seconds: self.all.as_secs_f64(),
            last_scan_seconds: self.last.as_secs_f64(),
            shut_namespaces: self.shut,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const NOTHING: Scan = Scan {
        noted: 0,
        halves: 0,
        adopted: 0,
        due: None,
        shut: 0,
        took: Duration::from_millis(1),
    };

    fn counters(blocking: u64, remote: u64) -> Counters {
        let names = ["refused_blocking", "refused_not_local"];
        Counters::new(&names.map(str::to_owned), vec![blocking, remote])
    }

    fn scheduled(mode: Adopt, now: Instant) -> Schedule {
        Schedule::new(Some(mode), Ok(()), now)
    }

    /// The intervals between scans with this result until they rest, at most `most`.
    fn intervals(schedule: &mut Schedule, scan: &Scan, most: usize) -> Vec<Duration> {
        let mut intervals = Vec::new();
        while let Some(now) = schedule.next().filter(|_| intervals.len() < most) {
            schedule.scanned(scan, now);
            intervals.extend(schedule.next().map(|next| next - now));
        }
        intervals
    }

    #[test]
    fn scans_that_find_nothing_become_rare_and_rest() {
        let now = Instant::now();
        let mut schedule = scheduled(Adopt::Auto, now);
        assert_eq!(schedule.next(), Some(now));
        let intervals = intervals(&mut schedule, &NOTHING, 100);
        assert_eq!(intervals.len() as u32, IDLE - 1);
        assert_eq!((intervals[0], *intervals.last().unwrap()), (FIRST * 2, LAST));
        assert_eq!(schedule.adoption().scans, u64::from(IDLE));
    }

    #[test]
    fn they_go_on_when_a_connection_is_refused_that_may_change_and_for_no_other_reason() {
        let now = Instant::now();
        let mut schedule = scheduled(Adopt::Auto, now);
        intervals(&mut schedule, &NOTHING, 100);
        schedule.notice(&counters(0, 5), now);
        assert_eq!(schedule.next(), None);
        schedule.notice(&counters(1, 5), now);
        assert_eq!(schedule.next(), Some(now + FIRST));
        intervals(&mut schedule, &NOTHING, 100);
        schedule.notice(&counters(1, 6), now);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn what_was_noted_is_adopted_soon_and_costs_a_share_of_time_only() {
        let mut schedule = scheduled(Adopt::Auto, Instant::now());
        let noted = Scan { noted: 1, ..NOTHING };
        assert_eq!(intervals(&mut schedule, &noted, 2), [FIRST; 2]);
        let slow = Scan {
            took: Duration::from_millis(100),
            ..noted
        };
        assert_eq!(intervals(&mut schedule, &slow, 1), [Duration::from_secs(5)]);
    }

    #[test]
    fn the_other_end_of_one_that_is_mapped_is_looked_at_at_once() {
        let mut schedule = scheduled(Adopt::Auto, Instant::now());
        let half = Scan { halves: 1, ..NOTHING };
        assert_eq!(intervals(&mut schedule, &half, 2), [Duration::from_millis(10); 2]);
        assert_eq!(intervals(&mut schedule, &NOTHING, 1), [FIRST * 2]);
    }

    #[test]
    fn an_end_that_waits_to_come_back_is_looked_at_when_it_may() {
        let mut schedule = scheduled(Adopt::Auto, Instant::now());
        let minute = Duration::from_secs(60);
        let waits = Scan {
            due: Some(minute),
            ..NOTHING
        };
        assert_eq!(intervals(&mut schedule, &waits, 30).last(), Some(&minute));
    }

    #[test]
    fn start_ends_with_what_was_there_and_off_never_begins() {
        let now = Instant::now();
        let mut schedule = scheduled(Adopt::Start, now);
        intervals(&mut schedule, &NOTHING, 100);
        schedule.notice(&counters(1, 0), now);
        assert_eq!(schedule.next(), None);
        assert_eq!(scheduled(Adopt::Off, now).next(), None);
    }

    #[test]
    fn an_unfit_kernel_is_scanned_only_for_whoever_asks_for_it() {
        let now = Instant::now();
        let unfit = || Err(Finding::new("it breaks", "use another"));
        let schedule = Schedule::new(None, unfit(), now);
        assert_eq!((schedule.next(), schedule.obstacle().is_some()), (None, true));
        let schedule = Schedule::new(Some(Adopt::Auto), unfit(), now);
        assert_eq!(
            (schedule.next(), schedule.obstacle().is_some()),
            (Some(now), false)
        );
        assert_eq!(Schedule::new(None, Ok(()), now).next(), Some(now));
    }

    #[test]
    fn namespaces_that_cannot_be_entered_are_told_of_once() {
        let now = Instant::now();
        let mut schedule = scheduled(Adopt::Auto, now);
        schedule.scanned(&NOTHING, now);
        assert_eq!(schedule.note(), None);
        let shut = Scan { shut: 2, ..NOTHING };
        schedule.scanned(&shut, now);
        assert!(schedule.note().is_some_and(|note| note.contains(" 2 ")));
        schedule.scanned(&shut, now);
        assert_eq!((schedule.note(), schedule.adoption().shut_namespaces), (None, 2));
    }

    #[test]
    fn whoever_asks_is_told_after_two_scans() {
        let now = Instant::now();
        let mut schedule = scheduled(Adopt::Off, now);
        let (reply, answer) = mpsc::sync_channel(1);
        schedule.ask(reply, now);
        let adopts = Scan {
            adopted: 3,
            ..NOTHING
        };
        assert_eq!(intervals(&mut schedule, &adopts, 100), [FIRST]);
        let Ok(Answer::Adopted(told)) = answer.try_recv().unwrap() else {
            panic!("it was told something else");
        };
        assert_eq!((told.scans, told.adopted), (2, 6));
        assert_eq!(schedule.next(), None);
    }
}
