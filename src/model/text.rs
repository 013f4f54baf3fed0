//! Numbers, times and tables for people, in a few characters.

use std::path::PathBuf;
use std::time::Duration;

/// As a list on one line.
pub fn folders(paths: &[PathBuf]) -> String {
    let shown: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(", ")
}

/// Three digits and an SI prefix: at most five characters.
pub fn short(value: f64) -> String {
    let (number, prefix) = scale(value);
    format!("{number}{prefix}")
}

/// The same with its unit, as in `12.3 kB`.
pub fn bytes(value: f64) -> String {
    let (number, prefix) = scale(value);
    format!("{number} {prefix}B")
}

fn scale(value: f64) -> (String, &'static str) {
    let mut prefixes = ["k", "M", "G", "T", "P", "E"].into_iter();
    let (mut value, mut prefix) = (value, "");
    // A value that would round to 1000 takes the next prefix.
    while value >= 999.5 {
        let Some(next) = prefixes.next() else { break };
        (value, prefix) = (value / 1000.0, next);
    }
    let decimals = match (prefix, value) {
        ("", value) if value >= 9.95 || value.fract() == 0.0 => 0,
        ("", _) => 1,
        (_, value) if value < 9.995 => 2,
        (_, value) if value < 99.95 => 1,
        _ => 0,
    };
    (format!("{value:.decimals$}"), prefix)
}

pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// The largest unit with a count of at least two, in at most five characters.
pub fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Whole seconds; tenths below ten.
pub fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    format!("{seconds:.decimals$} s", decimals = usize::from(seconds < 9.95))
}

/// Cuts a text that is too long in the middle or at its beginning, keeping `kept` characters of its end if they fit.
pub fn elide(text: &str, width: usize, kept: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let tail = kept.min(room);
    let head: String = text.chars().take(room - tail).collect();
    let tail: String = text.chars().skip(length - tail).collect();
    head + "…" + &tail
}

/// Left-aligned columns, two blanks apart, without trailing blanks.
pub fn columns(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_at_most_five_characters() {
        for (value, text) in [
            (0.0, "0"),
            (7.0, "7"),
            (0.25, "0.2"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (12_345.0, "12.3k"),
            (99_960.0, "100k"),
            (999_600.0, "1.00M"),
            (2_410_000_000.0, "2.41G"),
            (u64::MAX as f64, "18.4E"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!(bytes(2_410_000.0), "2.41 MB");
        assert_eq!(bytes(17.0), "17 B");
    }

    #[test]
    fn ages_are_told_in_one_unit() {
        for (seconds, text) in [
            (0.4, "0s"),
            (119.9, "119s"),
            (120.0, "2m"),
            (7_199.0, "119m"),
            (7_200.0, "2h"),
            (172_800.0, "2d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "bcd", ""], ["ef", "g", "h"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows), "a   bcd\nef  g    h\n");
    }
}
