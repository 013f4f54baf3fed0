//! Where others reach an instance: the socket for questions and the metrics. It can be closed and opened again.

use std::net::SocketAddr;
use std::sync::mpsc::Sender;

use anyhow::Result;

use super::control::{self, Control};
use super::metrics::{Listener, Server};
use super::request::Request;
use crate::datapath::cgroup::Cgroups;

/// Answers until it is dropped.
pub struct Endpoints {
    _control: Option<Control>,
    _metrics: Option<Server>,
}

impl Endpoints {
    /// For the instance on these cgroups, which must have locked them. The second is what keeps others from asking, with which it
    /// can work.
    pub fn open(
        cgroups: &Cgroups,
        metrics: Option<Listener>,
        main_loop: &Sender<Request>,
    ) -> Result<(Self, Option<anyhow::Error>)> {
        let samples = main_loop.clone();
        let metrics = metrics
            .map(|listener| listener.serve(move || control::sample_of(&samples)))
            .transpose()?;
        let (control, failed) = match Control::open(cgroups, main_loop.clone()) {
            Ok(control) => (Some(control), None),
            Err(error) => (None, Some(error)),
        };
        let endpoints = Self {
            _control: control,
            _metrics: metrics,
        };
        Ok((endpoints, failed))
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
