//! Answers questions about the instance, given its datapath.

use std::time::Instant;

use anyhow::{Result, anyhow};

use super::adoption::Schedule;
use super::pair::pair;
use super::request::{Answer, Asked};
use crate::datapath::Datapath;
use crate::model::counters::Counters;
use crate::model::document::{Adopted, FORMAT, Flows, Instance, Since, Status};
use crate::model::protocol::Question;

pub struct Reporter {
    instance: Instance,
    started: Instant,
    last: Option<(Instant, Counters)>,
}

impl Reporter {
    /// For an instance that has just started.
    pub fn new(instance: Instance) -> Self {
        Self {
            instance,
            started: Instant::now(),
            last: None,
        }
    }

    pub fn stopping(&mut self) {
        self.instance.stopping = true;
    }

    pub fn answer(&mut self, datapath: &Datapath<'_>, schedule: &mut Schedule, asked: Asked) {
        let answer = match asked.question {
            Question::Adopt if self.instance.stopping => Err(anyhow!("the instance is ending")),
            Question::Adopt => match schedule.obstacle() {
                Some(obstacle) => Ok(Answer::Adopted(Adopted {
                    format: FORMAT,
                    obstacle: Some(obstacle.to_string()),
                    ..Adopted::default()
                })),
                // Answered once the scans are done.
                None => return schedule.ask(asked.reply, Instant::now()),
            },
            Question::Flows => self.flows(datapath).map(Answer::Flows),
            Question::Sample => self
                .status(datapath, schedule)
                .map(|status| Answer::Status(Box::new(status))),
            Question::Status => self.status(datapath, schedule).map(|status| {
                self.last = Some((Instant::now(), status.counters.clone()));
                Answer::Status(Box::new(status))
            }),
        };
        // An asker that has gone needs no answer.
        drop(asked.reply.send(answer));
    }

    fn status(&self, datapath: &Datapath<'_>, schedule: &Schedule) -> Result<Status> {
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
            adoption: schedule.adoption(),
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
