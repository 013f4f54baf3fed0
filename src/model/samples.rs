//! Building blocks of made-up answers, for the tests.

use std::net::Ipv4Addr;

use super::document::{End, Instance, Process};

pub fn instance() -> Instance {
    Instance {
        version: "1.2.3".to_owned(),
        pid: 4711,
        cgroups: vec!["/sys/fs/cgroup/demo.slice".into()],
        started_at: 1_700_000_000,
        uptime_seconds: 61.5,
        kernel: "6.18.44".to_owned(),
        stopping: false,
        admit: "nonblocking".to_owned(),
        scope: "loopback".to_owned(),
        same_user: false,
        same_cgroup: false,
        ports: "all".to_owned(),
        exclude_ports: "22".to_owned(),
        exclude_programs: vec!["docker-proxy".to_owned()],
    }
}

/// An end of an event loop on loopback, in the first network namespace.
pub fn end(port: u16, name: &str, pid: u32) -> End {
    End {
        address: Ipv4Addr::LOCALHOST.into(),
        port,
        netns: Some(1),
        processes: vec![Process {
            pid,
            uid: 0,
            name: name.to_owned(),
        }],
        blocking: Some(false),
    }
}
