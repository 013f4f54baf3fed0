//! Each program from a fresh start of the tool, which knows no programs yet: if a socket entered the map before its program was
//! known to use recv, the first connections would hang.

use crate::case::{Case, First, assert_right};
use crate::programs::Splicer;

pub const HTTP: Splicer = Splicer::HaProxy {
    mode: "http",
    options: &["splice-request", "splice-response"],
};
pub const TCP: Splicer = Splicer::HaProxy {
    mode: "tcp",
    options: &["splice-request", "splice-response"],
};
pub const TCP_AUTO: Splicer = Splicer::HaProxy {
    mode: "tcp",
    options: &["splice-auto"],
};

pub const LEVEL: Splicer = Splicer::Relay("level");
pub const EDGE: Splicer = Splicer::Relay("edge");

pub const ORDERS: [First; 2] = [First::Client, First::Server];

#[track_caller]
fn both(case: impl Fn(First) -> Case) {
    assert_right(&ORDERS.map(case), Case::compare);
}

/// io.Copy splices before or after its peer has sent, edge-triggered.
#[test]
fn io_copy_of_go_answers_from_the_first_connection_on() {
    both(|first| Case::new(Splicer::Go, first));
}

/// Its splice is repeated for as long as there is data.
#[test]
fn a_level_triggered_splicer_answers_from_the_first_connection_on() {
    both(|first| Case::new(LEVEL, first));
}

/// A splice that found nothing is only repeated at the next edge.
#[test]
fn an_edge_triggered_splicer_answers_from_the_first_connection_on() {
    both(|first| Case::new(EDGE, first));
}

/// The first splice finds nothing, but must be noticed all the same.
#[test]
fn who_splices_before_the_first_bytes_is_answered() {
    both(|first| Case::new(Splicer::Relay("before"), first).paused());
}

/// No part of the first message may be out of splice's reach.
#[test]
fn who_splices_after_the_first_bytes_is_answered() {
    both(|first| Case::new(Splicer::Relay("after"), first));
}

/// Up to 100 messages suggest that it uses recv. A connection may break when it then splices, but none may hang.
#[test]
fn who_splices_after_messages_by_recv_is_answered_or_reset() {
    both(|first| Case::new(Splicer::Relay("late"), first).late());
}

/// The heads are received and the bodies spliced, on connections that are kept alive.
#[test]
fn haproxy_splices_bodies_from_the_first_connection_on() {
    assert_right(&[Case::new(HTTP, First::Client).http()], Case::compare);
}

#[test]
fn haproxy_splices_tcp_from_the_first_connection_on() {
    both(|first| Case::new(TCP, first));
}

/// It receives until a stream is fast.
#[test]
fn haproxy_splices_tcp_when_it_chooses_to() {
    both(|first| Case::new(TCP_AUTO, first));
}

/// Debian's only user of splice that starts on a connection.
#[test]
fn systemd_socket_proxyd_answers_from_the_first_connection_on() {
    both(|first| Case::new(Splicer::SocketProxy, first).whole());
}

/// The control: the other results are not artefacts of the harness.
#[test]
fn who_only_receives_is_answered() {
    both(|first| Case::new(Splicer::Relay("recv"), first));
}

/// Without a tool, the programs relay as the tests expect.
#[test]
fn every_splicer_relays_on_plain_tcp() {
    const FEW: u64 = 40;
    let relays = ["recv", "level", "edge", "before", "after"].map(Splicer::Relay);
    let mut cases = vec![Case::new(HTTP, First::Client).http()];
    for first in ORDERS {
        cases.extend(relays.map(|splicer| Case::new(splicer, first)));
        cases.extend([Splicer::Go, TCP, TCP_AUTO].map(|splicer| Case::new(splicer, first)));
        cases.push(Case::new(Splicer::SocketProxy, first).whole());
        cases.push(Case::new(Splicer::Relay("late"), first).late());
    }
    assert_right(&cases, |case| case.judge_plain(&case.plain(FEW)));
}
