//! `sockredir status`: the running instance and its totals.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::ask;
use crate::cli::StatusArgs;
use crate::model::counters::{Counter, Counters};
use crate::model::document::{Adoption, Fill, Since, Status};
use crate::model::output::print;
use crate::model::text::{bytes, columns, folders, short};

/// Prints it once. Fails if the instance cannot be asked.
pub fn status(args: &StatusArgs) -> Result<ExitCode> {
    let status = ask::status(args.cgroup.as_deref())?;
    let text = if args.json {
        serde_json::to_string(&status)? + "\n"
    } else {
        text(&status)
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn text(status: &Status) -> String {
    let instance = &status.instance;
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(instance.started_at);
    let mut rows = vec![
        row(
            "instance",
            format!(
                "sockredir {}, process {}, Linux {}",
                instance.version, instance.pid, instance.kernel
            ),
        ),
        row("cgroup", folders(&instance.cgroups)),
        row(
            "since",
            format!(
                "{}, {}{}",
                humantime::format_rfc3339_seconds(started),
                lasting(instance.uptime_seconds),
                if instance.stopping {
                    ", and is stopping"
                } else {
                    ""
                }
            ),
        ),
        row("admits", instance.policy()),
        row(
            "flows",
            format!(
                "{} admitted, {} observed, {} draining, {} on TCP",
                status.flows.admitted, status.flows.observed, status.flows.draining, status.flows.tcp_only
            ),
        ),
        row(
            "queues",
            format!(
                "{} unread, in {} queues",
                bytes(status.queues.bytes as f64),
                status.queues.ends
            ),
        ),
        row(
            "maps",
            format!(
                "{} flows, {} ends, {} services, {} listeners, {} programs",
                fill(status.maps.flows),
                fill(status.maps.ends),
                fill(status.maps.services),
                fill(status.maps.listeners),
                fill(status.maps.programs)
            ),
        ),
        row("adopts", adoption(&status.adoption, &status.counters)),
        row("total", paths(&status.counters, None)),
    ];
    if let Some(since) = &status.since_last {
        rows.push(row("rates", rates(since)));
    }
    format!("{}\n{}", columns(&rows), counters(status))
}

fn adoption(adoption: &Adoption, counters: &Counters) -> String {
    let shut = match adoption.shut_namespaces {
        0 => String::new(),
        shut => format!("; {shut} other network namespaces could not be entered"),
    };
    format!(
        "{}: {} connections, in {} scans of {:.1} ms in all, the last one of {:.1} ms{shut}",
        adoption.mode,
        counters.value(const { Counter::of("adopted") }),
        adoption.scans,
        adoption.scan_seconds * 1000.0,
        adoption.last_scan_seconds * 1000.0
    )
}

fn row(name: &str, text: String) -> Vec<String> {
    vec![name.to_owned(), text]
}

fn fill(fill: Fill) -> String {
    format!("{} of {}", fill.used, fill.most)
}

/// The traffic by path: totals, or rates if a time is given.
fn paths(counters: &Counters, seconds: Option<f64>) -> String {
    let per = seconds.map_or("", |_| "/s");
    let amount = |value: u64| value as f64 / seconds.unwrap_or(1.0);
    format!(
        "{} messages{per} and {}{per} redirected, {} messages{per} and {}{per} over TCP",
        short(amount(
            counters.value(const { Counter::of("messages_redirected") })
        )),
        bytes(amount(counters.value(const { Counter::of("bytes_redirected") }))),
        short(amount(counters.messages_over_tcp())),
        bytes(amount(counters.value(const { Counter::of("bytes_tcp") })))
    )
}

/// As in 2h 13m 5s.
fn lasting(seconds: f64) -> impl std::fmt::Display {
    humantime::format_duration(Duration::from_secs(seconds as u64))
}

fn rates(since: &Since) -> String {
    let seconds = since.seconds.max(0.001);
    format!(
        "{}, in the {} since the last call",
        paths(&since.counters, Some(seconds)),
        lasting(seconds)
    )
}

/// The counters, with their increase since the last call.
fn counters(status: &Status) -> String {
    let since = status.since_last.as_ref();
    let rows: Vec<_> = status
        .counters
        .counted()
        .map(|(name, value)| {
            let more = since.map_or(0, |since| since.counters.named(name));
            let more = if more > 0 {
                format!("+{more}")
            } else {
                String::new()
            };
            vec![name.to_owned(), value.to_string(), more]
        })
        .collect();
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::document::{Instance, Maps, Queues};
    use crate::model::samples::instance;

    fn counters(redirected: u64, tcp: u64) -> Counters {
        let names = [
            "messages_redirected",
            "bytes_redirected",
            "bytes_tcp",
            "messages_order",
            "refused_port",
        ];
        Counters::new(
            &names.map(str::to_owned),
            vec![redirected, redirected * 100, tcp * 100, tcp, 0],
        )
    }

    fn status() -> Status {
        Status {
            format: 1,
            instance: Instance {
                uptime_seconds: 7980.0,
                ..instance()
            },
            flows: Default::default(),
            maps: Maps::default(),
            queues: Queues { bytes: 5000, ends: 2 },
            adoption: Adoption {
                mode: "auto".to_owned(),
                scans: 3,
                scan_seconds: 0.025,
                last_scan_seconds: 0.0081,
                shut_namespaces: 2,
            },
            counters: counters(3000, 20),
            since_last: None,
        }
    }

    #[test]
    fn it_says_what_runs_and_what_was_counted() {
        let text = text(&status());
        for part in [
            "instance  sockredir 1.2.3, process 4711, Linux 6.18.44\n",
            "since     2023-11-14T22:13:20Z, 2h 13m\n",
            "admits    connections over loopback, non-blocking programs, all ports but 22, not docker-proxy\n",
            "queues    5.00 kB unread, in 2 queues\n",
            "adopts    auto: 0 connections, in 3 scans of 25.0 ms in all, the last one of 8.1 ms; 2 other network \
             namespaces could not be entered\n",
            "total     3.00k messages and 300 kB redirected, 20 messages and 2.00 kB over TCP\n",
            "messages_redirected  3000\n",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(
            !text.contains("rates") && !text.contains("refused_port"),
            "{text}"
        );
    }

    #[test]
    fn from_the_second_call_on_it_has_rates() {
        let mut status = status();
        status.since_last = Some(Since {
            seconds: 10.0,
            counters: counters(500, 10),
        });
        let text = text(&status);
        let rates = "rates     50 messages/s and 5.00 kB/s redirected, 1 messages/s and 100 B/s over TCP, in the 10s since";
        assert!(text.contains(rates), "{text}");
        assert!(text.contains("messages_redirected  3000    +500\n"), "{text}");
    }
}
