//! Which ends trust each other: those of one user, or in one cgroup.

use std::path::Path;

use crate::common::{Arena, ToolReport, Traffic};
use crate::stage::{dial, tool};

/// Echoes between a given user's server in a given cgroup and root's client in the arena's.
fn between(option: &str, user: &str, cgroup: impl Fn(&Arena) -> Box<Path>) -> ToolReport {
    let arena = Arena::new();
    let tool = tool(&arena, &[option]);
    let command = arena.command_in(&cgroup(&arena), Traffic::program());
    let mut server = Traffic::start(command, &["serve", "--user", user]);
    let address = server.wait_for_line("address=", 1).replace("address=", "");
    dial(&arena, arena.network(), &address, &["--count", "100"]);
    tool.end()
}

fn assert_admitted(report: &ToolReport) {
    report.assert_above("messages_redirected", 150);
}

fn assert_refused(report: &ToolReport, reason: &str) {
    assert_eq!(report.counter(reason), 1, "{}", report.transcript);
    assert_eq!(report.counter("ends_left"), 2, "{}", report.transcript);
    assert_eq!(report.counter("bytes_redirected"), 0, "{}", report.transcript);
}

#[test]
fn programs_of_two_users_are_kept_apart_on_demand() {
    let own = |arena: &Arena| arena.cgroup().into();
    assert_refused(&between("--same-user", "65534", own), "tcp_only_user");
    assert_admitted(&between("--same-user", "0", own));
    assert_admitted(&between("--same-cgroup", "65534", own));
}

#[test]
fn programs_of_two_cgroups_are_kept_apart_on_demand() {
    let other = |arena: &Arena| arena.subcgroup("other").into();
    assert_refused(&between("--same-cgroup", "0", other), "tcp_only_cgroup");
    assert_admitted(&between("--same-user", "0", other));
}
