//! The public endpoints of an instance: the control socket and the metrics. They can be closed and reopened.

use std::net::SocketAddr;
use std::sync::mpsc::Sender;

use anyhow::Result;

use super::control::{self, Control};
use super::metrics::{Listener, Server};
use super::request::Request;
use crate::datapath::cgroup::Cgroups;

/// Answers until dropped.
pub struct Endpoints {
    _control: Option<Control>,
    _metrics: Option<Server>,
}

impl Endpoints {
    /// For the instance on these cgroups, which must be locked. The second value tells why there is no control socket, which
    /// is not fatal.
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

/// Starts listening for the metrics and returns the address.
pub fn listen(metrics: Option<SocketAddr>) -> Result<Option<(Listener, SocketAddr)>> {
    metrics
        .map(|address| {
            let listener = Listener::bind(address)?;
            let address = listener.address()?;
            Ok((listener, address))
        })
        .transpose()
}
