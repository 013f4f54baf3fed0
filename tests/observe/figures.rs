//! The metrics for Prometheus.

use std::io::{Read as _, Write as _};

use crate::ask::hold;
use crate::common::{Arena, Tool, json};

/// The response of `--metrics`.
fn scrape(address: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).expect("the metrics answer");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        .expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body.to_owned()
}

#[test]
fn metrics_are_what_the_status_tells() {
    let arena = Arena::new();
    let mut tool = Tool::start(&arena, &["--metrics", "0"]);
    let line = tool.wait_for_line("metrics: http://", 1);
    let address = line
        .trim_start_matches("metrics: http://")
        .trim_end_matches("/metrics")
        .to_owned();
    let hold = hold(&arena, &["--connections", "20"]);
    let status = json(&arena, &["status"]);
    let metrics = arena.in_namespace(|| scrape(&address));
    let metric = |name: &str| {
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{metrics}"))
            .parse::<f64>()
            .expect("a number")
    };
    let counter = |name: &str| status["counters"][name].as_f64().expect("a counter");
    assert_eq!(
        metric("sockredir_bytes_total{path=\"redirected\"}"),
        counter("bytes_redirected")
    );
    assert_eq!(
        metric("sockredir_bytes_total{path=\"tcp\"}"),
        counter("bytes_tcp")
    );
    assert_eq!(metric("sockredir_flows{state=\"admitted\"}"), 20.0);
    let admitted = "sockredir_flows_admitted_total{reason=\"admitted_request_response\"}";
    assert_eq!(metric(admitted), counter("admitted_request_response"));
    hold.finish();
    // A second instance cannot have the same address, and leaves nothing behind.
    let other = arena.subcgroup("other");
    let mut second = arena.host_command(env!("CARGO_BIN_EXE_sockredir"));
    let second = second
        .args(["--metrics", &address, "--cgroup"])
        .arg(&other)
        .output()
        .expect("sockredir runs");
    let error = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(error.lines().count() == 1 && error.contains(&address), "{error}");
    tool.stop();
}
