//! `streamrt docs`: the tables of the README, for a terminal, and the description of the REST
//! interface. The README is the one home of the tables; tests hold it against the code.

use crate::args::Topic;
use crate::print;
use streamrt_types::Result;

const README: &str = include_str!("../../../README.md");

/// The most characters of a line.
const WIDTH: usize = 120;

/// The most characters of a column that is not the last one.
const COLUMN_MAX: usize = 34;

/// Prints what the README says of a topic on stdout.
///
/// # Errors
/// If stdout cannot be written.
pub fn docs(topic: Topic) -> Result<()> {
    if topic == Topic::Openapi {
        return print(&streamrt_web::openapi());
    }
    let text: String = headings(topic)
        .iter()
        .map(|heading| render(section(README, heading)))
        .collect::<Vec<_>>()
        .join("\n");
    print(&text)
}

/// The sections of a topic, by the beginnings of their headings.
fn headings(topic: Topic) -> &'static [&'static str] {
    match topic {
        Topic::Config => &["### Configuration"],
        Topic::Connectors => &["### Sources", "### Sinks\n"],
        Topic::Openapi => &[],
    }
}

/// A section with its heading, up to the next one.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let from = text
        .find(&format!("\n{heading}"))
        .map_or(text.len(), |at| at + 1);
    let rest = &text[from..];
    let end = rest[1.min(rest.len())..]
        .find("\n#")
        .map_or(rest.len(), |at| at + 2);
    &rest[..end]
}

/// Markdown for a terminal: tables in columns, text as it is.
fn render(section: &str) -> String {
    let lines: Vec<&str> = section.lines().collect();
    let mut text = String::new();
    for block in lines.chunk_by(|a, b| a.starts_with('|') == b.starts_with('|')) {
        match block[0].starts_with('|') {
            true => text += &table(block),
            false => block.iter().for_each(|line| {
                text += &format!("{}\n", plain(line.trim_start_matches(['#', ' '])))
            }),
        }
    }
    text
}

/// Without the marks of code; there are no others in these sections, and `**` is a pattern of
/// paths.
fn plain(text: &str) -> String {
    text.replace('`', "")
}

/// The cells of a row.
fn cells(line: &str) -> Vec<String> {
    let inner = line
        .trim()
        .strip_prefix('|')
        .and_then(|line| line.strip_suffix('|'))
        .unwrap_or(line);
    inner.split('|').map(|cell| plain(cell.trim())).collect()
}

/// The rows of a table, without the line under its head.
fn rows<'a>(lines: &'a [&str]) -> impl Iterator<Item = Vec<String>> + 'a {
    lines
        .iter()
        .filter(|line| !line.trim_matches(['|', '-', ' ']).is_empty())
        .map(|line| cells(line))
}

fn table(lines: &[&str]) -> String {
    let rows: Vec<Vec<String>> = rows(lines).collect();
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..n_columns)
        .map(|column| width(column).min(COLUMN_MAX))
        .collect();
    if let Some((last, before)) = widths.split_last_mut() {
        *last = WIDTH
            .saturating_sub(before.iter().map(|width| width + 2).sum())
            .max(COLUMN_MAX);
    }
    rows.iter().map(|row| row_text(row, &widths)).collect()
}

/// One row, of as many lines as its highest cell.
fn row_text(row: &[String], widths: &[usize]) -> String {
    let wrapped: Vec<Vec<String>> = row
        .iter()
        .zip(widths)
        .map(|(cell, width)| wrap(cell, *width))
        .collect();
    let height = wrapped.iter().map(Vec::len).max().unwrap_or(0);
    let line = |number: usize| {
        let cell = |(lines, width): (&Vec<String>, &usize)| {
            format!("{:<width$}  ", lines.get(number).map_or("", String::as_str))
        };
        format!(
            "{}\n",
            wrapped
                .iter()
                .zip(widths)
                .map(cell)
                .collect::<String>()
                .trim_end()
        )
    };
    (0..height).map(line).collect()
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                *line += &format!(" {word}")
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_types::{Configuration, KeyRow};

    /// The code declares each key; the README repeats that, row by row.
    #[test]
    fn the_readme_has_the_table_of_the_configuration_keys() {
        let section = section(README, "### Configuration");
        let told: Vec<&str> = section
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        let row = |row: &KeyRow| format!("| `{}` | {} | {} |", row.key, row.default, row.about);
        let declared: Vec<String> = Configuration::table().iter().map(row).collect();
        assert_eq!(told.join("\n"), declared.join("\n"));
        // An older name of a key stands in the text of the new one.
        let missing: Vec<&str> = Configuration::keys()
            .into_iter()
            .filter(|key| !section.contains(&format!("`{key}`")))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn every_topic_has_its_tables() {
        for (topic, word) in [
            (Topic::Config, "checkpoint.interval"),
            (Topic::Connectors, "rolling.size"),
            (Topic::Connectors, "split-bytes"),
        ] {
            let text: String = headings(topic)
                .iter()
                .map(|heading| render(section(README, heading)))
                .collect();
            assert!(
                text.lines().any(|line| line.contains(word)),
                "{word}\n{text}"
            );
            assert!(
                !text.lines().any(|line| line.starts_with('|')) && !text.contains('`'),
                "{text}"
            );
        }
    }

    #[test]
    fn a_table_stands_in_columns_and_long_cells_in_lines() {
        let long = "word ".repeat(30);
        let text = format!(
            "### Keys: all\n\n| key | what |\n|---|---|\n| `a` | {long}|\n| `long.key` | `**` |\n\nEnd.\n"
        );
        let lines = ["Keys: all", "", "key       what"];
        let rendered = render(&text);
        assert!(rendered.starts_with(&lines.join("\n")), "{rendered}");
        assert!(
            rendered.contains("\nlong.key  **\n\nEnd.\n")
                && rendered.lines().all(|line| line.len() <= WIDTH),
            "{rendered}"
        );
        assert!(
            rendered
                .lines()
                .filter(|line| line.contains("word"))
                .count()
                == 2,
            "{rendered}"
        );
    }
}
