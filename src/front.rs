//! Where others reach an instance: the socket for questions and the metrics. It can be closed and opened again.

use std::net::SocketAddr;
use std::sync::mpsc::Sender;

use anyhow::Result;

use crate::cgroup::Cgroups;
use crate::observe::control::{self, Control};
use crate::observe::desk::Event;
use crate::observe::metrics::{Listener, Server};

/// Answers until it is dropped.
pub struct Front {
    _control: Option<Control>,
    _metrics: Option<Server>,
}

impl Front {
    /// For the instance on these cgroups, which must have locked them. The second is what keeps others from asking, with which it
    /// can work.
    pub fn open(
        cgroups: &Cgroups,
        metrics: Option<Listener>,
        desk: &Sender<Event>,
    ) -> Result<(Self, Option<anyhow::Error>)> {
        let samples = desk.clone();
        let metrics = metrics
            .map(|listener| listener.serve(move || control::sample_of(&samples)))
            .transpose()?;
        let (control, failed) = match Control::open(cgroups, desk.clone()) {
            Ok(control) => (Some(control), None),
            Err(error) => (None, Some(error)),
        };
        let front = Self {
            _control: control,
            _metrics: metrics,
        };
        Ok((front, failed))
    }
}

/// Listens for the metrics, and says where.
pub fn listen(metrics: Option<SocketAddr>) -> Result<Option<(Listener, SocketAddr)>> {
    metrics
        .map(|address| {
            let listener = Listener::bind(address)?;
            let address = listener.address()?;
            Ok((listener, address))
        })
        .transpose()
}
