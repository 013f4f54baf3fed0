//! The table of flows: its columns, which of them give way when space is short, and the order of its rows.

use std::cmp::Ordering;

use super::rates::{FlowRates, Row};
use crate::model::document::{End, Process};
use crate::model::text::{age, elide, short};

/// From left to right.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Column {
    State,
    Reason,
    Client,
    From,
    To,
    Server,
    Netns,
    Redirected,
    Tcp,
    Messages,
    Queue,
    Age,
}

/// In the order in which columns are given space.
const IMPORTANCE: [Column; 12] = [
    Column::State,
    Column::Redirected,
    Column::Tcp,
    Column::To,
    Column::Reason,
    Column::Client,
    Column::Netns,
    Column::Server,
    Column::From,
    Column::Messages,
    Column::Queue,
    Column::Age,
];

/// The blanks between two columns.
pub const GAP: usize = 1;

impl Column {
    pub fn title(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Reason => "reason",
            Self::Client => "client",
            Self::From => "from",
            Self::To => "to",
            Self::Server => "server",
            Self::Netns => "netns",
            Self::Redirected => "redir/s",
            Self::Tcp => "TCP/s",
            Self::Messages => "msg/s",
            Self::Queue => "queue",
            Self::Age => "age",
        }
    }

    pub fn is_number(self) -> bool {
        self >= Self::Redirected
    }

    /// The least useful width, and the width beyond which other columns come first.
    fn widths(self) -> (usize, usize) {
        match self {
            Self::State => (8, 8),
            // the longest is admitted_request_response
            Self::Reason => (16, 25),
            Self::Client | Self::Server => (10, 16),
            // 127.0.0.1 and a port
            Self::From => (6, 15),
            Self::To => (9, 15),
            Self::Redirected => (7, 7),
            Self::Netns | Self::Tcp | Self::Messages | Self::Queue | Self::Age => (5, 5),
        }
    }

    pub fn text(self, row: &Row) -> String {
        let flow = &row.flow;
        let rate = |part: fn(FlowRates) -> Option<f64>| number(row.rates.and_then(part));
        match self {
            Self::State => flow.state.name().to_owned(),
            Self::Reason => flow.reason.clone(),
            Self::Client => processes(&flow.client.processes),
            Self::From if flow.client.address == flow.server.address => format!(":{}", flow.client.port),
            Self::From => address(&flow.client),
            Self::To => address(&flow.server),
            Self::Server => processes(&flow.server.processes),
            Self::Netns => netns(&flow.client, &flow.server),
            Self::Redirected => rate(|rates| Some(rates.redirected_bytes)),
            Self::Tcp => rate(|rates| Some(rates.tcp_bytes)),
            Self::Messages => rate(|rates| rates.messages),
            Self::Queue => short(row.queue_bytes() as f64),
            Self::Age => flow.age_seconds.map_or_else(unknown, age),
        }
    }

    /// The length of the column's longest text; numbers are always short.
    fn longest(self, rows: &[Row]) -> usize {
        if self.is_number() {
            return 0;
        }
        let lengths = rows.iter().map(|row| self.text(row).chars().count());
        lengths.max().unwrap_or_default()
    }

    /// The text at this width, right-aligned if it is a number, with its least important part elided.
    pub fn cell(self, row: &Row, width: usize) -> String {
        let text = self.text(row);
        let kept = match self {
            Self::Client | Self::Server => text.chars().rev().take_while(|char| *char != '[').count() + 1,
            Self::From | Self::To => width,
            _ => width / 2,
        };
        self.align(&elide(&text, width, kept), width)
    }

    pub fn align(self, text: &str, width: usize) -> String {
        if self.is_number() {
            format!("{text:>width$}")
        } else {
            format!("{text:width$}")
        }
    }
}

fn unknown() -> String {
    "-".to_owned()
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(unknown, short)
}

fn address(end: &End) -> String {
    std::net::SocketAddr::new(end.address, end.port).to_string()
}

/// The first process, and how many others hold the socket.
fn processes(processes: &[Process]) -> String {
    let Some((Process { pid, name, .. }, others)) = processes.split_first() else {
        return unknown();
    };
    // A program may choose any name.
    let name = name.replace(char::is_control, "?");
    match others.len() {
        0 => format!("{name}[{pid}]"),
        others => format!("{name}[{pid}]+{others}"),
    }
}

fn netns(client: &End, server: &End) -> String {
    match (client.netns, server.netns) {
        (Some(client), Some(server)) if client != server => format!("{client}>{server}"),
        (known, other) => known.or(other).map_or_else(unknown, |netns| netns.to_string()),
    }
}

/// The columns that fit, from left to right, with their widths.
pub fn fit(width: usize, rows: &[Row]) -> Vec<(Column, usize)> {
    let are_apart = are_in_several_namespaces(rows);
    let wanted = IMPORTANCE
        .into_iter()
        .filter(|column| *column != Column::Netns || are_apart);
    let mut left = width;
    let mut columns: Vec<(Column, usize)> = Vec::new();
    let mut lacking = Vec::new();
    for column in wanted {
        let gap = if columns.is_empty() { 0 } else { GAP };
        let room = left.saturating_sub(gap);
        let (least, most) = column.widths();
        if room < least {
            break;
        }
        let longest = column.longest(rows);
        let width = longest.clamp(least, most);
        columns.push((column, width.min(room)));
        lacking.push(longest.saturating_sub(width));
        left = room.saturating_sub(width);
        if room <= width {
            break;
        }
    }
    for ((_, width), lacking) in columns.iter_mut().zip(lacking) {
        let more = lacking.min(left);
        *width += more;
        left -= more;
    }
    columns.sort();
    columns
}

fn are_in_several_namespaces(rows: &[Row]) -> bool {
    let ends = rows.iter().flat_map(|row| [&row.flow.client, &row.flow.server]);
    let mut known = ends.filter_map(|end| end.netns);
    let first = known.next();
    known.any(|netns| Some(netns) != first)
}

/// The sort key of the rows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Order {
    /// Bytes per second, redirected and through TCP.
    #[default]
    Rate,
    Redirected,
    Tcp,
    Messages,
    Queue,
    Age,
    State,
    Reason,
    Client,
    Server,
}

impl Order {
    const ALL: [Self; 10] = [
        Self::Rate,
        Self::Redirected,
        Self::Tcp,
        Self::Messages,
        Self::Queue,
        Self::Age,
        Self::State,
        Self::Reason,
        Self::Client,
        Self::Server,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Redirected => "redirected bytes",
            Self::Tcp => "bytes over TCP",
            Self::Messages => "messages",
            Self::Queue => "queue",
            Self::Age => "age",
            Self::State => "state",
            Self::Reason => "reason",
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    pub fn next(self) -> Self {
        let mut orders = Self::ALL.into_iter().cycle();
        orders.find(|order| *order == self);
        orders.next().unwrap_or_default()
    }

    /// Large numbers first, names from A to Z.
    fn compare(self, one: &Row, other: &Row) -> Ordering {
        let large_first = |number: &dyn Fn(&Row) -> Option<f64>| {
            let known = |row| number(row).unwrap_or(-1.0);
            known(other).total_cmp(&known(one))
        };
        match self {
            Self::Rate => large_first(&Row::bytes_per_second),
            Self::Redirected => large_first(&|row| row.rates.map(|rates| rates.redirected_bytes)),
            Self::Tcp => large_first(&|row| row.rates.map(|rates| rates.tcp_bytes)),
            Self::Messages => large_first(&|row| row.rates.and_then(|rates| rates.messages)),
            Self::Queue => other.queue_bytes().cmp(&one.queue_bytes()),
            Self::Age => large_first(&|row| row.flow.age_seconds),
            Self::State => one.flow.state.cmp(&other.flow.state),
            Self::Reason => one.flow.reason.cmp(&other.flow.reason),
            Self::Client => program(&one.flow.client).cmp(&program(&other.flow.client)),
            Self::Server => program(&one.flow.server).cmp(&program(&other.flow.server)),
        }
    }
}

fn program(end: &End) -> Option<(&str, u32)> {
    end.processes
        .first()
        .map(|process| (process.name.as_str(), process.pid))
}

/// The rows in this order. Ties keep their places from one sample to the next.
pub fn ordered(rows: &[Row], order: Order, is_reversed: bool) -> Vec<&Row> {
    let place = |row: &Row| {
        let (client, server) = (&row.flow.client, &row.flow.server);
        (
            row.flow.state,
            server.address,
            server.port,
            client.address,
            client.port,
            client.netns,
        )
    };
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by(|one, other| {
        let first = order.compare(one, other);
        let first = if is_reversed { first.reverse() } else { first };
        first.then_with(|| place(one).cmp(&place(other)))
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::top::rates::View;
    use crate::client::top::samples::{flow, unfollowed, view};

    #[test]
    fn rows_are_ordered_by_rate_and_those_without_come_last() {
        let before = vec![flow(1, 0, 0), flow(2, 0, 0), unfollowed(3, 0)];
        let after = vec![
            flow(1, 200, 0),
            flow(2, 900, 0),
            unfollowed(3, 500),
            unfollowed(4, 9_000),
        ];
        let view = view(before, after);
        let ports = |order, is_reversed| {
            let rows = ordered(&view.rows, order, is_reversed);
            rows.iter().map(|row| row.flow.client.port).collect::<Vec<_>>()
        };
        assert_eq!(ports(Order::Rate, false), [2, 3, 1, 4]);
        assert_eq!(ports(Order::Rate, true), [4, 1, 3, 2]);
        assert_eq!(ports(Order::Tcp, false), [3, 1, 2, 4]);
        assert_eq!(ports(Order::State, false), [1, 2, 3, 4]);
        assert_eq!(ports(Order::State, true), [3, 4, 1, 2]);
    }

    fn columns(width: usize, view: &View) -> Vec<Column> {
        let columns = fit(width, &view.rows);
        let used: usize = columns.iter().map(|(_, width)| width + 1).sum();
        assert!(used <= width + 1, "{columns:?} do not fit into {width}");
        columns.into_iter().map(|(column, _)| column).collect()
    }

    #[test]
    fn columns_give_way_in_the_order_of_their_importance() {
        let view = view(vec![], vec![flow(1, 0, 0)]);
        use Column::*;
        assert_eq!(columns(24, &view), [State, Redirected, Tcp]);
        assert_eq!(columns(80, &view), [State, Reason, Client, To, Redirected, Tcp]);
        assert_eq!(
            columns(120, &view),
            [
                State, Reason, Client, From, To, Server, Redirected, Tcp, Messages, Queue, Age
            ]
        );
        for width in 0..200 {
            columns(width, &view);
        }
    }

    #[test]
    fn the_namespace_is_shown_where_there_are_several() {
        let mut other = flow(2, 0, 0);
        assert!(!columns(200, &view(vec![], vec![flow(1, 0, 0), other.clone()])).contains(&Column::Netns));
        other.server.netns = None;
        assert!(!columns(200, &view(vec![], vec![flow(1, 0, 0), other.clone()])).contains(&Column::Netns));
        other.client.netns = Some(7);
        assert!(columns(200, &view(vec![], vec![flow(1, 0, 0), other])).contains(&Column::Netns));
    }

    #[test]
    fn the_address_of_the_server_is_not_repeated() {
        let mut other = flow(2, 0, 0);
        other.client.address = "10.0.0.7".parse().unwrap();
        let view = view(vec![], vec![flow(1, 0, 0), other]);
        let from = |row| Column::From.text(row);
        assert_eq!(
            view.rows.iter().map(from).collect::<Vec<_>>(),
            [":1", "10.0.0.7:2"]
        );
    }

    #[test]
    fn long_texts_keep_what_tells_them_apart() {
        let mut long = flow(51_234, 0, 0);
        long.client.address = "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff".parse().unwrap();
        long.client.processes[0].name = "a-very-long-name\n".to_owned();
        let view = view(vec![], vec![long]);
        let cell = |column: Column, width| column.cell(&view.rows[0], width);
        assert_eq!(cell(Column::From, 15), "…ee:ffff]:51234");
        assert_eq!(cell(Column::To, 15), "127.0.0.1:6379 ");
        assert_eq!(cell(Column::Client, 12), "a-ver…[1234]");
        assert_eq!(cell(Column::Client, 30), "a-very-long-name?[1234]       ");
        assert_eq!(cell(Column::Reason, 16), "admitte…response");
        assert_eq!(cell(Column::Age, 5), " 100s");
    }
}
