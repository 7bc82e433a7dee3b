//! regex-extract: appends the named groups of a regular expression to each row, as columns of text.
//!
//! A ready-made component: a `job.toml` names the function `regex-extract`, and gives it `column`
//! (the column of text that is searched) and `pattern`. A group that did not take part is null; in
//! a row that does not match, all are. The row itself stays in the host.

use regex_lite::Regex;
use streamrt_sdk::prelude::*;
use streamrt_sdk::{Cell, DataType, Field, Library, Schema};

/// Names of the groups, which become columns.
///
/// # Errors
/// Without a named group there is nothing to append.
fn groups(pattern: &Regex) -> Result<Vec<String>> {
    let names: Vec<String> = pattern
        .capture_names()
        .flatten()
        .map(str::to_owned)
        .collect();
    match names.is_empty() {
        true => Err(Error::arguments(format!(
            "the pattern `{pattern}` has no named group such as (?<name>[a-z]+)"
        ))),
        false => Ok(names),
    }
}

fn text_columns(names: &[String]) -> Schema {
    names
        .iter()
        .map(|name| Field {
            nullable: true,
            ..Field::new(name.as_str(), DataType::String)
        })
        .collect()
}

/// The groups of the first match, in the order of `names`; no text has no match.
fn extract<'a>(pattern: &Regex, names: &[String], text: Option<&'a str>) -> Vec<Option<&'a str>> {
    let captures = text.and_then(|text| pattern.captures(text));
    names
        .iter()
        .map(|name| captures.as_ref()?.name(name).map(|group| group.as_str()))
        .collect()
}

fn functions(library: &mut Library) -> Result<()> {
    // The defaults let `streamrt inspect` show the component without arguments.
    let (column, pattern) = (
        library.arg_or("column", "value"),
        library.arg_or("pattern", "(?<value>.+)"),
    );
    let pattern = Regex::new(&pattern)
        .map_err(|e| Error::arguments(format!("the pattern `{pattern}` cannot be read: {e}")))?;
    let names = groups(&pattern)?;
    let input = vec![Field {
        nullable: true,
        ..Field::new(column, DataType::String)
    }];
    library.extend(
        "regex-extract",
        input,
        text_columns(&names),
        move |row, out| {
            for group in extract(&pattern, &names, row.str(0)) {
                out.push(group.map_or(Cell::Null, Cell::String))?;
            }
            Ok(())
        },
    );
    Ok(())
}

streamrt_sdk::library!(functions);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, text: Option<&str>, expected: &[Option<&str>]) {
        let pattern = Regex::new(pattern).unwrap();
        let names = groups(&pattern)
            .map_err(|e| e.message().to_owned())
            .unwrap();
        assert_eq!(
            extract(&pattern, &names, text),
            expected,
            "{pattern} in {text:?}"
        );
    }

    #[test]
    fn groups_are_taken_in_their_order() {
        let pattern = "/(?<section>[a-z]+)(/(?<page>[a-z]+))?";
        check(pattern, Some("/news/today"), &[Some("news"), Some("today")]);
        check(pattern, Some("see /shop"), &[Some("shop"), None]);
        check(pattern, Some("nothing"), &[None, None]);
        check("(?<all>.*)", None, &[None]);
    }

    #[test]
    fn a_pattern_without_a_named_group_is_refused() {
        let refusal = groups(&Regex::new("([a-z]+)").unwrap()).map_err(|e| e.message().to_owned());
        assert_eq!(
            refusal,
            Err("the pattern `([a-z]+)` has no named group such as (?<name>[a-z]+)".to_owned())
        );
    }
}
