//! Answers questions about the instance, where the datapath is at hand.

use std::str::FromStr;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};

use super::model::{Adopted, FORMAT, Flows, Instance, Since, Status};
use super::pair::pair;
use crate::adopt::Schedule;
use crate::counters::Counters;
use crate::handover::Offer;
use crate::kernel::Datapath;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Question {
    /// The status, and count anew for its rates.
    Status,
    /// The status, without a trace.
    Sample,
    Flows,
    /// Have established connections adopted, which is for whoever started the instance.
    Adopt,
}

#[derive(Debug)]
pub enum Answer {
    Status(Box<Status>),
    Flows(Flows),
    Adopted(Adopted),
}

/// A question, and where its answer goes.
#[derive(Debug)]
pub struct Asked {
    pub question: Question,
    pub reply: SyncSender<Result<Answer>>,
}

/// What an instance waits for.
#[derive(Debug)]
pub enum Event {
    /// SIGINT, SIGTERM or SIGHUP.
    Stop,
    Asked(Asked),
    /// A process asks to take over.
    Replace {
        by: u32,
        reply: SyncSender<Result<Offer>>,
    },
    /// The process that was to take over is ready, or it has failed. `told` is dropped when it may go on.
    Replaced {
        by: u32,
        is_ready: bool,
        told: SyncSender<Result<()>>,
    },
}

pub struct Desk {
    pub schedule: Schedule,
    instance: Instance,
    started: Instant,
    last: Option<(Instant, Counters)>,
}

impl Question {
    const ALL: [Self; 4] = [Self::Status, Self::Sample, Self::Flows, Self::Adopt];

    pub fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Sample => "sample",
            Self::Flows => "flows",
            Self::Adopt => "adopt",
        }
    }

    /// Whether it changes what the instance does.
    pub fn is_order(self) -> bool {
        self == Self::Adopt
    }
}

impl FromStr for Question {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|question| question.word() == word) {
            Some(question) => Ok(question),
            None => bail!("no such question: {word}"),
        }
    }
}

impl Desk {
    /// For an instance that has just started.
    pub fn new(instance: Instance, schedule: Schedule) -> Self {
        Self {
            schedule,
            instance,
            started: Instant::now(),
            last: None,
        }
    }

    pub fn stopping(&mut self) {
        self.instance.stopping = true;
        self.schedule.stop();
    }

    pub fn answer(&mut self, datapath: &Datapath<'_>, asked: Asked) {
        let answer = match asked.question {
            Question::Adopt if self.instance.stopping => Err(anyhow!("the instance is ending")),
            Question::Adopt => match self.schedule.obstacle() {
                Some(obstacle) => Ok(Answer::Adopted(Adopted {
                    format: FORMAT,
                    obstacle: Some(obstacle.to_string()),
                    ..Adopted::default()
                })),
                // Answered when it is done.
                None => return self.schedule.ask(asked.reply, Instant::now()),
            },
            Question::Flows => self.flows(datapath).map(Answer::Flows),
            Question::Sample => self
                .status(datapath)
                .map(|status| Answer::Status(Box::new(status))),
            Question::Status => self.status(datapath).map(|status| {
                self.last = Some((Instant::now(), status.counters.clone()));
                Answer::Status(Box::new(status))
            }),
        };
        // An asker that has gone wants no answer.
        drop(asked.reply.send(answer));
    }

    fn status(&self, datapath: &Datapath<'_>) -> Result<Status> {
        let ends = datapath.ends()?;
        let counters = datapath.counters()?;
        let since_last = self.last.as_ref().map(|(then, earlier)| Since {
            seconds: then.elapsed().as_secs_f64(),
            counters: counters.since(earlier),
        });
        Ok(Status {
            format: FORMAT,
            instance: Instance {
                uptime_seconds: self.started.elapsed().as_secs_f64(),
                ..self.instance.clone()
            },
            flows: ends.flows,
            maps: datapath.maps(&ends),
            queues: ends.queues,
            adoption: self.schedule.adoption(),
            counters,
            since_last,
        })
    }

    fn flows(&self, datapath: &Datapath<'_>) -> Result<Flows> {
        let (flows, listeners) = pair(datapath.sockets()?);
        Ok(Flows {
            format: FORMAT,
            cgroups: self.instance.cgroups.clone(),
            scope: self.instance.scope.clone(),
            flows,
            listeners,
        })
    }
}
