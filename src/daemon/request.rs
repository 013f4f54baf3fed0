//! Requests to the main loop: signals, questions and handovers.

use std::sync::mpsc::SyncSender;

use anyhow::Result;

use super::handover::Offer;
use crate::model::document::{Adopted, Flows, Status};
use crate::model::protocol::Question;

#[derive(Debug)]
pub enum Answer {
    Status(Box<Status>),
    Flows(Flows),
    Adopted(Adopted),
}

/// A question, and where to send the answer.
#[derive(Debug)]
pub struct Asked {
    pub question: Question,
    pub reply: SyncSender<Result<Answer>>,
}

/// What the main loop waits for.
#[derive(Debug)]
pub enum Request {
    /// SIGINT, SIGTERM or SIGHUP.
    Stop,
    Asked(Asked),
    /// A process asks to take over.
    Replace {
        by: u32,
        reply: SyncSender<Result<Offer>>,
    },
    /// The new process is ready, or it has failed. `told` is dropped when it may go on.
    Replaced {
        by: u32,
        is_ready: bool,
        told: SyncSender<Result<()>>,
    },
}
