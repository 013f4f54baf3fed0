//! A view as text, for output that is not a screen.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use super::rates::View;
use super::table::{Column, GAP, Order, fit, ordered};
use crate::model::document::FlowState;
use crate::model::text::{bytes, percent, short};

/// How many flows are printed: those with the highest rates.
const FLOWS: usize = 10;

/// A status line, the flows with the highest rates below their titles, and an empty line.
pub fn text(view: &View) -> String {
    let mut text = status_line(view);
    let columns = fit(usize::MAX, &view.rows);
    let titles = |(column, width): &(Column, usize)| column.align(column.title(), *width);
    let mut line = |cells: Vec<String>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", cells.join(&" ".repeat(GAP)).trim_end());
    };
    if !view.rows.is_empty() {
        line(columns.iter().map(titles).collect());
    }
    for row in ordered(&view.rows, Order::Rate, false).into_iter().take(FLOWS) {
        line(
            columns
                .iter()
                .map(|(column, width)| column.cell(row, *width))
                .collect(),
        );
    }
    text.push('\n');
    text
}

fn status_line(view: &View) -> String {
    let instance = &view.status.instance;
    let now = instance.started_at as f64 + instance.uptime_seconds.max(0.0);
    let now = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(now as u64));
    let mut text = format!("{now}");
    if let Some(traffic) = view.traffic {
        let share = match traffic.bytes() {
            0.0 => 0.0,
            all => traffic.redirected.bytes / all,
        };
        text += &format!(
            " redirected {} messages/s, {}/s, {} of all bytes; TCP {} messages/s of mapped ends, {}/s;",
            short(traffic.redirected.messages),
            bytes(traffic.redirected.bytes),
            percent(share),
            short(traffic.mapped.messages),
            bytes(traffic.mapped.bytes + traffic.other_bytes),
        );
    }
    let states = FlowState::ALL.map(|state| format!("{} {state}", view.count(state)));
    let queues = &view.status.queues;
    let unread = bytes(queues.bytes as f64);
    text + &format!(
        " flows {}; {unread} unread at {} ends\n",
        states.join(", "),
        queues.ends
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::top::samples::many;

    #[test]
    fn without_a_screen_there_is_a_line_of_status_and_the_ten_fastest_flows() {
        let text = text(&many(30));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 13, "{text}");
        assert!(
            lines[0].starts_with("2023-11-14T22:14:21Z ")
                && lines[0].contains("redirected 100 messages/s, 10.0 kB/s, 97.6 % of all bytes"),
            "{text}"
        );
        assert!(lines[1].starts_with("state"), "{text}");
        assert!(lines[2].contains("14.5k"), "{text}");
        assert_eq!(lines[12], "");
    }
}
