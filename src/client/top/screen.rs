//! Draws a view on a screen of any size.

use std::time::{Duration, UNIX_EPOCH};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph};

use super::display::{Display, HELP};
use super::rates::{Rate, Reason, Row, View};
use super::table::{Column, GAP, fit, ordered};
use crate::model::document::{FlowState, Instance};
use crate::model::text::{bytes, elide, folders, percent, seconds, short};

/// The least height at which the table of flows is shown: two flows below its titles.
const LEAST_FLOWS: u16 = 4;
/// The width of the rates, and of the states to their right if there is room.
const RATES_WIDTH: u16 = 46;
const STATES_WIDTH: u16 = 30;
/// Characters at the end of a cgroup's path that are always shown.
const LEAST_CGROUP: usize = 12;
/// A counter, two numbers and the gap to the next one.
const REASON_WIDTH: usize = 39;

pub fn draw(frame: &mut Frame<'_>, view: &View, display: &mut Display) {
    let area = frame.area();
    let heights = heights(area, view.reasons.len(), display.shows_help);
    let [head, traffic, reasons, flows, help] = Layout::vertical(heights).areas(area);
    draw_head(frame, head, &view.status.instance, display.is_paused);
    draw_traffic(frame, traffic, view);
    draw_reasons(frame, reasons, view);
    draw_flows(frame, flows, view, display);
    frame.render_widget(Line::from(HELP).reversed(), help);
}

/// Heights of the head, the traffic, the reasons, the flows and the help. The flows get what is left, and the reasons
/// shrink first.
fn heights(area: Rect, reasons: usize, shows_help: bool) -> [Constraint; 5] {
    let help = u16::from(shows_help);
    let head = 2;
    let traffic = if is_wide(area) { 5 } else { 8 };
    let left = area.height.saturating_sub(head + help + LEAST_FLOWS);
    let (traffic, left) = left.checked_sub(traffic).map_or((0, 0), |left| (traffic, left));
    let wanted = reasons.div_ceil(reason_columns(area.width)).max(1);
    let most = usize::from((area.height / 5).min(left.saturating_sub(1)));
    let reasons = match wanted.min(most) as u16 {
        0 => 0,
        lines => lines + 1,
    };
    [
        Constraint::Length(head),
        Constraint::Length(traffic),
        Constraint::Length(reasons),
        Constraint::Min(0),
        Constraint::Length(help),
    ]
}

fn is_wide(area: Rect) -> bool {
    area.width >= RATES_WIDTH + STATES_WIDTH
}

fn color_of(state: FlowState) -> Color {
    match state {
        FlowState::Admitted => Color::Green,
        FlowState::Observed => Color::Cyan,
        FlowState::Draining => Color::Yellow,
        FlowState::TcpOnly => Color::Magenta,
    }
}

fn section(title: impl Into<String>) -> Block<'static> {
    let title = Line::from(format!(" {} ", title.into())).style(Style::reset().bold());
    Block::new()
        .borders(Borders::TOP)
        .border_style(Style::new().dark_gray())
        .title(title)
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, instance: &Instance, is_paused: bool) {
    let first = first_line(instance, is_paused, usize::from(area.width));
    let lines = vec![first, Line::from(instance.policy())];
    frame.render_widget(Paragraph::new(lines), area);
}

fn first_line(instance: &Instance, is_paused: bool, width: usize) -> Line<'static> {
    const NAME: &str = "sockredir on ";
    let started = UNIX_EPOCH + Duration::from_secs(instance.started_at);
    let uptime = Duration::from_secs(instance.uptime_seconds.max(0.0) as u64);
    let times = format!(
        "  since {}, for {}",
        humantime::format_rfc3339_seconds(started),
        humantime::format_duration(uptime)
    );
    let state = match (instance.stopping, is_paused) {
        (true, true) => "  stopping, paused",
        (true, false) => "  stopping",
        (false, true) => "  paused",
        (false, false) => "",
    };
    let room = width.saturating_sub(NAME.len() + times.len() + state.len());
    let cgroup = elide(&folders(&instance.cgroups), room.max(LEAST_CGROUP), usize::MAX);
    Line::from(vec![
        NAME.bold(),
        cgroup.green().bold(),
        state.yellow().bold(),
        times.into(),
    ])
}

fn draw_traffic(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let block = section(match view.interval {
        Some(interval) => format!("traffic in the last {}", seconds(interval)),
        None => "traffic".to_owned(),
    });
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let layout = if is_wide(area) {
        Layout::horizontal([Constraint::Length(RATES_WIDTH), Constraint::Min(0)])
    } else {
        Layout::vertical([Constraint::Length(4), Constraint::Min(0)])
    };
    let [rates, states] = layout.areas(inside);
    frame.render_widget(Paragraph::new(rate_lines(view)), rates);
    frame.render_widget(Paragraph::new(state_lines(view)), states);
}

fn rate_lines(view: &View) -> Vec<Line<'static>> {
    let line = |name: &str, messages: &str, bytes: &str, share: &str| {
        Line::from(format!("{name:12}{messages:>11}{bytes:>13}{share:>8}"))
    };
    let titles = line("", "messages/s", "bytes/s", "share").bold();
    let Some(traffic) = view.traffic else {
        let names = ["redirected", "TCP, mapped", "TCP, other"];
        let lines = names.map(|name| line(name, "-", "-", "-"));
        return [titles].into_iter().chain(lines).collect();
    };
    let share = |bytes: f64| match traffic.bytes() {
        0.0 => "-".to_owned(),
        all => percent(bytes / all),
    };
    let row = |name, rate: Rate| {
        line(
            name,
            &short(rate.messages),
            &bytes(rate.bytes),
            &share(rate.bytes),
        )
    };
    let other = traffic.other_bytes;
    vec![
        titles,
        row("redirected", traffic.redirected).fg(color_of(FlowState::Admitted)),
        row("TCP, mapped", traffic.mapped),
        // Messages are counted for followed flows only.
        line("TCP, other", "-", &bytes(other), &share(other)),
    ]
}

/// The flows by state, and what is queued.
fn state_lines(view: &View) -> Vec<Line<'static>> {
    let state = |state: FlowState| {
        Span::from(format!("{:>6} {:9}", view.count(state), state.name())).fg(color_of(state))
    };
    let [admitted, observed, draining, tcp_only] = FlowState::ALL.map(state);
    let queues = &view.status.queues;
    let unread = format!("{:>9} unread at {} ends", bytes(queues.bytes as f64), queues.ends);
    vec![
        Line::from("   flows").bold(),
        Line::from(vec![admitted, observed]),
        Line::from(vec![draining, tcp_only]),
        Line::from(unread),
    ]
}

fn reason_columns(width: u16) -> usize {
    // The last column needs no gap behind it.
    ((usize::from(width) + 3) / REASON_WIDTH).max(1)
}

fn draw_reasons(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let lines = usize::from(area.height.saturating_sub(1));
    let columns = reason_columns(area.width);
    let shown = chosen(&view.reasons, lines * columns);
    let mut title = match view.interval {
        Some(interval) => format!("reasons in the last {}, and since the start", seconds(interval)),
        None => "reasons since the start".to_owned(),
    };
    if shown.len() < view.reasons.len() {
        title += &format!(" ({} more)", view.reasons.len() - shown.len());
    }
    let block = section(title);
    let inside = block.inner(area);
    frame.render_widget(block, area);
    if shown.is_empty() {
        frame.render_widget(Line::from("none yet"), inside);
        return;
    }
    let per_column = shown.len().div_ceil(columns);
    let widths = vec![Constraint::Length(REASON_WIDTH as u16); columns];
    let areas = Layout::horizontal(widths).split(inside);
    for (reasons, area) in shown.chunks(per_column).zip(areas.iter()) {
        let lines: Vec<_> = reasons.iter().map(|reason| reason_line(reason)).collect();
        frame.render_widget(Paragraph::new(lines), *area);
    }
}

fn reason_line(reason: &Reason) -> Line<'static> {
    let recent = reason
        .recent
        .map_or_else(|| "-".to_owned(), |recent| short(recent as f64));
    let total = short(reason.total as f64);
    let line = Line::from(format!("{:24}{recent:>6}{total:>6}", reason.name));
    match reason.recent {
        Some(0) => line.dark_gray(),
        _ => line,
    }
}

/// At most this many reasons in their order, preferring those of the last interval, and then the most frequent.
fn chosen(reasons: &[Reason], most: usize) -> Vec<&Reason> {
    let mut places: Vec<usize> = (0..reasons.len()).collect();
    places.sort_by_key(|place| {
        let Reason { recent, total, .. } = &reasons[*place];
        std::cmp::Reverse((recent.unwrap_or(0), *total))
    });
    places.truncate(most);
    places.sort_unstable();
    places.into_iter().map(|place| &reasons[place]).collect()
}

fn draw_flows(frame: &mut Frame<'_>, area: Rect, view: &View, display: &mut Display) {
    let rows = ordered(&view.rows, display.order, display.is_reversed);
    display.page = usize::from(area.height.saturating_sub(2)).max(1);
    display.first = display.first.min(rows.len().saturating_sub(display.page));
    let shown = rows.iter().skip(display.first).take(display.page);
    let columns = fit(usize::from(area.width), &view.rows);

    let block = section(flows_title(rows.len(), display));
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let titles = columns
        .iter()
        .map(|(column, width)| column.align(column.title(), *width));
    let titles = Line::from(titles.collect::<Vec<_>>().join(&" ".repeat(GAP))).bold();
    let lines = shown.map(|row| flow_line(row, &columns));
    let lines: Vec<_> = [titles].into_iter().chain(lines).collect();
    frame.render_widget(Paragraph::new(lines), inside);
}

fn flows_title(count: usize, display: &Display) -> String {
    let order = display.order.name();
    let reversed = if display.is_reversed { " reversed" } else { "" };
    let help = if display.shows_help { "" } else { ", h for help" };
    match count {
        0 => format!("flows: none{help}"),
        _ => {
            let last = count.min(display.first + display.page);
            format!(
                "flows: {}-{last} of {count} by {order}{reversed}{help}",
                display.first + 1
            )
        }
    }
}

fn flow_line(row: &Row, columns: &[(Column, usize)]) -> Line<'static> {
    let mut line = Line::default();
    for (column, width) in columns {
        if !line.spans.is_empty() {
            line.push_span(" ".repeat(GAP));
        }
        let cell = Span::from(column.cell(row, *width));
        line.push_span(match column {
            Column::State | Column::Reason => cell.fg(color_of(row.flow.state)),
            _ => cell,
        });
    }
    line
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::client::top::samples::many;

    /// The contents of a screen of this size.
    fn shown(view: &View, display: &mut Display, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view, display)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = buffer.content().chunks(usize::from(width).max(1));
        lines
            .map(|cells| cells.iter().map(|cell| cell.symbol()).collect::<String>() + "\n")
            .collect()
    }

    #[test]
    fn a_usual_terminal_shows_everything() {
        for (width, height) in [(80, 24), (120, 40)] {
            let text = shown(&many(100), &mut Display::default(), width, height);
            for part in [
                "sockredir on /sys/fs/cgroup/demo.slice",
                "for 1m 1s",
                "non-blocking programs, all ports but 22",
                "traffic in the last 2.0 s",
                "redirected          100      10.0 kB",
                "100 admitted",
                "0 tcp-only",
                "1.23 MB unread at 3 ends",
                "refused_blocking             2     7",
                "by rate",
                "admitted admitted_request_response",
                "49.5k",
            ] {
                assert!(text.contains(part), "{part} is not in {width}x{height}:\n{text}");
            }
        }
    }

    #[test]
    fn any_size_can_be_drawn() {
        let views = [many(0), many(1), many(300)];
        for width in [0, 1, 2, 7, 20, 39, 46, 76, 200] {
            for height in (0..20).chain([50, 100]) {
                for view in &views {
                    let mut display = Display {
                        shows_help: height % 2 == 1,
                        ..Display::default()
                    };
                    shown(view, &mut display, width, height);
                }
            }
        }
    }

    #[test]
    fn small_screens_keep_the_flows() {
        let text = shown(&many(9), &mut Display::default(), 40, 8);
        assert!(text.contains("flows: 1-4 of 9"), "{text}");
        assert!(!text.contains("reasons"), "{text}");
    }

    #[test]
    fn scrolling_ends_at_the_last_flow() {
        let view = many(30);
        let mut display = Display {
            first: 1_000,
            ..Display::default()
        };
        let text = shown(&view, &mut display, 80, 24);
        assert_eq!(display.first + display.page, 30);
        assert!(text.contains("-30 of 30 by rate"), "{text}");
        let mut display = Display {
            first: 5,
            ..Display::default()
        };
        shown(&many(2), &mut display, 80, 24);
        assert_eq!(display.first, 0);
    }

    #[test]
    fn pause_and_help_are_shown() {
        let mut display = Display {
            is_paused: true,
            shows_help: true,
            ..Display::default()
        };
        let text = shown(&many(1), &mut display, 72, 24);
        for part in ["on …/demo.slice  paused  since", "for 1m 1s", "q quit"] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
}
