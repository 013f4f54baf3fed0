//! Building blocks of made-up answers, for the tests.

use std::net::Ipv4Addr;

use super::document::{End, Process};

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
