//! What the tests share: connections held open, and the commands that report on them.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::common::{Arena, Traffic, json};

/// The messages that `hold` sends before it prints `holding`, in each direction of a connection.
pub const HELD_MESSAGES: u64 = 64;
pub const HELD_BYTES: u64 = HELD_MESSAGES * 512;

pub fn flows(arena: &Arena, filters: &[&str]) -> Vec<Value> {
    let mut arguments = vec!["flows"];
    for filter in filters {
        arguments.extend(["--filter", filter]);
    }
    let value = json(arena, &arguments);
    assert_eq!(value["format"], 1);
    value["flows"].as_array().expect("flows").clone()
}

/// Connections that have sent [`HELD_BYTES`] each way and stay open.
pub fn hold(arena: &Arena, arguments: &[&str]) -> Traffic {
    let mut hold = arena.traffic(&[&["hold"], arguments].concat());
    hold.wait_for_line("holding", 1);
    hold
}

pub fn sum(flows: &[Value], member: &[&str]) -> u64 {
    let value = |direction: &Value| {
        member
            .iter()
            .fold(direction, |value, name| &value[*name])
            .as_u64()
    };
    let directions = flows
        .iter()
        .flat_map(|flow| [&flow["to_server"], &flow["to_client"]]);
    directions
        .map(|direction| value(direction).expect("a number"))
        .sum()
}

/// The distinct values at a JSON pointer.
pub fn all(flows: &[Value], pointer: &str) -> BTreeSet<String> {
    let value = |flow: &Value| flow.pointer(pointer).map_or("none".to_owned(), Value::to_string);
    flows
        .iter()
        .map(|flow| value(flow).trim_matches('"').to_owned())
        .collect()
}

pub fn only(value: &str) -> BTreeSet<String> {
    BTreeSet::from([value.to_owned()])
}
