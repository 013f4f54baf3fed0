//! The log of decisions.

use serde_json::Value;

use crate::ask::hold;
use crate::common::{Arena, Tool};

/// Each decision has a line, and its reason is the name of the counter.
#[test]
fn decisions_are_logged() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &["--log-decisions"]);
    hold(&arena, &["--connections", "5"]).finish();
    hold(&arena, &["--connections", "2", "--mode", "blocking"]).finish();
    let open = hold(&arena, &["--connections", "3"]);
    let report = tool.stop();
    open.finish();
    let lines: Vec<Value> = report
        .stdout
        .iter()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for (decision, reason, count) in [
        ("admitted", "admitted_request_response", 8),
        ("refused", "refused_blocking", 2),
        ("draining", "drain_stopping", 3),
        ("drained", "drain_done", 3),
    ] {
        let told = lines
            .iter()
            .filter(|line| line["decision"] == decision && line["reason"] == reason);
        assert_eq!(told.count(), count, "{decision} {reason}: {}", report.transcript);
        assert_eq!(report.counter(reason), count as u64, "{}", report.transcript);
    }
    let left = lines.iter().filter(|line| line["decision"] == "left").count();
    assert_eq!(left as u64, report.counter("ends_left"), "{}", report.transcript);
    for line in &lines {
        let local = line["local"].as_str().expect("an address");
        assert!(
            local.starts_with("127.0.0.1:") && line["netns"].is_number(),
            "{line}"
        );
    }
}

#[test]
fn decisions_for_which_there_is_no_room_are_counted() {
    let arena = Arena::new();
    let tool = Tool::start(&arena, &["--log-decisions"]);
    hold(
        &arena,
        &["--connections", "2000", "--mode", "blocking", "--stall", "60"],
    )
    .finish();
    let report = tool.stop();
    let lines = report
        .stdout
        .iter()
        .filter(|line| line.starts_with('{') && line.contains("refused_"))
        .count() as u64;
    let told: u64 = report
        .stdout
        .iter()
        .filter_map(|line| {
            line.strip_prefix("{\"decisions_dropped\":")?
                .trim_end_matches('}')
                .parse::<u64>()
                .ok()
        })
        .sum();
    let decided = report.counter("refused_blocking") + report.counter("refused_unpaired");
    assert_eq!(told, report.counter("decisions_dropped"), "{}", report.transcript);
    assert_eq!(lines + told, decided, "{}", report.transcript);
}
