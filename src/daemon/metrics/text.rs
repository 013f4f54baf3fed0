//! The metrics: names, meanings and text format.

use anyhow::Result;
use prometheus::{Gauge, GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};

use crate::model::counters::Counters;
use crate::model::document::{Adoption, FlowState, FlowsByState, Instance, Maps, Queues, Status};

/// A metric made of counters.
struct Family {
    name: &'static str,
    help: &'static str,
    /// Prefix of its counters' names. A counter belongs to the first family that matches.
    prefix: &'static str,
    /// `reason` is the name of the counter, `path` is where the message or its bytes went.
    labels: &'static [&'static str],
}

const FAMILIES: [Family; 18] = [
    Family {
        name: "sockredir_ends_inserted_total",
        help: "Ends of connections that were put into the socket map.",
        prefix: "ends_inserted",
        labels: &[],
    },
    Family {
        name: "sockredir_flows_admitted_total",
        help: "Connections that were accelerated, by what they are.",
        prefix: "admitted_",
        labels: &["reason"],
    },
    Family {
        name: "sockredir_flows_refused_total",
        help: "Connections that were left alone, by reason. Where both ends have one, both are counted.",
        prefix: "refused_",
        labels: &["reason"],
    },
    Family {
        name: "sockredir_flows_tcp_only_total",
        help: "Connections that were observed and then left on TCP, by reason.",
        prefix: "tcp_only_",
        labels: &["reason"],
    },
    Family {
        name: "sockredir_drains_done_total",
        help: "Connections that were sent back to TCP and have arrived there.",
        prefix: "drain_done",
        labels: &[],
    },
    Family {
        name: "sockredir_flows_drained_total",
        help: "Accelerated connections that were sent back to TCP, by reason.",
        prefix: "drain_",
        labels: &["reason"],
    },
    Family {
        name: "sockredir_ends_left_total",
        help: "Ends that left the socket map and are plain TCP sockets again.",
        prefix: "ends_left",
        labels: &[],
    },
    Family {
        name: "sockredir_leave_postponed_total",
        help: "Attempts of ends to leave the socket map that were put off, by reason.",
        prefix: "leave_",
        labels: &["reason"],
    },
    Family {
        name: "sockredir_repeated_bytes_total",
        help: "Bytes that TCP delivered for the second time, and that were cut off.",
        prefix: "bytes_repeated",
        labels: &[],
    },
    Family {
        name: "sockredir_repeated_uncut_total",
        help: "Segments that TCP delivered for the second time, and that could not be cut off.",
        prefix: "repeated_uncut",
        labels: &[],
    },
    Family {
        name: "sockredir_messages_total",
        help: "Messages of ends in the socket map: redirected, through TCP, or dropped, and why.",
        prefix: "messages_",
        labels: &["path", "reason"],
    },
    Family {
        name: "sockredir_bytes_total",
        help: "Bytes of the messages of ends in the socket map: redirected, or through TCP.",
        prefix: "bytes_",
        labels: &["path"],
    },
    Family {
        name: "sockredir_decisions_dropped_total",
        help: "Lines of --log-decisions that were left out, because there were too many.",
        prefix: "decisions_dropped",
        labels: &[],
    },
    Family {
        name: "sockredir_flows_adopted_total",
        help: "Connections that were followed only after they had been established.",
        prefix: "adopted",
        labels: &[],
    },
    Family {
        name: "sockredir_adopt_postponed_total",
        help: "Looks at ends of established connections that could not be adopted then, by reason.",
        prefix: "adopt_",
        labels: &["reason"],
    },
    Family {
        name: "sockredir_resets_total",
        help: "Connections that sockredir has reset, by reason.",
        prefix: "resets_",
        labels: &["reason"],
    },
    Family {
        name: "sockredir_programs_known_total",
        help: "Programs that became known to read with recv only.",
        prefix: "programs_known",
        labels: &[],
    },
    Family {
        name: "sockredir_events_dropped_total",
        help: "Connections to reset and programs to look at that were left out, because there were too many at once.",
        prefix: "events_dropped",
        labels: &[],
    },
];

/// The text of a scrape. Every counter has a sample, including those at 0.
pub fn text(status: &Status) -> Result<String> {
    let registry = Registry::new();
    add_instance(&registry, &status.instance)?;
    add_flows(&registry, &status.flows)?;
    add_maps(&registry, &status.maps)?;
    add_queues(&registry, &status.queues)?;
    add_adoption(&registry, &status.adoption)?;
    for family in &FAMILIES {
        add_family(&registry, family, &status.counters)?;
    }
    Ok(TextEncoder::new().encode_to_string(&registry.gather())?)
}

fn add_instance(registry: &Registry, instance: &Instance) -> Result<()> {
    let build = Opts::new(
        "sockredir_build_info",
        "The version of sockredir and the release of the kernel, as labels of 1.",
    );
    let build = build
        .const_label("version", &instance.version)
        .const_label("kernel", &instance.kernel);
    add_gauge(registry, build, 1.0)?;
    let start = Opts::new(
        "sockredir_start_time_seconds",
        "When the instance was started, as Unix time.",
    );
    add_gauge(registry, start, instance.started_at as f64)?;
    let stopping = Opts::new(
        "sockredir_stopping",
        "1 if the instance was told to stop and waits for its connections to drain, else 0.",
    );
    add_gauge(registry, stopping, f64::from(u8::from(instance.stopping)))
}

fn add_flows(registry: &Registry, flows: &FlowsByState) -> Result<()> {
    let number = |state| match state {
        FlowState::Admitted => flows.admitted,
        FlowState::Observed => flows.observed,
        FlowState::Draining => flows.draining,
        FlowState::TcpOnly => flows.tcp_only,
    };
    let opts = Opts::new("sockredir_flows", "Connections that are followed now, by state.");
    let samples = FlowState::ALL.map(|state| (state.name(), number(state)));
    add_gauges(registry, opts, "state", &samples)
}

fn add_maps(registry: &Registry, maps: &Maps) -> Result<()> {
    let maps = [
        ("ends", maps.ends),
        ("flows", maps.flows),
        ("listeners", maps.listeners),
        ("programs", maps.programs),
        ("services", maps.services),
    ];
    let used = Opts::new("sockredir_map_entries", "Entries in the maps of the datapath.");
    add_gauges(registry, used, "map", &maps.map(|(name, fill)| (name, fill.used)))?;
    let most = Opts::new(
        "sockredir_map_max_entries",
        "The most entries that the maps of the datapath take.",
    );
    add_gauges(registry, most, "map", &maps.map(|(name, fill)| (name, fill.most)))
}

fn add_queues(registry: &Registry, queues: &Queues) -> Result<()> {
    let bytes = Opts::new(
        "sockredir_queue_bytes",
        "Bytes that were redirected or received and not read yet, of all ends in the socket map.",
    );
    add_gauge(registry, bytes, queues.bytes as f64)?;
    let ends = Opts::new(
        "sockredir_queue_ends",
        "Ends in the socket map with something unread.",
    );
    add_gauge(registry, ends, queues.ends as f64)
}

fn add_adoption(registry: &Registry, adoption: &Adoption) -> Result<()> {
    let scans = Opts::new(
        "sockredir_adopt_scans",
        "Scans for established connections that may be adopted, since the start.",
    );
    add_gauge(registry, scans, adoption.scans as f64)?;
    let last = Opts::new(
        "sockredir_adopt_last_scan_seconds",
        "How long the last scan for established connections took.",
    );
    add_gauge(registry, last, adoption.last_scan_seconds)
}

fn add_gauge(registry: &Registry, opts: Opts, value: f64) -> Result<()> {
    let gauge = Gauge::with_opts(opts)?;
    gauge.set(value);
    Ok(registry.register(Box::new(gauge))?)
}

/// One sample per value of the label.
fn add_gauges(registry: &Registry, opts: Opts, label: &str, samples: &[(&str, u64)]) -> Result<()> {
    let gauges = GaugeVec::new(opts, &[label])?;
    for (name, value) in samples {
        gauges.get_metric_with_label_values(&[name])?.set(*value as f64);
    }
    Ok(registry.register(Box::new(gauges))?)
}

fn add_family(registry: &Registry, family: &Family, counters: &Counters) -> Result<()> {
    let metric = IntCounterVec::new(Opts::new(family.name, family.help), family.labels)?;
    for (counter, value) in counters.all().filter(|(name, _)| family.has(name)) {
        let labels: Vec<_> = family
            .labels
            .iter()
            .map(|label| label_of(counter, label))
            .collect();
        metric.get_metric_with_label_values(&labels)?.inc_by(value);
    }
    Ok(registry.register(Box::new(metric))?)
}

impl Family {
    fn has(&self, counter: &str) -> bool {
        let first = FAMILIES.iter().find(|family| counter.starts_with(family.prefix));
        first.is_some_and(|first| first.name == self.name)
    }
}

fn label_of<'a>(counter: &'a str, label: &str) -> &'a str {
    match (label, counter) {
        ("path", "messages_redirected" | "bytes_redirected") => "redirected",
        ("path", "messages_dropped") => "dropped",
        ("path", _) => "tcp",
        _ => counter,
    }
}

/// A status in which every figure is distinct.
#[cfg(test)]
pub fn sample() -> Status {
    use crate::model::document::{FORMAT, Fill, Since};
    use crate::model::reasons::{NOT_FOLLOWED, REASONS};
    use crate::model::samples::instance;

    let fill = |used| Fill {
        used,
        most: used + 1000,
    };
    let names: Vec<_> = REASONS.iter().map(|reason| reason.name.to_owned()).collect();
    let names = names
        .into_iter()
        .filter(|name| name != NOT_FOLLOWED)
        .collect::<Vec<_>>();
    let counters = Counters::new(&names, (1..=names.len() as u64).collect());
    Status {
        format: FORMAT,
        instance: Instance {
            stopping: true,
            ..instance()
        },
        flows: FlowsByState {
            observed: 101,
            admitted: 102,
            draining: 103,
            tcp_only: 104,
        },
        maps: Maps {
            ends: fill(201),
            flows: fill(202),
            services: fill(203),
            listeners: fill(204),
            programs: fill(205),
        },
        queues: Queues {
            bytes: 301,
            ends: 302,
        },
        adoption: Adoption {
            mode: "auto".to_owned(),
            scans: 401,
            scan_seconds: 1.5,
            last_scan_seconds: 0.25,
            shut_namespaces: 0,
        },
        since_last: Some(Since {
            seconds: 1.0,
            counters: counters.clone(),
        }),
        counters,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The samples of a text: what precedes the value, and the value.
    fn samples(text: &str) -> Vec<(&str, f64)> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(metric, value)| (metric, value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn every_counter_is_in_one_sample() {
        let status = sample();
        let text = text(&status).unwrap();
        let of_counters = samples(&text)
            .into_iter()
            .filter(|(metric, _)| metric.split('{').next().unwrap().ends_with("_total"));
        let mut values: Vec<_> = of_counters.map(|(_, value)| value as u64).collect();
        values.sort_unstable();
        let expected: Vec<_> = status.counters.all().map(|(_, value)| value).collect();
        assert_eq!(values, expected);
    }

    #[test]
    fn reasons_and_paths_are_labels() {
        let status = sample();
        let text = text(&status).unwrap();
        let samples = samples(&text);
        for (metric, counter) in [
            ("sockredir_ends_inserted_total", "ends_inserted"),
            (
                "sockredir_flows_admitted_total{reason=\"admitted_bulk\"}",
                "admitted_bulk",
            ),
            (
                "sockredir_flows_refused_total{reason=\"refused_port\"}",
                "refused_port",
            ),
            (
                "sockredir_flows_drained_total{reason=\"drain_no_gain\"}",
                "drain_no_gain",
            ),
            ("sockredir_drains_done_total", "drain_done"),
            (
                "sockredir_messages_total{path=\"redirected\",reason=\"messages_redirected\"}",
                "messages_redirected",
            ),
            (
                "sockredir_messages_total{path=\"tcp\",reason=\"messages_order\"}",
                "messages_order",
            ),
            (
                "sockredir_messages_total{path=\"dropped\",reason=\"messages_dropped\"}",
                "messages_dropped",
            ),
            ("sockredir_bytes_total{path=\"redirected\"}", "bytes_redirected"),
            ("sockredir_bytes_total{path=\"tcp\"}", "bytes_tcp"),
            ("sockredir_repeated_bytes_total", "bytes_repeated"),
        ] {
            let value = status.counters.named(counter) as f64;
            assert!(samples.contains(&(metric, value)), "{metric} {value}:\n{text}");
        }
    }

    #[test]
    fn what_is_there_now_has_gauges() {
        let text = text(&sample()).unwrap();
        let samples = samples(&text);
        for sample in [
            ("sockredir_build_info{kernel=\"6.18.44\",version=\"1.2.3\"}", 1.0),
            ("sockredir_start_time_seconds", 1.7e9),
            ("sockredir_stopping", 1.0),
            ("sockredir_flows{state=\"observed\"}", 101.0),
            ("sockredir_flows{state=\"admitted\"}", 102.0),
            ("sockredir_flows{state=\"draining\"}", 103.0),
            ("sockredir_flows{state=\"tcp-only\"}", 104.0),
            ("sockredir_map_entries{map=\"ends\"}", 201.0),
            ("sockredir_map_max_entries{map=\"listeners\"}", 1204.0),
            ("sockredir_map_entries{map=\"programs\"}", 205.0),
            ("sockredir_queue_bytes", 301.0),
            ("sockredir_queue_ends", 302.0),
            ("sockredir_adopt_scans", 401.0),
            ("sockredir_adopt_last_scan_seconds", 0.25),
        ] {
            assert!(samples.contains(&sample), "{sample:?}:\n{text}");
        }
    }

    #[test]
    fn a_counter_at_0_has_a_sample_too() {
        let mut status = sample();
        status.counters = status.counters.since(&status.counters);
        let zero = text(&status).unwrap();
        let metrics = |text: &str| -> BTreeSet<String> {
            samples(text)
                .iter()
                .map(|(metric, _)| (*metric).to_owned())
                .collect()
        };
        assert_eq!(metrics(&zero), metrics(&text(&sample()).unwrap()));
    }
}
