//! Prints the windows of the demo: one line per window, its items in order of their rank.

use std::collections::BTreeMap;

/// One line of what hot-items writes.
pub struct Row {
    pub window_end_ms: i64,
    pub rank: i64,
    pub item: i64,
    pub count: i64,
}

/// Windows in the order of their ends, ranks from left to right.
pub fn table(rows: Vec<Row>) -> String {
    let mut windows: BTreeMap<i64, BTreeMap<i64, String>> = BTreeMap::new();
    for row in rows {
        let cell = format!("{} ({} clicks)", row.item, row.count);
        windows
            .entry(row.window_end_ms)
            .or_default()
            .insert(row.rank, cell);
    }
    let n_ranks = windows.values().map(BTreeMap::len).max().unwrap_or(0);
    let mut lines = vec![header(n_ranks)];
    lines.extend(windows.iter().map(|(end, ranks)| {
        let cells = (1..=n_ranks as i64).map(|rank| ranks.get(&rank).cloned().unwrap_or_default());
        std::iter::once(utc(*end)).chain(cells).collect()
    }));
    aligned(&lines)
}

fn header(n_ranks: usize) -> Vec<String> {
    std::iter::once("window end (UTC)".to_owned())
        .chain((1..=n_ranks).map(|rank| format!("{rank}.")))
        .collect()
}

/// Pads every column to its widest cell, and rules a line under the header.
fn aligned(lines: &[Vec<String>]) -> String {
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let rule = widths.iter().map(|width| "-".repeat(*width)).collect();
    let ruled = lines[..1]
        .iter()
        .chain(std::iter::once(&rule))
        .chain(&lines[1..]);
    let padded = |line: &Vec<String>| {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    ruled.map(padded).collect()
}

/// `YYYY-MM-DD HH:MM` of a time in ms since the epoch. Years begin in March here, so that the leap
/// day is the last one of its year.
fn utc(ms: i64) -> String {
    let minutes = ms.div_euclid(60_000);
    let (days, minute) = (
        minutes.div_euclid(1_440) + 719_468,
        minutes.rem_euclid(1_440),
    );
    let (cycle, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day + 2) / 153;
    let day = day - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = cycle * 400 + year + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}",
        minute / 60,
        minute % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        for (ms, expected) in [
            (1_511_658_000_000, "2017-11-26 01:00"),
            (1_483_228_800_000, "2017-01-01 00:00"),
            (1_514_764_740_000, "2017-12-31 23:59"),
            (951_782_400_000, "2000-02-29 00:00"),
            (0, "1970-01-01 00:00"),
            (-1, "1969-12-31 23:59"),
        ] {
            assert_eq!(utc(ms), expected);
        }
    }

    #[test]
    fn windows_are_lines_and_ranks_columns() {
        let row = |window_end_ms, rank, item, count| Row {
            window_end_ms,
            rank,
            item,
            count,
        };
        let (first, second) = (1_511_658_000_000, 1_511_658_300_000);
        let text = table(vec![
            row(second, 1, 7, 2),
            row(first, 2, 12, 3),
            row(first, 1, 9, 30),
        ]);
        let expected = "\
window end (UTC)  1.             2.
----------------  -------------  -------------
2017-11-26 01:00  9 (30 clicks)  12 (3 clicks)
2017-11-26 01:05  7 (2 clicks)
";
        assert_eq!(text, expected);
    }
}
