//! `sockredir explain`: why the connections of a service are or are not accelerated, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde::Serialize;

use super::ask;
use super::flows::processes;
use crate::cli::{ExplainArgs, Subject};
use crate::model::document::{Direction, FORMAT, Flow, FlowState, Flows, Listener, Process};
use crate::model::output::print;
use crate::model::reasons::reason;
use crate::model::text::{bytes, folders, percent};

/// How many processes are named for a reason.
const NAMED: usize = 5;

#[derive(Debug, Serialize)]
struct Explanation {
    format: u32,
    /// As in `port 80`.
    subject: String,
    /// Of the instance: `loopback` or `host`.
    scope: String,
    listeners: Vec<Listener>,
    /// The connections by state and reason, largest group first.
    groups: Vec<Group>,
}

/// Connections in the same state for the same reason.
#[derive(Debug, Serialize)]
struct Group {
    state: FlowState,
    reason: String,
    cause: &'static str,
    remedy: &'static str,
    connections: usize,
    clients: Vec<Process>,
    servers: Vec<Process>,
    bytes_redirected: u64,
    bytes_tcp: u64,
    /// Why last messages were not redirected, and in how many directions.
    last_messages: BTreeMap<String, usize>,
}

/// Fails if the instance cannot be asked, or if no socket matches.
pub fn explain(args: &ExplainArgs) -> Result<ExitCode> {
    let flows = ask::flows(args.cgroup.as_deref())?;
    let shown = folders(&flows.cgroups);
    let subject = args.subject.settle(&flows);
    let explanation = of(subject, flows);
    if explanation.groups.is_empty() && explanation.listeners.is_empty() {
        bail!(
            "no process in cgroup {shown} has TCP sockets of {}: name a port or a process of that cgroup",
            explanation.subject
        );
    }
    let text = if args.json {
        serde_json::to_string(&explanation)? + "\n"
    } else {
        text(&explanation)
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

impl Subject {
    fn settle(self, flows: &Flows) -> Self {
        let Self::Either(number) = self else {
            return self;
        };
        let is_port = flows.listeners.iter().any(|listener| listener.port == number)
            || flows
                .flows
                .iter()
                .any(|flow| flow.client.port == number || flow.server.port == number);
        if is_port {
            Self::Port(number)
        } else {
            Self::Process(number.into())
        }
    }

    fn has_flow(self, flow: &Flow) -> bool {
        [&flow.client, &flow.server].iter().any(|end| match self {
            Self::Port(port) | Self::Either(port) => end.port == port,
            Self::Process(pid) => has_process(&end.processes, pid),
        })
    }

    fn has_listener(self, listener: &Listener) -> bool {
        match self {
            Self::Port(port) | Self::Either(port) => listener.port == port,
            Self::Process(pid) => has_process(&listener.processes, pid),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Port(port) | Self::Either(port) => format!("port {port}"),
            Self::Process(pid) => format!("process {pid}"),
        }
    }
}

fn has_process(processes: &[Process], pid: u32) -> bool {
    processes.iter().any(|process| process.pid == pid)
}

fn of(subject: Subject, flows: Flows) -> Explanation {
    let mut groups: BTreeMap<(FlowState, String), Vec<Flow>> = BTreeMap::new();
    for flow in flows.flows.into_iter().filter(|flow| subject.has_flow(flow)) {
        groups
            .entry((flow.state, flow.reason.clone()))
            .or_default()
            .push(flow);
    }
    let mut groups: Vec<_> = groups
        .into_iter()
        .map(|((state, reason), flows)| group(state, reason, &flows))
        .collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.connections));
    let mut listeners = flows.listeners;
    listeners.retain(|listener| subject.has_listener(listener));
    Explanation {
        format: FORMAT,
        subject: subject.name(),
        scope: flows.scope,
        listeners,
        groups,
    }
}

fn group(state: FlowState, name: String, flows: &[Flow]) -> Group {
    let known = reason(&name);
    let distinct = |processes: fn(&Flow) -> &[Process]| {
        let distinct: BTreeSet<_> = flows.iter().flat_map(processes).cloned().collect();
        distinct.into_iter().collect()
    };
    let directions = || flows.iter().flat_map(|flow| [&flow.to_server, &flow.to_client]);
    let mut last_messages = BTreeMap::new();
    for last in directions().filter_map(|direction: &Direction| direction.last_message.clone()) {
        if state == FlowState::Admitted && last != "messages_redirected" {
            *last_messages.entry(last).or_default() += 1;
        }
    }
    Group {
        state,
        cause: known.map_or("", |known| known.cause),
        remedy: known.map_or("", |known| known.remedy),
        reason: name,
        connections: flows.len(),
        clients: distinct(|flow| &flow.client.processes),
        servers: distinct(|flow| &flow.server.processes),
        bytes_redirected: directions().map(|direction| direction.redirected.bytes).sum(),
        bytes_tcp: directions().map(|direction| direction.tcp_bytes_ever).sum(),
        last_messages,
    }
}

fn text(explanation: &Explanation) -> String {
    let mut text = format!("{} in scope {}\n", explanation.subject, explanation.scope);
    for listener in &explanation.listeners {
        let mode = if listener.blocking {
            "a blocking"
        } else {
            "a non-blocking"
        };
        text += &format!(
            "{} listens on port {} with {mode} socket\n",
            processes(&listener.processes),
            listener.port
        );
        if let Some(known) = listener.refused.as_deref().and_then(reason) {
            text += &format!(
                "  its connections are refused, {}: {}\n  {}\n",
                known.name, known.cause, known.remedy
            );
        }
    }
    if explanation.groups.is_empty() {
        text += &format!("{} has no connection now\n", explanation.subject);
    }
    for group in &explanation.groups {
        text += &paragraph(group);
    }
    text
}

fn paragraph(group: &Group) -> String {
    let connections = if group.connections == 1 {
        "connection"
    } else {
        "connections"
    };
    let mut text = format!(
        "{} {connections} {}, {}: {}\n",
        group.connections,
        predicate(group.state),
        group.reason,
        group.cause
    );
    text += &format!("  from {} to {}\n", names(&group.clients), names(&group.servers));
    let all = group.bytes_redirected + group.bytes_tcp;
    if group.bytes_redirected > 0 {
        text += &format!(
            "  {} of {} were redirected\n",
            percent(group.bytes_redirected as f64 / all as f64),
            bytes(all as f64)
        );
    }
    for (last, directions) in &group.last_messages {
        let cause = reason(last).map_or("", |known| known.cause);
        text += &format!("  the last message of {directions} directions went through TCP, {last}: {cause}\n");
    }
    if group.remedy.starts_with("nothing to do") {
        text += &format!("  {}\n", group.remedy);
    } else if !group.remedy.is_empty() {
        text += &format!("  to change it: {}\n", group.remedy);
    }
    text
}

fn predicate(state: FlowState) -> &'static str {
    match state {
        FlowState::Admitted => "accelerated",
        FlowState::Observed => "under observation",
        FlowState::Draining => "on the way back to TCP",
        FlowState::TcpOnly => "on TCP",
    }
}

fn names(processes: &[Process]) -> String {
    let mut names: Vec<_> = processes.iter().take(NAMED).map(Process::to_string).collect();
    if processes.len() > NAMED {
        names.push(format!("{} more", processes.len() - NAMED));
    }
    if names.is_empty() {
        return "unknown processes".to_owned();
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::document::Amount;
    use crate::model::samples::end;

    fn flow(client: u32, state: FlowState, reason: &str) -> Flow {
        Flow {
            state,
            reason: reason.to_owned(),
            client: end(40_000 + client as u16, "program", client),
            server: end(80, "program", 9),
            to_server: Direction {
                redirected: Amount {
                    bytes: 900,
                    messages: 3,
                },
                tcp_bytes_ever: 100,
                last_message: Some("messages_order".to_owned()),
                ..Direction::default()
            },
            to_client: Direction::default(),
            age_seconds: None,
        }
    }

    fn flows() -> Flows {
        Flows {
            format: 1,
            cgroups: vec!["/sys/fs/cgroup".into()],
            scope: "loopback".to_owned(),
            flows: vec![
                flow(1, FlowState::TcpOnly, "refused_blocking"),
                flow(2, FlowState::Admitted, "admitted_request_response"),
                flow(3, FlowState::Admitted, "admitted_request_response"),
            ],
            listeners: vec![Listener {
                address: [0, 0, 0, 0].into(),
                port: 80,
                netns: 1,
                processes: end(80, "program", 9).processes,
                blocking: false,
                refused: None,
            }],
        }
    }

    #[test]
    fn a_number_is_a_port_if_it_is_used_and_else_a_process() {
        let settled = |text: &str| text.parse::<Subject>().unwrap().settle(&flows());
        assert_eq!(settled("80"), Subject::Port(80));
        assert_eq!(settled("40002"), Subject::Port(40_002));
        assert_eq!(settled("9"), Subject::Process(9));
        assert_eq!(settled("pid:80"), Subject::Process(80));
        assert_eq!(settled("port:9"), Subject::Port(9));
        assert_eq!(settled("100000"), Subject::Process(100_000));
        for text in ["", "0", "port:0", "port:70000", "pid:x", "-1", "nginx"] {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
    }

    #[test]
    fn connections_are_told_by_reason_with_cause_and_remedy() {
        let text = text(&of(Subject::Port(80), flows()));
        let admitted = text
            .find("2 connections accelerated, admitted_request_response: ")
            .unwrap();
        let refused = text.find("1 connection on TCP, refused_blocking: ").unwrap();
        assert!(admitted < refused, "{text}");
        for part in [
            "program[9] listens on port 80 with a non-blocking socket\n",
            "  from program[2], program[3] to program[9]\n",
            "  90.0 % of 2.00 kB were redirected\n",
            "  the last message of 2 directions went through TCP, messages_order: ",
            "  to change it: ",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_process_has_its_own_connections_only() {
        let explanation = of(Subject::Process(1), flows());
        assert_eq!(explanation.groups.len(), 1);
        assert!(explanation.listeners.is_empty());
        assert!(of(Subject::Process(5), flows()).groups.is_empty());
    }
}
