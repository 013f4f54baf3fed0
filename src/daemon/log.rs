//! `--log-decisions`: one line of JSON per decision.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::datapath::{Datapath, Decision};
use crate::model::counters::Counter;

/// Counts the decisions for which there was no room.
const DROPPED: Counter = Counter::of("decisions_dropped");

/// The log of an instance.
#[derive(Debug)]
pub struct DecisionLog {
    dropped: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    decision: &'static str,
    reason: &'a str,
    local: SocketAddr,
    remote: SocketAddr,
    netns: u64,
}

#[derive(Serialize)]
struct Dropped {
    decisions_dropped: u64,
}

impl DecisionLog {
    /// Starts after the decisions of the self-test, which are of no interest.
    pub fn begin(datapath: &Datapath<'_>) -> Result<Self> {
        datapath.decisions()?;
        Ok(Self { dropped: 0 })
    }

    /// The lines since the last call, plus one with the number of decisions dropped, if any.
    pub fn lines(&mut self, datapath: &Datapath<'_>) -> Result<String> {
        let mut text = String::new();
        for decision in datapath.decisions()? {
            text += &line(&decision)?;
        }
        let dropped = datapath.counters()?.value(DROPPED);
        if dropped > self.dropped {
            let more = Dropped {
                decisions_dropped: dropped - self.dropped,
            };
            text += &(serde_json::to_string(&more).context("failed to write a line of the log")? + "\n");
            self.dropped = dropped;
        }
        Ok(text)
    }
}

fn line(decision: &Decision) -> Result<String> {
    let line = Line {
        time: humantime::format_rfc3339_millis(decision.time).to_string(),
        decision: kind_of(&decision.reason),
        reason: &decision.reason,
        local: decision.local,
        remote: decision.remote,
        netns: decision.netns,
    };
    Ok(serde_json::to_string(&line).context("failed to write a line of the log")? + "\n")
}

/// The kind of decision that a counter stands for.
fn kind_of(reason: &str) -> &'static str {
    match reason {
        "ends_left" => "left",
        "drain_done" => "drained",
        "adopted" => "adopted",
        "resets_unread" | "resets_stranded" => "reset",
        _ if reason.starts_with("admitted_") => "admitted",
        _ if reason.starts_with("refused_") => "refused",
        _ if reason.starts_with("drain_") => "draining",
        _ => "tcp-only",
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_decision_is_one_line_of_json() {
        let decision = Decision {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1500),
            reason: "refused_blocking".to_owned(),
            netns: 1,
            local: "127.0.0.1:40000".parse().unwrap(),
            remote: "[::1]:80".parse().unwrap(),
        };
        assert_eq!(
            line(&decision).unwrap(),
            "{\"time\":\"1970-01-01T00:00:01.500Z\",\"decision\":\"refused\",\"reason\":\"refused_blocking\",\
             \"local\":\"127.0.0.1:40000\",\"remote\":\"[::1]:80\",\"netns\":1}\n"
        );
    }

    #[test]
    fn every_kind_of_decision_has_its_word() {
        let kinds = [
            "admitted_bulk",
            "refused_full",
            "tcp_only_closed",
            "drain_no_gain",
            "drain_done",
            "ends_left",
        ];
        assert_eq!(
            kinds.map(kind_of),
            ["admitted", "refused", "tcp-only", "draining", "drained", "left"]
        );
    }
}
