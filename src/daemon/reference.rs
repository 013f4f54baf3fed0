//! Checks docs/reference.md against what the tool knows and prints.

use serde_json::Value;

use super::metrics;
use crate::model::document::{Direction, FORMAT, Flow, FlowState, Flows, Listener};
use crate::model::reasons::REASONS;
use crate::model::samples::end;

const DOCUMENT: &str = include_str!("../../docs/reference.md");

/// The text of a section, without its heading.
fn section(heading: &str) -> &'static str {
    let (_, rest) = DOCUMENT.split_once(&format!("\n## {heading}\n")).unwrap();
    rest.split("\n## ").next().unwrap()
}

/// The names of all members, including those of nested objects.
fn members(value: &Value) -> Vec<String> {
    match value {
        Value::Object(object) => {
            let named = object.iter().map(|(name, value)| (name.clone(), members(value)));
            named
                .flat_map(|(name, inner)| [vec![name], inner].concat())
                .collect()
        }
        Value::Array(list) => list.iter().flat_map(members).collect(),
        _ => Vec::new(),
    }
}

fn demand_members(heading: &str, value: &Value) {
    let text = section(heading);
    for member in members(value) {
        assert!(
            text.contains(&format!("`{member}`")),
            "{member} is not in the section {heading}"
        );
    }
    assert!(DOCUMENT.contains(&format!("`format` is {FORMAT};")));
}

fn some_flows() -> Flows {
    let server = || end(80, "server", 1);
    let flow = Flow {
        state: FlowState::Admitted,
        reason: "admitted_bulk".to_owned(),
        client: server(),
        server: server(),
        to_server: Direction::default(),
        to_client: Direction::default(),
        age_seconds: None,
    };
    let listener = Listener {
        address: [0, 0, 0, 0].into(),
        port: 80,
        netns: 1,
        processes: server().processes,
        blocking: false,
        refused: None,
    };
    Flows {
        format: FORMAT,
        cgroups: vec!["/sys/fs/cgroup".into()],
        scope: "loopback".to_owned(),
        flows: vec![flow],
        listeners: vec![listener],
    }
}

#[test]
fn it_has_every_reason_word_by_word() {
    let rows = REASONS
        .iter()
        .map(|reason| format!("| `{}` | {} | {} |", reason.name, reason.cause, reason.remedy));
    let rows: Vec<_> = rows.collect();
    let table = section("Reasons").lines().filter(|line| line.starts_with("| `"));
    let is_same = table.eq(rows.iter().map(String::as_str));
    assert!(is_same, "the table of reasons is to be:\n{}", rows.join("\n"));
}

#[test]
fn it_has_every_member_of_the_json_of_status() {
    let mut status = serde_json::to_value(metrics::sample()).unwrap();
    // Those are in the table of reasons.
    status["counters"].take();
    status["since_last"]["counters"].take();
    demand_members("JSON of `status`", &status);
}

#[test]
fn it_has_every_member_and_state_of_the_json_of_flows() {
    demand_members("JSON of `flows`", &serde_json::to_value(some_flows()).unwrap());
    for state in FlowState::ALL {
        assert!(
            section("JSON of `flows`").contains(&format!("`{state}`")),
            "{state}"
        );
    }
}
