//! `sockredir flows`: one row per connection.

use std::cmp::Reverse;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::ask;
use crate::cli::{FlowFilter, FlowOrder, FlowsArgs};
use crate::model::document::{Direction, End, Flow, Flows, Process};
use crate::model::output::{Printed, print};
use crate::model::text::{age, columns, short};

/// Moves the cursor home and erases everything below it.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Prints them once or repeatedly. Fails if the instance cannot be asked.
pub fn flows(args: &FlowsArgs) -> Result<ExitCode> {
    loop {
        let mut flows = ask::flows(args.cgroup.as_deref())?;
        flows
            .flows
            .retain(|flow| args.filters.iter().all(|filter| filter.takes(flow)));
        sort(&mut flows.flows, args.sort);
        let text = if args.json {
            serde_json::to_string(&flows)? + "\n"
        } else {
            table(&flows)
        };
        let clear = args.watch.is_some() && !args.json && std::io::stdout().is_terminal();
        let printed = print(&format!("{}{text}", if clear { CLEAR } else { "" }))?;
        match (args.watch, printed) {
            (Some(seconds), Printed::All) => thread::sleep(Duration::from_secs(seconds)),
            _ => return Ok(ExitCode::SUCCESS),
        }
    }
}

impl FlowFilter {
    fn takes(&self, flow: &Flow) -> bool {
        let ends = [&flow.client, &flow.server];
        match self {
            Self::Port(port) => ends.iter().any(|end| end.port == *port),
            Self::Process(wanted) => ends
                .iter()
                .flat_map(|end| &end.processes)
                .any(|process| process.name == *wanted || process.pid.to_string() == *wanted),
            Self::State(state) => flow.state == *state,
            Self::Reason(reason) => flow.reason == *reason,
        }
    }
}

fn sort(flows: &mut [Flow], order: FlowOrder) {
    let total = |flow: &Flow, of: fn(&Direction) -> u64| of(&flow.to_server) + of(&flow.to_client);
    let most = |flow: &Flow, of: fn(&Direction) -> u64| of(&flow.to_server).max(of(&flow.to_client));
    match order {
        FlowOrder::Client => flows.sort_by_key(|flow| (flow.client.address, flow.client.port)),
        FlowOrder::Server => flows.sort_by_key(|flow| (flow.server.address, flow.server.port)),
        FlowOrder::State => flows.sort_by_key(|flow| flow.state),
        FlowOrder::Reason => flows.sort_by(|one, other| one.reason.cmp(&other.reason)),
        FlowOrder::Bytes => flows.sort_by_key(|flow| Reverse(total(flow, Direction::bytes))),
        FlowOrder::Redirected => {
            flows.sort_by_key(|flow| Reverse(total(flow, |direction| direction.redirected.bytes)))
        }
        FlowOrder::Queue => flows.sort_by_key(|flow| Reverse(most(flow, |direction| direction.queue_bytes))),
        FlowOrder::Peak => {
            flows.sort_by_key(|flow| Reverse(most(flow, |direction| direction.queue_peak_bytes)))
        }
        FlowOrder::Age => flows.sort_by(|one, other| {
            let age = |flow: &Flow| flow.age_seconds.unwrap_or(0.0);
            age(other).total_cmp(&age(one))
        }),
    }
}

fn table(flows: &Flows) -> String {
    let mut namespaces = flows
        .flows
        .iter()
        .flat_map(|flow| [flow.client.netns, flow.server.netns])
        .flatten();
    let first = namespaces.next();
    let differ = namespaces.any(|netns| Some(netns) != first);
    let mut heading = vec![
        "STATE",
        "REASON",
        "CLIENT",
        "PROCESS",
        "SERVER",
        "PROCESS",
        "TO SERVER: REDIRECTED",
        "TCP",
        "TO CLIENT: REDIRECTED",
        "TCP",
        "QUEUE",
        "PEAK",
        "AGE",
    ];
    if differ {
        heading.push("NETNS");
    }
    let mut rows = vec![heading.into_iter().map(str::to_owned).collect()];
    rows.extend(flows.flows.iter().map(|flow| row(flow, differ)));
    columns(&rows)
}

fn row(flow: &Flow, with_namespaces: bool) -> Vec<String> {
    let both = |of: fn(&Direction) -> u64| {
        let (to_server, to_client) = (of(&flow.to_server), of(&flow.to_client));
        if to_server == 0 && to_client == 0 {
            return "0".to_owned();
        }
        format!("{}>{}<", short(to_server as f64), short(to_client as f64))
    };
    let mut row = vec![
        flow.state.to_string(),
        flow.reason.clone(),
        flow.client.to_string(),
        processes(&flow.client.processes),
        flow.server.to_string(),
        processes(&flow.server.processes),
    ];
    for direction in [&flow.to_server, &flow.to_client] {
        row.push(amount(direction.redirected.bytes, direction.redirected.messages));
        row.push(amount(direction.tcp_bytes_ever, direction.tcp.messages));
    }
    row.push(both(|direction| direction.queue_bytes));
    row.push(both(|direction| direction.queue_peak_bytes));
    row.push(flow.age_seconds.map_or("-".to_owned(), age));
    if with_namespaces {
        let netns = |end: &End| end.netns.map_or("-".to_owned(), |netns| netns.to_string());
        let (from, to) = (netns(&flow.client), netns(&flow.server));
        row.push(if from == to { from } else { format!("{from}>{to}") });
    }
    row
}

/// Bytes, and messages if they are known.
fn amount(sent: u64, messages: u64) -> String {
    match (sent, messages) {
        (0, 0) => "0".to_owned(),
        (_, 0) => short(sent as f64),
        _ => format!("{}/{}", short(sent as f64), short(messages as f64)),
    }
}

/// The first, and how many more there are.
pub fn processes(processes: &[Process]) -> String {
    match processes {
        [] => "-".to_owned(),
        [one] => one.to_string(),
        [first, others @ ..] => format!("{first}+{}", others.len()),
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::model::document::{Amount, FlowState};
    use crate::model::samples::end;

    fn flow(port: u16, state: FlowState, reason: &str, redirected: u64) -> Flow {
        Flow {
            state,
            reason: reason.to_owned(),
            client: end(port, "wrk", 5),
            server: end(80, "nginx", 6),
            to_server: Direction {
                redirected: Amount {
                    bytes: redirected,
                    messages: redirected / 10,
                },
                tcp_bytes_ever: 300,
                ..Direction::default()
            },
            to_client: Direction::default(),
            age_seconds: Some(f64::from(port)),
        }
    }

    fn some() -> Vec<Flow> {
        vec![
            flow(4000, FlowState::TcpOnly, "refused_port", 0),
            flow(4001, FlowState::Admitted, "admitted_bulk", 20_000),
            flow(4002, FlowState::Admitted, "admitted_request_response", 500),
        ]
    }

    fn ports(flows: &[Flow]) -> Vec<u16> {
        flows.iter().map(|flow| flow.client.port).collect()
    }

    #[test]
    fn filters_take_what_they_say() {
        let taken = |text: &str| {
            let filter: FlowFilter = text.parse().unwrap();
            let taken: Vec<_> = some().into_iter().filter(|flow| filter.takes(flow)).collect();
            ports(&taken)
        };
        assert_eq!(taken("port=4001"), [4001]);
        assert_eq!(taken("port=80").len(), 3);
        assert_eq!(taken("process=nginx").len(), 3);
        assert_eq!(taken("process=5").len(), 3);
        assert_eq!(taken("process=ngin").len(), 0);
        assert_eq!(taken("state=admitted"), [4001, 4002]);
        assert_eq!(taken("reason=refused_port"), [4000]);
    }

    #[test]
    fn rows_are_sorted() {
        let sorted = |order| {
            let mut flows = some();
            sort(&mut flows, order);
            ports(&flows)
        };
        assert_eq!(sorted(FlowOrder::Redirected), [4001, 4002, 4000]);
        assert_eq!(sorted(FlowOrder::Age), [4002, 4001, 4000]);
        assert_eq!(sorted(FlowOrder::State), [4001, 4002, 4000]);
        assert_eq!(sorted(FlowOrder::Client), [4000, 4001, 4002]);
    }

    #[test]
    fn a_row_has_both_ends_and_what_went_which_way() {
        let flows = Flows {
            format: 1,
            cgroups: vec!["/sys/fs/cgroup".into()],
            scope: "loopback".to_owned(),
            flows: some(),
            listeners: Vec::new(),
        };
        let text = table(&flows);
        let row = text.lines().nth(2).unwrap();
        let cells: Vec<_> = row.split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "admitted",
                "admitted_bulk",
                "127.0.0.1:4001",
                "wrk[5]",
                "127.0.0.1:80",
                "nginx[6]",
                "20.0k/2.00k",
                "300",
                "0",
                "0",
                "0",
                "0",
                "66m"
            ]
        );
        assert!(!text.contains("NETNS"));
    }
}
