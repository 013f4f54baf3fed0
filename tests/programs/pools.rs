//! Connection pools opened before the tool started: they are adopted, and work as before.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Process, json};
use crate::postgres::{client, make_tables};
use crate::redis::cli;
use crate::servers;
use crate::stage::Stage;

const REDIS: u64 = 200;
const REDIS_PORT: &str = "6379";
const POSTGRES: u64 = 16;
const CONNECTED: Duration = Duration::from_secs(60);
const ADOPTED: Duration = Duration::from_secs(30);
/// Adopted and new connections alternate.
const ROUNDS: usize = 5;
const MEASURED: Duration = Duration::from_secs(1);
const SETTLED: Duration = Duration::from_millis(500);
const END: Duration = Duration::from_secs(120);

fn counter(stage: &Stage, name: &str) -> u64 {
    let status = json(stage.arena(), &["status"]);
    status["counters"][name].as_u64().expect("a counter")
}

/// The established TCP sockets in the stage's namespace with this port, both ends of each connection.
fn established(stage: &Stage, port: u16) -> usize {
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    let text = stage
        .arena()
        .in_namespace(|| tables.map(|table| std::fs::read_to_string(table).unwrap_or_default()));
    let suffix = format!(":{port:04X}");
    let is_one = |line: &&str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        columns.get(1..4).is_some_and(|columns| {
            columns[2] == "01" && columns[..2].iter().any(|end| end.ends_with(&suffix))
        })
    };
    text.concat().lines().filter(is_one).count()
}

fn wait_for(what: &str, within: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn pools_of_redis_and_postgres_that_are_older_than_the_tool_are_adopted() {
    let mut stage = Stage::new(true);
    servers::redis(&mut stage, REDIS_PORT);
    servers::postgres(&mut stage);
    make_tables(&stage);

    let mut redis = redis_pool(&stage);
    let mut postgres = client(&stage, "pgbench", "127.0.0.1");
    postgres.args(["--no-vacuum", "--select-only", "--time", "40", "--client"]);
    let mut postgres = Process::start(with_clients(postgres, POSTGRES));
    wait_for("the pools", CONNECTED, || {
        established(&stage, 6379) as u64 >= 2 * REDIS && established(&stage, 5432) as u64 >= 2 * POSTGRES
    });

    // How programs become known is tested elsewhere.
    stage.accelerate_with(&["--trust-programs", "all"]);
    let begin = Instant::now();
    wait_for("adoption", ADOPTED, || {
        counter(&stage, "admitted_request_response") >= REDIS + POSTGRES
    });
    println!(
        "{} connections accelerated after {:?}",
        REDIS + POSTGRES,
        begin.elapsed()
    );
    let (carried, redirected) = (
        stage.arena().loopback_bytes(),
        counter(&stage, "bytes_redirected"),
    );
    thread::sleep(Duration::from_secs(1));
    let carried = stage.arena().loopback_bytes() - carried;
    let redirected = counter(&stage, "bytes_redirected") - redirected;
    println!("redirected {redirected} bytes while loopback carried {carried}");
    assert!(
        carried < redirected / 10,
        "loopback carried {carried} of {redirected} bytes"
    );

    let status = postgres.wait(END);
    assert!(status.success(), "{}", postgres.transcript());
    let failed = postgres
        .stdout()
        .iter()
        .any(|line| line == "number of failed transactions: 0 (0.000%)");
    assert!(failed, "{}", postgres.transcript());
    let (mut adopted, mut new) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        adopted.push(rate(&stage));
        redis.signal(libc::SIGSTOP);
        let mut later = redis_pool(&stage);
        wait_for("the later pool", CONNECTED, || {
            established(&stage, 6379) as u64 >= 4 * REDIS
        });
        thread::sleep(SETTLED);
        new.push(rate(&stage));
        later.kill();
        redis.signal(libc::SIGCONT);
        thread::sleep(SETTLED);
    }
    let (adopted, new) = (median(adopted), median(new));
    println!(
        "figure: GET over {REDIS} connections: adopted {adopted:.0} per second, new {new:.0}, ratio {:.2}",
        adopted / new
    );
    // It exits by itself on an error response.
    assert!(redis.is_running(), "{}", redis.transcript());
    redis.kill();
    let totals = stage.end().expect("the tool ran");
    assert!(
        totals.counter("adopted") >= REDIS + POSTGRES,
        "{}",
        totals.transcript
    );
}

fn redis_pool(stage: &Stage) -> Process {
    let mut command = stage.command("redis-benchmark");
    command.args(["-p", REDIS_PORT, "-t", "get", "-n", "100000000", "-c"]);
    Process::start(with_clients(command, REDIS))
}

/// Redis commands per second over some time.
fn rate(stage: &Stage) -> f64 {
    let answered = || {
        let lines = cli(stage, REDIS_PORT, &["info", "stats"]);
        let mut values = lines
            .iter()
            .filter_map(|line| line.trim().strip_prefix("total_commands_processed:"));
        let value: f64 = values.next().expect("a total").parse().expect("a number");
        (Instant::now(), value)
    };
    let (begin, before) = answered();
    thread::sleep(MEASURED);
    let (end, after) = answered();
    (after - before) / (end - begin).as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Appends the number of connections, which is the last argument.
fn with_clients(mut command: Command, connections: u64) -> Command {
    command.arg(connections.to_string());
    command
}
