//! Charts of the results in one SVG: bars that show how many times better than plain TCP a column is.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::cases::{Cores, Network, Programs, Workload, bytes};
use super::figures::Figure;
use super::report::{Report, Row};
use super::statistics::{Spread, Verdict};

/// The size of a slide, in pixels.
const SIZE: (u32, u32) = (1600, 1000);
const HEAD: u32 = 120;
const MARGIN: i32 = 40;
const FONT: &str = "sans-serif";

const INK: RGBColor = RGBColor(30, 41, 59);
const PALE: RGBColor = RGBColor(100, 116, 139);
const GRID: RGBColor = RGBColor(226, 232, 240);
const UNIX: RGBColor = RGBColor(148, 163, 184);
const ACCELERATED: RGBColor = RGBColor(234, 88, 12);

/// The approximate width of a letter in the legend.
const LETTER: i32 = 10;
/// The width of a bar; a group is 1 wide.
const WIDTH: f64 = 0.36;
/// With more groups than this there is room for short labels only.
const CROWDED: usize = 9;

type Failure = Box<dyn std::error::Error>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The bars of one row, and the labels below them.
struct Group {
    labels: Vec<String>,
    /// Of the Unix socket and of the accelerator.
    bars: [Option<Bar>; 2],
}

struct Bar {
    ratio: Spread,
    is_noisy: bool,
}

struct Panel {
    title: &'static str,
    groups: Vec<Group>,
}

pub fn draw(report: &Report) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        draw_on(&root, report).map_err(|error| anyhow!("failed to draw the charts: {error}"))?;
    }
    Ok(text)
}

fn draw_on(root: &Area<'_>, report: &Report) -> Result<(), Failure> {
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(HEAD);
    draw_head(&head, report)?;
    let panels = panels(report);
    let columns = if panels.len() > 1 { 2 } else { 1 };
    let places = body.split_evenly((panels.len().div_ceil(columns).max(1), columns));
    for (panel, place) in panels.iter().zip(&places) {
        draw_panel(place, panel)?;
    }
    root.present()?;
    Ok(())
}

fn style(size: u32, color: RGBColor, horizontal: HPos) -> TextStyle<'static> {
    (FONT, size)
        .into_font()
        .color(&color)
        .pos(Pos::new(horizontal, VPos::Top))
}

fn draw_head(area: &Area<'_>, report: &Report) -> Result<(), Failure> {
    let name = &report.columns[2];
    let title = format!("Local TCP with {name}: times as good as plain TCP");
    area.draw(&Text::new(title, (MARGIN, 22), style(32, INK, HPos::Left)))?;
    let host = &report.host;
    let kind = if host.is_virtual { "virtual machine, " } else { "" };
    let line = format!(
        "{}, {} processors, {kind}Linux {}. Medians of {} rounds; lines: quartiles; pale: too noisy to tell. Higher is better.",
        host.cpu, host.cpus, host.kernel, report.rounds
    );
    area.draw(&Text::new(line, (MARGIN, 70), style(17, PALE, HPos::Left)))?;
    draw_legend(area, name)
}

/// Drawn from right to left, since the text ends at the margin.
fn draw_legend(area: &Area<'_>, name: &str) -> Result<(), Failure> {
    const TOP: i32 = 70;
    let mut right = SIZE.0 as i32 - MARGIN;
    for (name, color, thickness) in [
        (name, ACCELERATED, 16),
        ("Unix socket", UNIX, 16),
        ("plain TCP", INK, 2),
    ] {
        let left = right - LETTER * name.len() as i32;
        area.draw(&Text::new(
            name.to_owned(),
            (left, TOP),
            style(18, INK, HPos::Left),
        ))?;
        let middle = TOP + 10;
        let (top, bottom) = (middle - thickness / 2, middle + thickness / 2);
        area.draw(&Rectangle::new(
            [(left - 24, top), (left - 8, bottom)],
            color.filled(),
        ))?;
        right = left - 50;
    }
    Ok(())
}

fn draw_panel(area: &Area<'_>, panel: &Panel) -> Result<(), Failure> {
    let bars = || panel.groups.iter().flat_map(|group| group.bars.iter().flatten());
    let highest = bars().map(|bar| bar.ratio.median).fold(1.0, f64::max);
    // Leaves room for the label of the highest bar. The quartiles of a noisy bar are cut off.
    let top = highest * 1.25;
    let count = panel.groups.len() as f64;
    let lines = panel.groups.iter().map(|group| group.labels.len()).max();
    let mut chart = ChartBuilder::on(area)
        .margin_left(MARGIN - 10)
        .margin_right(20)
        .margin_bottom(20)
        .caption(panel.title, style(22, INK, HPos::Center))
        .x_label_area_size(lines.unwrap_or_default() as u32 * 20 + 6)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..count, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(WHITE)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .y_labels(6)
        .y_label_formatter(&|value| format!("{value:.1}"))
        .y_label_style(style(15, PALE, HPos::Right))
        .draw()?;
    for (place, group) in panel.groups.iter().enumerate() {
        let middle = place as f64 + 0.5;
        for (bar, offset, color) in group.bars_with_places() {
            let (left, right) = (middle + offset, middle + offset + WIDTH);
            let fill = color.mix(if bar.is_noisy { 0.35 } else { 1.0 }).filled();
            chart.draw_series([Rectangle::new([(left, 0.0), (right, bar.ratio.median)], fill)])?;
        }
        for (number, label) in group.labels.iter().enumerate() {
            let (size, color) = if number == 0 { (15, INK) } else { (14, PALE) };
            let below = (0, 8 + 20 * number as i32);
            chart.draw_series([EmptyElement::at((middle, 0.0))
                + Text::new(label.clone(), below, style(size, color, HPos::Center))])?;
        }
    }
    let plain = [(0.0, 1.0), (count, 1.0)];
    chart.draw_series([PathElement::new(plain, INK.stroke_width(2))])?;
    // Last, with texts after what they overlap, so that nothing hides a text.
    let is_crowded = panel.groups.len() > CROWDED;
    let labels: Vec<_> = panel
        .groups
        .iter()
        .enumerate()
        .flat_map(|(place, group)| group.bars_with_places().map(move |bar| (place, bar)))
        .map(|(place, (bar, offset, _))| {
            let center = place as f64 + 0.5 + offset + WIDTH / 2.0;
            let above = bar.ratio.q3.max(bar.ratio.median).min(top * 0.9);
            (center, above, bar.label(is_crowded), bar.ratio.q1)
        })
        .collect();
    chart.draw_series(labels.iter().map(|(center, above, label, _)| {
        let half = 4 * label.len() as i32;
        EmptyElement::at((*center, *above))
            + Rectangle::new([(-half, -18), (half, -4)], WHITE.mix(0.8).filled())
    }))?;
    for (center, above, label, q1) in labels {
        chart.draw_series([PathElement::new([(center, q1), (center, above)], INK)])?;
        chart.draw_series([
            EmptyElement::at((center, above)) + Text::new(label, (0, -18), style(13, INK, HPos::Center))
        ])?;
    }
    Ok(())
}

impl Bar {
    /// Its height, with a mark if it is meaningless and there is room.
    fn label(&self, is_crowded: bool) -> String {
        let median = self.ratio.median;
        match (is_crowded, self.is_noisy) {
            (true, _) => format!("{median:.1}"),
            (false, true) => format!("{median:.2}?"),
            (false, false) => format!("{median:.2}"),
        }
    }
}

impl Group {
    /// Each bar with its offset from the middle of the group, and its colour.
    fn bars_with_places(&self) -> impl Iterator<Item = (&Bar, f64, RGBColor)> {
        let places = [(-WIDTH - 0.02, UNIX), (0.02, ACCELERATED)];
        let bars = self.bars.iter().zip(places);
        bars.filter_map(|(bar, (offset, color))| Some((bar.as_ref()?, offset, color)))
    }
}

/// The panels with at least one row.
fn panels(report: &Report) -> Vec<Panel> {
    let one = |row: &&Row| row.case.connections == 1 && row.case.cores == Cores::Two;
    let is = |row: &&Row, workload| row.case.workload == workload;
    let usual = || {
        report
            .rows
            .iter()
            .filter(|row| row.case.programs == Programs::Nonblocking && row.case.network == Network::Loopback)
    };
    let speed = |row| group(report, row, false);
    let cpu = |row| group(report, row, true);
    let panels = [
        Panel {
            title: "Speed: request and response on one connection (below: p50 of plain TCP)",
            groups: usual()
                .filter(|row| one(row) && is(row, Workload::RequestResponse))
                .map(speed)
                .collect(),
        },
        Panel {
            title: "Speed: streams from the moment of connection (below: plain TCP)",
            groups: usual()
                .filter(|row| one(row) && is(row, Workload::Stream))
                .map(speed)
                .collect(),
        },
        Panel {
            title: "Speed: short connections, many connections, one core (below: plain TCP)",
            groups: usual()
                .filter(|row| {
                    is(row, Workload::RequestResponse) && !one(row)
                        || matches!(row.case.workload, Workload::Short { .. })
                })
                .map(speed)
                .collect(),
        },
        Panel {
            title: "Work for the same CPU time (below: plain TCP, for a request or a byte)",
            groups: usual()
                .filter(|row| {
                    one(row) && !matches!(row.case.workload, Workload::Short { .. } | Workload::Stopped)
                })
                .map(cpu)
                .collect(),
        },
    ];
    panels
        .into_iter()
        .filter(|panel| !panel.groups.is_empty())
        .collect()
}

/// The bars of a row, by speed or by CPU time.
fn group(report: &Report, row: &Row, of_cpu: bool) -> Group {
    let bar = |name: &String| {
        let column = row.columns.get(name)?;
        let (ratio, verdict) = if of_cpu {
            (column.cpu_ratio, column.cpu_verdict)
        } else {
            (column.ratio, column.verdict)
        };
        Some(Bar {
            ratio: ratio?,
            is_noisy: verdict == Some(Verdict::Noisy),
        })
    };
    let [_, unix, accelerated] = &report.columns;
    let mut labels = vec![size_of_row(row)];
    labels.extend(nature(row, of_cpu));
    labels.extend(plain(report, row, of_cpu));
    Group {
        labels,
        bars: [bar(unix), bar(accelerated)],
    }
}

fn size_of_row(row: &Row) -> String {
    match row.case.workload {
        Workload::Short { round_trips: 1 } => "1 request".to_owned(),
        Workload::Short { round_trips } => format!("{round_trips} requests"),
        _ => bytes(row.case.size),
    }
}

fn nature(row: &Row, of_cpu: bool) -> Option<String> {
    match row.case.workload {
        Workload::Short { .. } => Some("and close".to_owned()),
        Workload::Stream if of_cpu => Some("stream".to_owned()),
        Workload::RequestResponse if of_cpu => Some("request".to_owned()),
        _ if row.case.connections > 1 => Some(format!("x {}", row.case.connections)),
        _ if row.case.cores == Cores::Same => Some("one core".to_owned()),
        _ => None,
    }
}

/// The figure of plain TCP, which makes the ratios absolute.
fn plain(report: &Report, row: &Row, of_cpu: bool) -> Option<String> {
    let median = &row.columns.get(&report.columns[0])?.median;
    let is_stream = row.case.workload == Workload::Stream;
    if of_cpu {
        return Some(if is_stream {
            format!("{:.2} ns", median.get(Figure::CpuNsPerByte)?)
        } else {
            format!("{:.0} us", median.get(Figure::CpuUsPerOperation)?)
        });
    }
    Some(if is_stream {
        format!("{:.2} GB/s", median.get(Figure::BytesPerSecond)? / 1e9)
    } else if row.case.connections == 1 && row.case.cores == Cores::Two {
        format!("{:.0} us", median.get(Figure::P50Us)?)
    } else {
        format!("{:.0} k/s", median.get(Figure::OperationsPerSecond)? / 1e3)
    })
}
