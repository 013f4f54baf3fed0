//! What is not accelerated until a program is known: its first connections, once per file.

use std::process::Command;

use crate::common::{ToolReport, json};
use crate::postgres::{client, make_tables};
use crate::servers;
use crate::stage::Stage;

const POOL: &str = "20";
const REDIS_PORT: &str = "6379";

/// An instance for one piece of work, with what earlier instances have learnt. It adopts nothing, as on a kernel without
/// scans.
fn instance(stage: &mut Stage, work: impl FnOnce(&Stage)) -> ToolReport {
    let known = stage.path("known");
    let known = known.to_str().expect("a path in UTF-8");
    stage.accelerate_with(&["--known-programs", known, "--adopt", "off"]);
    work(stage);
    stage.end().expect("the tool ran")
}

/// A pool opened all at once is accelerated completely.
#[track_caller]
fn assert_whole(totals: &ToolReport) {
    totals.assert_above("admitted_request_response", 19);
    for reason in ["refused_unknown_program", "refused_unknown_server"] {
        assert_eq!(totals.counter(reason), 0, "{}", totals.transcript);
    }
}

fn redis_pool(stage: &Stage) -> Command {
    let mut command = stage.command("redis-benchmark");
    command.args(["-p", REDIS_PORT, "-t", "get", "-n", "20000", "-c", POOL]);
    command
}

fn postgres_pool(stage: &Stage) -> Command {
    let mut command = client(stage, "pgbench", "127.0.0.1");
    command.args([
        "--no-vacuum",
        "--select-only",
        "--transactions",
        "200",
        "--client",
        POOL,
    ]);
    command
}

/// A program that has shown itself is known to the next instance, so a pool need not stay on TCP for its whole life.
#[test]
fn a_pool_that_is_opened_at_once_after_a_restart_is_accelerated() {
    let mut stage = Stage::new(true);
    servers::redis(&mut stage, REDIS_PORT);
    servers::postgres(&mut stage);
    make_tables(&stage);
    let first = instance(&mut stage, |stage| {
        // The first pool shows what the program is, the second what the server accepts.
        for _ in 0..2 {
            stage.run(redis_pool(stage));
            stage.run(postgres_pool(stage));
        }
    });
    assert!(
        first.counter("refused_unknown_program") > 0,
        "nothing was unknown: {}",
        first.transcript
    );
    assert_whole(&instance(&mut stage, |stage| drop(stage.run(redis_pool(stage)))));
    assert_whole(&instance(&mut stage, |stage| {
        drop(stage.run(postgres_pool(stage)))
    }));
}

/// A program whose files contain no splice call is known after one message, so its second connection is already accelerated.
#[test]
fn only_the_first_connection_of_a_program_that_cannot_splice_is_lost() {
    let mut stage = Stage::new(true);
    servers::redis(&mut stage, REDIS_PORT);
    stage.accelerate_with(&["--adopt", "off"]);
    let mut pool = stage.command("redis-benchmark");
    // Its files are examined in the meantime.
    pool.args(["-p", REDIS_PORT, "-t", "get", "-n", "20000", "-c", "1"]);
    stage.run(pool);
    let before = json(stage.arena(), &["status"])["counters"]["messages_redirected"].clone();
    assert_eq!(before, 0);
    stage.run(redis_pool(&stage));
    stage
        .end()
        .expect("the tool ran")
        .assert_above("admitted_request_response", 19);
}
