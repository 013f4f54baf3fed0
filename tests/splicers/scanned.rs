//! The programs while the tool scans for connections to adopt: nothing is known yet about the programs that a scan finds.

use crate::case::{Case, First, assert_right};
use crate::fresh::{EDGE, HTTP, LEVEL, ORDERS};
use crate::programs::Splicer;

#[track_caller]
fn both(case: impl Fn(First) -> Case) {
    assert_right(&ORDERS.map(case), Case::compare_with_scans);
}

/// A scan that only looked at sockets would adopt them between two splices.
#[test]
fn io_copy_of_go_answers_while_scans_look_at_it() {
    both(|first| Case::new(Splicer::Go, first));
}

#[test]
fn a_level_triggered_splicer_answers_while_scans_look_at_it() {
    both(|first| Case::new(LEVEL, first));
}

#[test]
fn an_edge_triggered_splicer_answers_while_scans_look_at_it() {
    both(|first| Case::new(EDGE, first));
}

#[test]
fn haproxy_that_splices_answers_while_scans_look_at_it() {
    assert_right(&[Case::new(HTTP, First::Client).http()], Case::compare_with_scans);
}

/// Its connections may be adopted while it receives, and break once it splices.
#[test]
fn who_splices_late_is_answered_or_reset_while_scans_look_at_it() {
    both(|first| Case::new(Splicer::Relay("late"), first).late());
}

/// The control.
#[test]
fn who_only_receives_is_answered_while_scans_look_at_it() {
    both(|first| Case::new(Splicer::Relay("recv"), first));
}
