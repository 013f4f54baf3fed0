//! Real programs: the same clients against the same servers over plain TCP, a Unix socket and under each accelerator, in turn.

mod clients;
mod measure;

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::accelerator::Accelerator;
use crate::report::{Section, table, write};
use crate::servers::{self, BUFFERED, PROXY_TO_UNIX, STATIC};
use crate::stage::Stage;

use clients::Sample;
use measure::{Place, Series};

/// How a client reaches its server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    Tcp,
    Unix,
}

/// A server, and what its clients do.
pub struct Program {
    pub name: &'static str,
    pub start: fn(&mut Stage),
    pub rows: &'static [Row],
}

pub struct Row {
    pub name: &'static str,
    pub has_unix: bool,
    /// One measurement of about so many milliseconds.
    pub client: fn(&Stage, Way, u32) -> Sample,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "Redis",
        start: |stage| servers::redis(stage, clients::REDIS_PORT),
        rows: &[
            Row {
                name: "GET, 1 connection",
                has_unix: true,
                client: |stage, way, time| clients::redis(stage, way, time, "-t get -c 1"),
            },
            Row {
                name: "GET, 50 connections",
                has_unix: true,
                client: |stage, way, time| clients::redis(stage, way, time, "-t get -c 50"),
            },
            Row {
                name: "SET, 50 connections, 16 requests at a time",
                has_unix: true,
                client: |stage, way, time| clients::redis(stage, way, time, "-t set -c 50 -P 16"),
            },
            Row {
                name: "SET of 64 KiB, 50 connections",
                has_unix: true,
                client: |stage, way, time| clients::redis(stage, way, time, "-t set -c 50 -d 65536"),
            },
        ],
    },
    Program {
        name: "PostgreSQL",
        start: |stage| {
            servers::postgres(stage);
            clients::fill_postgres(stage);
        },
        rows: &[
            Row {
                name: "pgbench --select-only, 1 client",
                has_unix: true,
                client: |stage, way, time| clients::pgbench(stage, way, time, 1),
            },
            Row {
                name: "pgbench --select-only, 8 clients",
                has_unix: true,
                client: |stage, way, time| clients::pgbench(stage, way, time, 8),
            },
        ],
    },
    Program {
        name: "nginx",
        start: servers::nginx,
        rows: &[
            Row {
                name: "file of 1 KiB, 50 connections",
                has_unix: false,
                client: |stage, _, time| clients::wrk(stage, time, STATIC, 1 << 10, 50),
            },
            Row {
                name: "file of 1 MiB, 20 connections",
                has_unix: false,
                client: |stage, _, time| clients::wrk(stage, time, STATIC, 1 << 20, 20),
            },
            Row {
                name: "proxy to itself, file of 1 KiB, 50 connections",
                has_unix: true,
                client: |stage, way, time| {
                    let proxy = if way == Way::Unix { PROXY_TO_UNIX } else { BUFFERED };
                    clients::wrk(stage, time, proxy, 1 << 10, 50)
                },
            },
        ],
    },
    Program {
        name: "memcached",
        start: |stage| {
            servers::memcached(stage);
            servers::memcached_on_socket(stage);
        },
        rows: &[
            Row {
                name: "get of 100 B, 1 connection",
                has_unix: true,
                client: |stage, way, time| clients::memcached(stage, way, time, 1),
            },
            Row {
                name: "get of 100 B, 50 connections",
                has_unix: true,
                client: |stage, way, time| clients::memcached(stage, way, time, 50),
            },
        ],
    },
];

pub fn run(accelerators: &[Accelerator], into: &Path, rounds: u32, milliseconds: u32) -> Result<Section> {
    let mut rows = Vec::new();
    let mut raw = Vec::new();
    for program in PROGRAMS {
        let places = Place::all(program, accelerators);
        for row in program.rows {
            eprintln!("{}: {}", program.name, row.name);
            let all = measure::row(&places, row, rounds, milliseconds);
            for series in &all {
                rows.push(cells(program, row, series, &all[0]));
                raw.push(json!({
                    "program": program.name,
                    "row": row.name,
                    "way": series.way,
                    "failure": series.failure,
                    "rounds": series.samples,
                }));
            }
        }
    }
    write(&into.join("programs.json"), &serde_json::to_string_pretty(&raw)?)?;
    let header = [
        "program",
        "load",
        "way",
        "requests/s",
        "ratio",
        "p99",
        "CPU s per 10^6 requests",
    ];
    let text = format!(
        "## Real programs\n\nMedians of {rounds} rounds of {milliseconds} ms, in which all ways take turns. A ratio is to plain TCP of \
         the same round: the median, and the least and the most. CPU time is that of client and server, as their cgroup counts it. \
         A Unix socket of the proxy is that between the proxy and its server.\n\n{}",
        table(&header, &rows, false)
    );
    Ok(Section {
        name: "programs",
        text,
    })
}

fn cells(program: &Program, row: &Row, series: &Series, plain: &Series) -> Vec<String> {
    let head = [program.name, row.name, series.way].map(str::to_owned);
    let figures = match &series.failure {
        Some(failure) => [
            "–".to_owned(),
            format!("**{failure}**"),
            "–".to_owned(),
            "–".to_owned(),
        ],
        None => [
            format!("{:.0}", series.median(|sample| sample.rate)),
            series.ratio_to(plain),
            format!("{:.0} µs", series.median(|sample| sample.p99_us)),
            format!("{:.1}", series.median(|sample| sample.cpu_us)),
        ],
    };
    head.into_iter().chain(figures).collect()
}
