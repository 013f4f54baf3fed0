//! Owns the clients: how each load generator is run, and what it says of rate and latency.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use super::Way;
use crate::common::Traffic;
use crate::servers::{self, MEMCACHED, POSTGRES_PORT, POSTGRES_USER};
use crate::stage::Stage;

pub const REDIS_PORT: &str = "6379";
const HOST: &str = "127.0.0.1";

/// What one run of a client came to.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    pub requests: f64,
    /// Requests per second
    pub rate: f64,
    pub p99_us: f64,
    /// CPU time of client and server for a request, which the client does not know: microseconds, or seconds for a million
    pub cpu_us: f64,
}

impl Sample {
    fn new(requests: f64, rate: f64, p99_us: f64) -> Self {
        Self {
            requests,
            rate,
            p99_us,
            cpu_us: f64::NAN,
        }
    }
}

fn number(text: &str) -> f64 {
    let text = text.trim_matches(|letter: char| letter == '"' || letter.is_whitespace());
    text.parse()
        .unwrap_or_else(|error| panic!("{text} is not a number: {error}"))
}

fn whole_seconds(milliseconds: u32) -> String {
    milliseconds.div_ceil(1000).to_string()
}

/// redis-benchmark ends after a number of requests: first few of them, for the number that takes the time.
pub fn redis(stage: &Stage, way: Way, milliseconds: u32, arguments: &str) -> Sample {
    const FEW: u64 = 2000;
    let run = |requests: u64| {
        let mut command = stage.command("redis-benchmark");
        match way {
            Way::Tcp => command.args(["-h", HOST, "-p", REDIS_PORT]),
            Way::Unix => command.arg("-s").arg(servers::redis_socket(stage, REDIS_PORT)),
        };
        command
            .args(["--csv", "-e", "-n", &requests.to_string()])
            .args(arguments.split(' '));
        let lines = stage.run(command);
        // A line of names, and one of test, rate, and the latencies: mean, least, p50, p95, p99, most.
        let result = lines.last().cloned().unwrap_or_default();
        let columns: Vec<_> = result.split(',').collect();
        let &[_, rate, _, _, _, _, p99, _] = columns.as_slice() else {
            panic!("redis-benchmark: {}", lines.join("\n"));
        };
        Sample::new(requests as f64, number(rate), number(p99) * 1e3)
    };
    let few = run(FEW);
    let requests = few.rate * f64::from(milliseconds) / 1e3;
    let mut sample = run(requests.max(FEW as f64) as u64);
    // The CPU time is that of both.
    sample.requests += few.requests;
    sample
}

fn postgres(stage: &Stage, way: Way, program: &str) -> Command {
    let mut command = stage.command(program);
    match way {
        Way::Tcp => command.args(["-h", HOST]),
        Way::Unix => command.arg("-h").arg(servers::postgres_sockets(stage)),
    };
    command
        .args(["-p", POSTGRES_PORT, "-U", POSTGRES_USER])
        .env("PGDATABASE", POSTGRES_USER);
    command
}

pub fn fill_postgres(stage: &mut Stage) {
    let mut command = postgres(stage, Way::Unix, "pgbench");
    command.args(["--initialize", "--quiet", "--scale", "1"]);
    stage.run(command);
}

pub fn pgbench(stage: &Stage, way: Way, milliseconds: u32, clients: u32) -> Sample {
    let log = stage.path("pgbench-log");
    fs::create_dir(&log).expect("failed to make a folder for the log of pgbench");
    let mut command = postgres(stage, way, "pgbench");
    command.args([
        "--no-vacuum",
        "--select-only",
        "--time",
        &whole_seconds(milliseconds),
    ]);
    command.args(["--client", &clients.to_string(), "--log"]);
    command.arg(format!("--log-prefix={}", log.join("log").display()));
    let lines = stage.run(command);
    let value = |prefix: &str| {
        let rest = lines.iter().find_map(|line| line.strip_prefix(prefix));
        let word = rest.and_then(|rest| rest.split_whitespace().next());
        number(word.unwrap_or_else(|| panic!("pgbench: {}", lines.join("\n"))))
    };
    let requests = value("number of transactions actually processed: ");
    let sample = Sample::new(requests, value("tps = "), p99_of(&log));
    fs::remove_dir_all(&log).expect("failed to remove the log of pgbench");
    sample
}

/// Of the third column of pgbench's logs: microseconds.
fn p99_of(folder: &Path) -> f64 {
    let mut times = Vec::new();
    for entry in fs::read_dir(folder).expect("failed to read the log of pgbench") {
        let path = entry.expect("failed to read the log of pgbench").path();
        let text = fs::read_to_string(path).expect("failed to read the log of pgbench");
        times.extend(text.lines().filter_map(|line| line.split(' ').nth(2)).map(number));
    }
    times.sort_by(f64::total_cmp);
    times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN)
}

pub fn wrk(stage: &Stage, milliseconds: u32, server: &str, size: usize, connections: u32) -> Sample {
    let mut command = stage.command("wrk");
    command.args([
        "--threads",
        "1",
        "--connections",
        &connections.to_string(),
        "--latency",
    ]);
    command.args([
        "--duration",
        &format!("{}s", whole_seconds(milliseconds)),
        "--timeout",
        "10s",
    ]);
    command.arg(format!("http://{server}/{size}"));
    let lines = stage.run(command);
    let line = |sign: &str| {
        lines
            .iter()
            .map(|line| line.trim())
            .find(|line| line.contains(sign))
    };
    assert!(
        line("Socket errors").is_none() && line("Non-2xx").is_none(),
        "{server}/{size}: {}",
        lines.join("\n")
    );
    let word = |sign: &str, at: usize| {
        let word = line(sign).and_then(|line| line.split_whitespace().nth(at));
        word.unwrap_or_else(|| panic!("wrk: {}", lines.join("\n")))
            .to_owned()
    };
    let requests = number(&word(" requests in ", 0));
    Sample::new(
        requests,
        number(&word("Requests/sec:", 1)),
        microseconds(&word("99%", 1)),
    )
}

/// A time as wrk prints it, with its unit.
fn microseconds(time: &str) -> f64 {
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6)] {
        if let Some(value) = time.strip_suffix(unit) {
            return number(value) * factor;
        }
    }
    panic!("{time} has no unit of time");
}

pub fn memcached(stage: &Stage, way: Way, milliseconds: u32, connections: u32) -> Sample {
    let socket = servers::memcached_socket(stage);
    let server = match way {
        Way::Tcp => MEMCACHED,
        Way::Unix => socket.to_str().expect("a path of letters"),
    };
    let arguments = ["get", server, "--connections", &connections.to_string()];
    let mut command = stage.arena().command(Traffic::program());
    command
        .args(arguments)
        .args(["--milliseconds", &milliseconds.to_string()]);
    let lines = stage.run(command);
    let value = |name: &str| {
        let value = lines
            .iter()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        number(value.unwrap_or_else(|| panic!("no {name}: {}", lines.join("\n"))))
    };
    let requests = value("requests");
    Sample::new(
        requests,
        requests / value("microseconds") * 1e6,
        value("p99_nanoseconds") / 1e3,
    )
}
