//! Redis: pipelines, large values, publish/subscribe, and a replica.

use std::thread;
use std::time::{Duration, Instant};

use crate::compare::compare;
use crate::servers::{self, HOSTS};
use crate::stage::Stage;

const MAIN: &str = "6379";
const REPLICA: &str = "6380";
const SYNCED: Duration = Duration::from_secs(60);

pub fn cli(stage: &Stage, port: &str, arguments: &[&str]) -> Vec<String> {
    let mut command = stage.command("redis-cli");
    command.args(["-e", "-p", port]).args(arguments);
    stage.run(command)
}

/// Runs redis-benchmark and collects its rates; an error response is a failure.
fn benchmark(stage: &mut Stage, host: &str, arguments: &str) {
    let mut command = stage.command("redis-benchmark");
    command
        .args(["-h", host, "-p", MAIN, "--csv", "-e"])
        .args(arguments.split(' '));
    let lines = stage.run(command);
    let failed = lines.iter().any(|line| line.to_lowercase().contains("error"));
    assert!(!failed, "redis-benchmark {arguments}: {}", lines.join("\n"));
    for result in lines.iter().filter(|line| !line.starts_with("\"test\"")) {
        let mut columns = result.split(',').map(|column| column.trim_matches('"'));
        let test = columns.next().unwrap_or_default();
        let rate = columns.next().unwrap_or_default();
        stage.rate(&format!("{test} per second ({host} {arguments})"), rate);
        stage.answer(arguments, test);
    }
}

fn client(stage: &mut Stage, host: &str, what: &str) {
    let mut command = stage.script("python3", "redis_client.py");
    command.args([what, host, MAIN]);
    stage.run_script(what, command);
}

#[test]
fn redis_answers_pipelines_and_large_values() {
    let totals = compare("Redis", |stage| {
        servers::redis(stage, MAIN);
        stage.accelerate();
        for host in HOSTS {
            benchmark(stage, host, "-t set,get,lrange_100 -n 30000");
            benchmark(stage, host, "-t set,get -n 300000 -P 16");
            benchmark(stage, host, "-t set,get -n 1000 -d 1000000 -c 20");
            client(stage, host, "values");
        }
    });
    totals.assert_admitted();
}

#[test]
fn redis_publishes_to_each_subscriber_in_order() {
    let totals = compare("Redis pub/sub", |stage| {
        servers::redis(stage, MAIN);
        stage.accelerate();
        for host in HOSTS {
            client(stage, host, "channels");
        }
    });
    totals.assert_admitted();
}

/// The replica's offset in the main server's history; `None` while it has no link.
fn offset(stage: &Stage, port: &str, name: &str) -> Option<u64> {
    let state = cli(stage, port, &["info", "replication"]);
    let is_linked = port == MAIN || state.iter().any(|line| line == "master_link_status:up");
    let offset = state
        .iter()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.parse().ok());
    offset.filter(|_| is_linked)
}

/// Waits until the replica has caught up with the main server, and compares both.
fn assert_follows(stage: &mut Stage, when: &str) {
    let deadline = Instant::now() + SYNCED;
    while offset(stage, MAIN, "master_repl_offset") != offset(stage, REPLICA, "slave_repl_offset") {
        assert!(
            Instant::now() < deadline,
            "the replica does not follow {when}: {:?}",
            cli(stage, REPLICA, &["info", "replication"])
        );
        thread::sleep(Duration::from_millis(20));
    }
    let [main, replica] = [MAIN, REPLICA].map(|port| cli(stage, port, &["debug", "digest"]));
    assert_eq!(main, replica, "the replica differs {when}");
    stage.answer(when, main.concat());
}

#[test]
fn a_redis_replica_syncs_and_follows() {
    let totals = compare("Redis replica", |stage| {
        servers::redis(stage, MAIN);
        servers::redis(stage, REPLICA);
        cli(stage, MAIN, &["debug", "populate", "5000", "key", "10000"]);
        stage.accelerate();
        cli(stage, REPLICA, &["replicaof", "127.0.0.1", MAIN]);
        assert_follows(stage, "after the first sync");
        benchmark(stage, "127.0.0.1", "-t set,incr -n 200000 -P 16");
        benchmark(stage, "127.0.0.1", "-t set -n 200 -d 1000000 -c 20");
        client(stage, "127.0.0.1", "values");
        assert_follows(stage, "after writes");
        cli(stage, MAIN, &["client", "kill", "type", "replica"]);
        client(stage, "127.0.0.1", "values");
        assert_follows(stage, "after its link was cut");
    });
    totals.assert_admitted();
}
