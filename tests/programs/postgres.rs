//! PostgreSQL: pgbench, COPY in both directions, and queries with small and large answers.

use std::process::Command;

use crate::compare::compare;
use crate::servers::{self, HOSTS, POSTGRES_PORT, POSTGRES_USER};
use crate::stage::{Stage, digest, digest_of};

pub fn client(stage: &Stage, program: &str, host: &str) -> Command {
    let mut command = stage.command(program);
    command
        .args(["-h", host, "-p", POSTGRES_PORT, "-U", POSTGRES_USER])
        .env("PGDATABASE", POSTGRES_USER);
    command
}

/// Creates the tables of pgbench.
pub fn make_tables(stage: &Stage) {
    let mut tables = client(stage, "pgbench", "127.0.0.1");
    tables.args(["--initialize", "--quiet", "--no-vacuum", "--scale", "1"]);
    stage.run(tables);
}

fn psql(stage: &Stage, host: &str, commands: &[&str]) -> String {
    let mut command = client(stage, "psql", host);
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
    for line in commands {
        command.args(["-c", line]);
    }
    stage.run(command).join("\n")
}

/// Runs a number of transactions; pgbench reports how many of them failed.
fn pgbench(stage: &mut Stage, host: &str, arguments: &str) {
    let mut command = client(stage, "pgbench", host);
    command.args(arguments.split(' '));
    for line in stage.run(command) {
        if line.starts_with("number of") {
            stage.answer(arguments, line);
        } else if let Some(rate) = line.strip_prefix("tps = ") {
            let rate = rate.split(' ').next().unwrap_or_default();
            stage.rate(&format!("transactions per second ({host} {arguments})"), rate);
        }
    }
}

#[test]
fn postgres_runs_pgbench() {
    let totals = compare("pgbench", |stage| {
        servers::postgres(stage);
        stage.accelerate();
        for host in HOSTS {
            pgbench(stage, host, "--initialize --quiet --no-vacuum --scale 1");
            pgbench(
                stage,
                host,
                "--no-vacuum --select-only --client 8 --transactions 2000",
            );
            pgbench(
                stage,
                host,
                "--no-vacuum --select-only --protocol prepared --client 8 --transactions 2000",
            );
            pgbench(stage, host, "--no-vacuum --client 4 --transactions 200");
            let rows = psql(
                stage,
                host,
                &["select count(*), sum(abalance) from pgbench_accounts"],
            );
            stage.answer("accounts", rows.split('|').next().unwrap_or_default());
            let history = psql(stage, host, &["select count(*) from pgbench_history"]);
            stage.answer("history", history);
        }
        assert_eq!(stage.complaints("ERROR"), Vec::<String>::new());
        assert_eq!(stage.complaints("FATAL"), Vec::<String>::new());
    });
    totals.assert_admitted();
}

#[test]
fn postgres_copies_and_answers_queries() {
    let totals = compare("psql", |stage| {
        servers::postgres(stage);
        let rows: String = (0..200_000u64)
            .map(|row| format!("{row}\t{:032x}\n", row.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
            .collect();
        stage.file("rows", &rows);
        stage.accelerate();
        for host in HOSTS {
            // Its listeners block, so the first socket that each accepts shows what the others will be.
            psql(stage, host, &["select 1"]);
            let small: Vec<_> = (0..30)
                .map(|number| format!("select {number}, repeat('x', {number})"))
                .collect();
            let mut queries: Vec<_> = small.iter().map(String::as_str).collect();
            queries.extend([
                "drop table if exists rows",
                "create table rows (number bigint, text text)",
                r"\copy rows from 'rows'",
                "select count(*), sum(number), md5(string_agg(text, ',' order by number)) from rows",
                "select * from rows order by number desc",
                "select repeat(md5('one large value'), 500000)",
                r"\copy rows to 'copied'",
            ]);
            let answers = psql(stage, host, &queries);
            stage.answer(host, digest_of(answers.as_bytes()));
            assert_eq!(
                digest(&stage.path("copied")),
                digest_of(rows.as_bytes()),
                "COPY differs at {host}"
            );
        }
        assert_eq!(stage.complaints("ERROR"), Vec::<String>::new());
    });
    totals.assert_admitted();
}
