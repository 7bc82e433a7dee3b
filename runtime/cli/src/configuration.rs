//! `-D key=value`: a misspelt key is refused, with the keys that it may have meant.

use crate::report;
use streamrt_types::{Configuration, Error, Result, code};

/// Sets keys in order; a later one wins.
///
/// # Errors
/// `Invalid` for an unknown key or a value that does not fit.
pub fn set_all<'a>(
    configuration: &mut Configuration,
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<()> {
    for (key, value) in pairs {
        if !Configuration::keys().contains(&key) {
            return Err(unknown(key));
        }
        configuration.set(key, value)?;
        if let Some(hint) = hint(key, configuration) {
            report::status(&hint);
        }
    }
    Ok(())
}

/// What to write instead of an older key that was set.
fn hint(key: &str, configuration: &Configuration) -> Option<String> {
    let kib = configuration.exchange_bytes >> 10;
    (key == "exchange.batches").then(|| {
        format!("`exchange.batches` is an older name; `-D exchange.bytes={kib}KiB` says the same")
    })
}

fn unknown(key: &str) -> Error {
    let keys = Configuration::keys();
    let near: Vec<&str> = keys
        .iter()
        .copied()
        .filter(|known| is_near(key, known))
        .collect();
    let (intro, names) = if near.is_empty() {
        ("the keys are", keys)
    } else {
        ("did you mean", near)
    };
    Error::new(
        code::BAD_OPTION,
        format!(
            "there is no configuration key `{key}`; {intro} {}",
            names.join(", ")
        ),
    )
}

/// A third of the letters may differ; or one is a part of the other, as in `deadline` for
/// `plugin.deadline`.
fn is_near(key: &str, known: &str) -> bool {
    let part = key.len() >= 3 && (known.contains(key) || key.contains(known));
    part || distance(key.as_bytes(), known.as_bytes()) <= known.len() / 3
}

/// The Levenshtein distance, by one row of its table.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The keys that two options of the command line stand for, as far as they are given.
pub fn allowances(
    changed_arguments: bool,
    non_restored_state: bool,
) -> impl Iterator<Item = &'static str> {
    let keys = [
        ("restore.allow-changed-arguments", changed_arguments),
        ("restore.allow-non-restored-state", non_restored_state),
    ];
    keys.into_iter()
        .filter(|(_, given)| *given)
        .map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, message: &str) {
        let error = set_all(&mut Configuration::default(), [(key, "1")]).unwrap_err();
        assert_eq!(
            error.message(),
            format!("there is no configuration key `{key}`; {message}")
        );
    }

    #[test]
    fn unknown_keys_name_their_neighbours() {
        check("batch.row", "did you mean batch.rows");
        check(
            "plugin.memmory",
            "did you mean plugin.compile-memory, plugin.memory",
        );
        check("deadline", "did you mean plugin.deadline");
        check(
            "zzz",
            &format!("the keys are {}", Configuration::keys().join(", ")),
        );
    }

    #[test]
    fn an_older_key_says_what_to_write_instead() {
        let mut configuration = Configuration::default();
        configuration.set("exchange.batches", "8").unwrap();
        let said = hint("exchange.batches", &configuration).unwrap();
        assert_eq!(
            said,
            "`exchange.batches` is an older name; `-D exchange.bytes=2048KiB` says the same"
        );
        assert_eq!(hint("exchange.bytes", &configuration), None);
    }

    #[test]
    fn the_last_value_wins() {
        let mut configuration = Configuration::default();
        set_all(
            &mut configuration,
            [("batch.rows", "1"), ("batch.rows", "2")],
        )
        .unwrap();
        assert_eq!(configuration.batch_rows, 2);
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("kitten", "sitting", 3),
            ("abc", "abc", 0),
        ] {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
        }
    }
}
