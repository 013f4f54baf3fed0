//! Made-up samples for the tests of `top`.

use std::time::{Duration, Instant};

use super::rates::{Sample, View};
use crate::model::counters::Counters;
use crate::model::document::*;
use crate::model::samples::{end, instance};

const COUNTERS: [&str; 10] = [
    "ends_inserted",
    "refused_blocking",
    "refused_not_local",
    "tcp_only_pattern",
    "drain_one_way",
    "drain_done",
    "messages_redirected",
    "bytes_redirected",
    "bytes_tcp",
    "messages_observed",
];

fn counters(values: [u64; 10]) -> Counters {
    Counters::new(&COUNTERS.map(str::to_owned), values.to_vec())
}

fn status(values: [u64; 10]) -> Status {
    Status {
        format: FORMAT,
        instance: instance(),
        flows: FlowsByState::default(),
        maps: Maps::default(),
        adoption: Adoption::default(),
        queues: Queues {
            bytes: 1_230_000,
            ends: 3,
        },
        counters: counters(values),
        since_last: None,
    }
}

/// A flow with this many bytes redirected and through TCP, all from the client, in messages of 100 bytes.
pub fn flow(port: u16, redirected: u64, tcp: u64) -> Flow {
    let amount = |bytes| Amount {
        bytes,
        messages: bytes / 100,
    };
    Flow {
        state: FlowState::Admitted,
        reason: "admitted_request_response".to_owned(),
        client: end(port, "client", 1234),
        server: end(6379, "redis-server", 4321),
        to_server: Direction {
            redirected: amount(redirected),
            tcp: amount(tcp),
            tcp_bytes_ever: tcp,
            ..Direction::default()
        },
        to_client: Direction::default(),
        age_seconds: Some(100.0),
    }
}

/// A flow that is not followed: only its TCP traffic is known.
pub fn unfollowed(port: u16, tcp: u64) -> Flow {
    let mut flow = Flow {
        state: FlowState::TcpOnly,
        reason: "refused_blocking".to_owned(),
        age_seconds: None,
        ..flow(port, 0, tcp)
    };
    flow.to_server.tcp = Amount::default();
    flow
}

pub fn sample(at: Instant, values: [u64; 10], flows: Vec<Flow>) -> Sample {
    Sample {
        at,
        status: status(values),
        flows: Flows {
            format: FORMAT,
            cgroups: vec!["/sys/fs/cgroup/demo.slice".into()],
            scope: "loopback".to_owned(),
            flows,
            listeners: Vec::new(),
        },
    }
}

/// The view of the second of two samples taken two seconds apart.
pub fn view(before: Vec<Flow>, after: Vec<Flow>) -> View {
    let begin = Instant::now();
    let first = View::of(
        sample(begin, [2, 5, 0, 1, 0, 0, 100, 10_000, 1_000, 10], before),
        None,
    );
    let second = sample(
        begin + Duration::from_secs(2),
        [2, 7, 0, 1, 1, 3, 300, 30_000, 1_500, 30],
        after,
    );
    View::of(second, Some(&first))
}

pub fn many(count: u16) -> View {
    let flows = |bytes: u64| {
        (0..count)
            .map(|port| flow(port, u64::from(port) * bytes, 0))
            .collect()
    };
    view(flows(0), flows(1_000))
}
