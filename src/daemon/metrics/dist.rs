//! Keeps the metrics, the dashboard, the alerts and the documents consistent.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::panic::catch_unwind;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::text::{sample, text};
use crate::model::reasons::REASONS;

const DASHBOARD: &str = include_str!("../../../dist/grafana/sockredir.json");
const RULES: &str = include_str!("../../../dist/prometheus/sockredir.rules.yml");
const OPERATING: &str = include_str!("../../../docs/operating.md");
const REFERENCE: &str = include_str!("../../../docs/reference.md");

/// Words with this prefix, such as names of metrics.
fn words<'a>(text: &'a str, begin: &'a str) -> impl Iterator<Item = &'a str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(move |letter| !is_part(letter));
    words.filter(move |word| word.starts_with(begin))
}

/// A metric by its comments and first sample: a row of the table in docs/reference.md.
fn rows(text: &str) -> Vec<String> {
    text.split("# HELP ")
        .skip(1)
        .map(|family| {
            let mut lines = family.lines();
            let (name, help) = lines.next().unwrap().split_once(' ').unwrap();
            let kind = lines.next().unwrap().rsplit(' ').next().unwrap();
            let (labels, _) = lines.next().unwrap().rsplit_once(' ').unwrap();
            let labels = labels
                .split(['{', ',', '}'])
                .filter_map(|label| label.split_once('='));
            let labels: Vec<_> = labels.map(|(label, _)| format!("`{label}`")).collect();
            let help = help.replace("--log-decisions", "`--log-decisions`");
            format!("| `{name}` | {kind} | {} | {help} |", labels.join(", "))
        })
        .collect()
}

/// The output of promtool, run in the project's folder. It has to succeed.
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("promtool");
    command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("`make deps` installs promtool");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    let is_praise = |line: &str| line.contains("SUCCESS") || line.starts_with("Checking ") || line.is_empty();
    said.lines()
        .map(str::trim)
        .filter(|line| !is_praise(line))
        .collect()
}

#[test]
fn promtool_has_nothing_to_say_of_the_metrics() {
    assert_eq!(promtool(&["check", "metrics"], &text(&sample()).unwrap()), "");
}

#[test]
fn promtool_has_nothing_to_say_of_the_alerts() {
    assert_eq!(
        promtool(&["check", "rules", "dist/prometheus/sockredir.rules.yml"], ""),
        ""
    );
}

#[test]
fn alerts_fire_in_trouble_and_only_then() {
    promtool(&["test", "rules", "tests/alerts.yml"], "");
}

/// Every string member of that name within a value.
fn collect<'a>(value: &'a Value, name: &str) -> Vec<&'a str> {
    match value {
        Value::Object(object) => {
            let own = object.get(name).and_then(Value::as_str);
            let inner = object.values().flat_map(|value| collect(value, name));
            own.into_iter().chain(inner).collect()
        }
        Value::Array(list) => list.iter().flat_map(|value| collect(value, name)).collect(),
        _ => Vec::new(),
    }
}

/// Wrapped as rules, which promtool can check.
#[test]
fn promtool_understands_the_expressions_of_the_dashboard() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let plain = |expression: &str| {
        expression
            .replace("$__rate_interval", "5m")
            .replace("$__range", "1h")
    };
    let expressions = collect(&dashboard, "expr").into_iter().map(plain).enumerate();
    let rules: Vec<_> = expressions
        .map(|(index, expression)| json!({ "record": format!("panel:{index}"), "expr": expression }))
        .collect();
    assert!(!rules.is_empty());
    let path = std::env::temp_dir().join(format!("sockredir-dashboard-{}.json", std::process::id()));
    let groups = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    fs::write(&path, groups.to_string()).unwrap();
    let said = catch_unwind(|| promtool(&["check", "rules", path.to_str().unwrap()], ""));
    fs::remove_file(&path).unwrap();
    assert_eq!(said.unwrap(), "");
}

#[test]
fn dashboard_and_alerts_name_metrics_and_reasons_that_there_are() {
    let text = text(&sample()).unwrap();
    let exported: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP "))
        .collect();
    let exported: BTreeSet<_> = exported
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    for source in [DASHBOARD, RULES] {
        let named: BTreeSet<_> = words(source, "sockredir_").collect();
        assert!(!named.is_empty());
        assert_eq!(named.difference(&exported).collect::<Vec<_>>(), [] as [&&str; 0]);
        for reason in source.split("reason=").skip(1) {
            let reason = reason.split('"').nth(1).unwrap().trim_end_matches('\\');
            assert!(REASONS.iter().any(|each| each.name == reason), "{reason}");
        }
    }
    let shown: BTreeSet<_> = words(DASHBOARD, "sockredir_").collect();
    assert_eq!(exported.difference(&shown).collect::<Vec<_>>(), [] as [&&str; 0]);
}

#[test]
fn the_dashboard_is_one_of_grafana_and_its_panels_have_ids_of_their_own() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 39);
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
    }
}

#[test]
fn every_alert_has_its_section_in_the_document() {
    let named: Vec<_> = RULES
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    let led: Vec<_> = RULES
        .lines()
        .filter_map(|line| line.trim().strip_prefix("runbook: docs/operating.md#"))
        .collect();
    let anchors: Vec<_> = named.iter().map(|name| name.to_lowercase()).collect();
    assert_eq!(anchors, led);
    let sections = OPERATING
        .lines()
        .filter_map(|line| line.strip_prefix("### Sockredir"));
    let sections: Vec<_> = sections.map(|name| format!("Sockredir{name}")).collect();
    assert_eq!(named, sections);
}

#[test]
fn the_document_has_every_metric_as_it_is_exported() {
    let expected = rows(&text(&sample()).unwrap());
    let documented: Vec<_> = REFERENCE
        .lines()
        .filter(|line| line.starts_with("| `sockredir_"))
        .collect();
    assert!(
        documented == expected,
        "the table of metrics is to be:\n{}",
        expected.join("\n")
    );
}
