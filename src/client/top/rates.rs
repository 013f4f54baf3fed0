//! The change between two samples: the rates of each flow and of all traffic, and the reasons counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::model::counters::{Counter, Counters};
use crate::model::document::{Direction, Flow, FlowState, Flows, Status};

/// Counters with these prefixes tell why something is not redirected, ...
const REASONS: [&str; 4] = ["refused_", "tcp_only_", "drain_", "messages_"];
/// ... except these: redirected messages, and completed drains.
const NO_REASONS: [&str; 2] = ["messages_redirected", "drain_done"];

/// The answers of an instance, and when they came.
pub struct Sample {
    pub at: Instant,
    pub status: Status,
    pub flows: Flows,
}

/// The newest sample and the changes since the previous one.
pub struct View {
    at: Instant,
    pub status: Status,
    /// The time between the two samples; `None` for an instance's first.
    pub interval: Option<Duration>,
    pub traffic: Option<Traffic>,
    /// Those that are not 0, in the order of `enum counter`.
    pub reasons: Vec<Reason>,
    pub rows: Vec<Row>,
}

/// All traffic, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    pub redirected: Rate,
    /// Through TCP, by ends in the socket map.
    pub mapped: Rate,
    /// Through TCP, by all other connections that are in both samples.
    pub other_bytes: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    pub bytes: f64,
    pub messages: f64,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reason {
    pub name: String,
    /// Since the start of the instance.
    pub total: u64,
    /// Since the previous sample; unknown if there is none.
    pub recent: Option<u64>,
}

/// A flow, with both directions added up.
pub struct Row {
    pub flow: Flow,
    /// Unknown if the flow was seen neither from its beginning nor in the previous sample.
    pub rates: Option<FlowRates>,
}

/// Per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FlowRates {
    pub redirected_bytes: f64,
    pub tcp_bytes: f64,
    /// Unknown for flows that are not followed.
    pub messages: Option<f64>,
    /// The part of `tcp_bytes` sent by ends in the socket map.
    mapped_bytes: f64,
}

impl View {
    pub fn of(sample: Sample, earlier: Option<&Self>) -> Self {
        let Sample { at, status, flows } = sample;
        let earlier = earlier.filter(|earlier| is_same_instance(&earlier.status, &status));
        let interval = earlier.map(|earlier| at.saturating_duration_since(earlier.at));
        let rows = match earlier.zip(interval) {
            Some((earlier, interval)) => rows(flows.flows, &earlier.rows, interval),
            None => flows.flows.into_iter().map(Row::without_rates).collect(),
        };
        let counted = earlier.map(|earlier| status.counters.since(&earlier.status.counters));
        let traffic = counted.as_ref().zip(interval);
        Self {
            at,
            interval,
            traffic: traffic.map(|(counted, interval)| Traffic::of(counted, &rows, interval)),
            reasons: reasons(&status.counters, counted.as_ref()),
            status,
            rows,
        }
    }

    /// The number of connections in a state.
    pub fn count(&self, state: FlowState) -> usize {
        self.rows.iter().filter(|row| row.flow.state == state).count()
    }
}

impl Traffic {
    fn of(counted: &Counters, rows: &[Row], interval: Duration) -> Self {
        let rate = |count: u64| per_second(count as f64, interval);
        // Data in flight is counted by only one of the two; the sum over all flows evens that out.
        let other = |rates: &FlowRates| rates.tcp_bytes - rates.mapped_bytes;
        let other_bytes: f64 = rows.iter().filter_map(|row| row.rates.as_ref()).map(other).sum();
        Self {
            redirected: Rate {
                bytes: rate(counted.value(const { Counter::of("bytes_redirected") })),
                messages: rate(counted.value(const { Counter::of("messages_redirected") })),
            },
            mapped: Rate {
                bytes: rate(counted.value(const { Counter::of("bytes_tcp") })),
                messages: rate(counted.messages_over_tcp()),
            },
            other_bytes: other_bytes.max(0.0),
        }
    }

    pub fn bytes(&self) -> f64 {
        self.redirected.bytes + self.mapped.bytes + self.other_bytes
    }
}

impl Row {
    fn without_rates(flow: Flow) -> Self {
        Self { flow, rates: None }
    }

    /// Redirected and through TCP.
    pub fn bytes_per_second(&self) -> Option<f64> {
        self.rates.map(|rates| rates.redirected_bytes + rates.tcp_bytes)
    }

    /// Bytes that either end has not read yet.
    pub fn queue_bytes(&self) -> u64 {
        self.flow.to_server.queue_bytes + self.flow.to_client.queue_bytes
    }
}

fn is_same_instance(earlier: &Status, now: &Status) -> bool {
    let identity = |status: &Status| (status.instance.pid, status.instance.started_at);
    identity(earlier) == identity(now)
}

fn per_second(count: f64, interval: Duration) -> f64 {
    if interval.is_zero() {
        return 0.0;
    }
    count / interval.as_secs_f64()
}

fn reasons(total: &Counters, recent: Option<&Counters>) -> Vec<Reason> {
    let is_reason =
        |name: &str| REASONS.iter().any(|prefix| name.starts_with(prefix)) && !NO_REASONS.contains(&name);
    let counted = total.counted().filter(|(name, _)| is_reason(name));
    counted
        .map(|(name, total)| Reason {
            name: name.to_owned(),
            total,
            recent: recent.map(|recent| recent.named(name)),
        })
        .collect()
}

/// Identifies a flow in both samples, unless its ports were reused meanwhile.
type Key = (Option<u64>, IpAddr, u16, IpAddr, u16);

fn key_of(flow: &Flow) -> Key {
    let Flow { client, server, .. } = flow;
    let netns = client.netns.or(server.netns);
    (netns, client.address, client.port, server.address, server.port)
}

fn rows(flows: Vec<Flow>, earlier: &[Row], interval: Duration) -> Vec<Row> {
    let known: HashMap<_, _> = earlier.iter().map(|row| (key_of(&row.flow), &row.flow)).collect();
    let row = |flow: Flow| {
        let earlier = known.get(&key_of(&flow)).copied();
        let rates = rates(&flow, earlier, interval);
        Row { flow, rates }
    };
    flows.into_iter().map(row).collect()
}

/// The counts of a flow so far, over both directions.
#[derive(Default)]
struct Counts {
    redirected_bytes: u64,
    tcp_bytes: u64,
    messages: u64,
    mapped_bytes: u64,
}

impl Counts {
    fn of(flow: &Flow) -> Self {
        let both = |part: fn(&Direction) -> u64| part(&flow.to_server) + part(&flow.to_client);
        Self {
            redirected_bytes: both(|direction| direction.redirected.bytes),
            tcp_bytes: both(|direction| direction.tcp_bytes_ever),
            messages: both(|direction| direction.redirected.messages + direction.tcp.messages),
            mapped_bytes: both(|direction| direction.tcp.bytes),
        }
    }
}

fn rates(flow: &Flow, earlier: Option<&Flow>, interval: Duration) -> Option<FlowRates> {
    let now = Counts::of(flow);
    let is_new = flow.age_seconds.is_some_and(|age| age <= interval.as_secs_f64());
    let then = match earlier {
        _ if is_new => Counts::default(),
        Some(earlier) => Counts::of(earlier),
        None => return None,
    };
    let rate = |now: u64, then: u64| {
        now.checked_sub(then)
            .map(|count| per_second(count as f64, interval))
    };
    let messages = rate(now.messages, then.messages)?;
    Some(FlowRates {
        redirected_bytes: rate(now.redirected_bytes, then.redirected_bytes)?,
        tcp_bytes: rate(now.tcp_bytes, then.tcp_bytes)?,
        messages: flow.age_seconds.map(|_| messages),
        mapped_bytes: rate(now.mapped_bytes, then.mapped_bytes)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::top::samples::{flow, sample, unfollowed, view};

    fn rates(view: &View) -> Vec<Option<(f64, f64, Option<f64>)>> {
        let rates = view.rows.iter().map(|row| row.rates);
        rates
            .map(|rates| rates.map(|rates| (rates.redirected_bytes, rates.tcp_bytes, rates.messages)))
            .collect()
    }

    #[test]
    fn rates_are_differences_per_second() {
        let view = view(vec![flow(1, 1_000, 200)], vec![flow(1, 5_000, 400)]);
        assert_eq!(rates(&view), [Some((2_000.0, 100.0, Some(21.0)))]);
        let traffic = view.traffic.unwrap();
        assert_eq!(
            traffic.redirected,
            Rate {
                bytes: 10_000.0,
                messages: 100.0
            }
        );
        assert_eq!(
            traffic.mapped,
            Rate {
                bytes: 250.0,
                messages: 10.0
            }
        );
        assert_eq!(traffic.other_bytes, 0.0);
    }

    #[test]
    fn the_first_sample_has_no_rates() {
        let view = View::of(sample(Instant::now(), [1; 10], vec![flow(1, 1_000, 200)]), None);
        assert!(view.traffic.is_none() && view.interval.is_none());
        assert_eq!(rates(&view), [None]);
        assert!(view.reasons.iter().all(|reason| reason.recent.is_none()));
    }

    #[test]
    fn flows_that_are_not_followed_have_bytes_but_no_messages() {
        let view = view(vec![unfollowed(1, 1_000)], vec![unfollowed(1, 7_000)]);
        assert_eq!(rates(&view), [Some((0.0, 3_000.0, None))]);
        assert_eq!(view.traffic.unwrap().other_bytes, 3_000.0);
    }

    #[test]
    fn a_flow_that_has_appeared_is_known_from_its_beginning_or_not_at_all() {
        let young = Flow {
            age_seconds: Some(1.5),
            ..flow(2, 400, 0)
        };
        let view = view(vec![], vec![young, flow(3, 400, 0), unfollowed(4, 400)]);
        assert_eq!(rates(&view), [Some((200.0, 0.0, Some(2.0))), None, None]);
    }

    #[test]
    fn a_flow_that_has_vanished_is_not_shown() {
        let view = view(
            vec![flow(1, 1_000, 0), flow(2, 1_000, 0)],
            vec![flow(2, 3_000, 0)],
        );
        assert_eq!(rates(&view), [Some((1_000.0, 0.0, Some(10.0)))]);
    }

    #[test]
    fn ports_that_are_used_again_do_not_join_two_flows() {
        let view = view(vec![flow(1, 5_000, 0)], vec![flow(1, 100, 0)]);
        assert_eq!(rates(&view), [None]);
    }

    #[test]
    fn the_same_ports_in_another_namespace_are_another_flow() {
        let mut other = flow(1, 9_000, 0);
        other.client.netns = Some(2);
        let view = view(vec![flow(1, 1_000, 0)], vec![flow(1, 3_000, 0), other]);
        assert_eq!(rates(&view), [Some((1_000.0, 0.0, Some(10.0))), None]);
    }

    #[test]
    fn a_restarted_instance_begins_anew() {
        let begin = Instant::now();
        let first = View::of(sample(begin, [500; 10], vec![flow(1, 1_000, 0)]), None);
        let mut second = sample(begin + Duration::from_secs(1), [1; 10], vec![flow(1, 2_000, 0)]);
        second.status.instance.pid += 1;
        let view = View::of(second, Some(&first));
        assert!(view.traffic.is_none());
        assert_eq!(rates(&view), [None]);
    }

    #[test]
    fn counters_that_went_back_count_as_nothing() {
        let begin = Instant::now();
        let first = View::of(sample(begin, [500; 10], vec![]), None);
        let view = View::of(
            sample(begin + Duration::from_secs(1), [1; 10], vec![]),
            Some(&first),
        );
        let traffic = view.traffic.unwrap();
        assert_eq!(traffic.bytes(), 0.0);
        assert!(view.reasons.iter().all(|reason| reason.recent == Some(0)));
    }

    #[test]
    fn reasons_are_those_that_were_counted() {
        let view = view(vec![], vec![]);
        let reasons = view.reasons.iter();
        let reasons: Vec<_> = reasons
            .map(|reason| (reason.name.as_str(), reason.recent, reason.total))
            .collect();
        assert_eq!(
            reasons,
            [
                ("refused_blocking", Some(2), 7),
                ("tcp_only_pattern", Some(0), 1),
                ("drain_one_way", Some(1), 1),
                ("messages_observed", Some(20), 30),
            ]
        );
    }
}
