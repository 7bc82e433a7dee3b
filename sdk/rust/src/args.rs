//! The arguments of a job: what follows `--`, as `--name VALUE`, `--name=VALUE` and `--flag`.
//!
//! Which arguments a job has is written down nowhere but in the program that reads them. So each
//! read is noted, and when the program has run, everything that was given must have been read:
//! otherwise a misspelt name would silently mean its default.

use crate::error::{Error, Result};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

/// How a name was asked for.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Value,
    Flag,
}

/// Arguments, and which names were asked for.
#[derive(Default)]
pub(crate) struct Args {
    given: Vec<String>,
    asked: RefCell<BTreeMap<String, Kind>>,
    /// Whether the program has taken them all, and reads them by itself.
    taken: Cell<bool>,
}

/// `name` or `name=value` after the two dashes; `None` without dashes.
fn parts(arg: &str) -> Option<(&str, Option<&str>)> {
    let named = arg.strip_prefix("--")?;
    Some(
        named
            .split_once('=')
            .map_or((named, None), |(name, value)| (name, Some(value))),
    )
}

impl Args {
    pub(crate) fn new(given: &[String]) -> Args {
        Args {
            given: given.to_vec(),
            ..Args::default()
        }
    }

    /// All of them, which are then not checked.
    pub(crate) fn all(&self) -> &[String] {
        self.taken.set(true);
        &self.given
    }

    /// What follows each `--name`: the value that belongs to it by `=`, or the argument that
    /// follows.
    fn given<'a>(&'a self, name: &str) -> impl Iterator<Item = (Option<&'a str>, Option<&'a str>)> {
        let next = |i: usize| {
            self.given
                .get(i + 1)
                .map(String::as_str)
                .filter(|next| parts(next).is_none())
        };
        let of = move |(i, arg): (usize, &'a String)| {
            parts(arg)
                .filter(|(found, _)| *found == name)
                .map(|(_, value)| (value, next(i)))
        };
        self.given.iter().enumerate().filter_map(of)
    }

    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.asked.borrow_mut().insert(name.to_owned(), Kind::Value);
        self.given(name).find_map(|(value, next)| value.or(next))
    }

    pub(crate) fn get(&self, name: &str) -> Result<String> {
        self.find(name).map(str::to_owned).ok_or_else(|| {
            if self.given(name).next().is_some() {
                return no_value(name);
            }
            let meant = nearest(
                name,
                self.given
                    .iter()
                    .filter_map(|arg| Some(parts(arg)?.0))
                    .filter(|given| !self.is_asked(given)),
            );
            let meant = meant
                .map(|given| format!("; is --{given} meant for it?"))
                .unwrap_or_default();
            Error::arguments(format!("the argument --{name} is missing{meant}"))
        })
    }

    pub(crate) fn parse_or<V: std::str::FromStr>(&self, name: &str, default: V) -> Result<V> {
        match self.find(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| {
                Error::arguments(format!("the argument --{name} cannot be read: {text}"))
            }),
        }
    }

    /// Whether a flag is set; `--name false`, as a `job.toml` writes it, means that it is not.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.asked
            .borrow_mut()
            .entry(name.to_owned())
            .or_insert(Kind::Flag);
        self.given(name)
            .any(|(value, next)| value.or(next.filter(|next| *next == "false")) != Some("false"))
    }

    fn is_asked(&self, name: &str) -> bool {
        self.asked.borrow().contains_key(name)
    }

    /// Checks that everything that was given has been read.
    ///
    /// # Errors
    /// If an argument has a name that nothing has asked for, or none, or lacks its value, or is
    /// given twice.
    pub(crate) fn check(&self) -> Result<()> {
        let (mut rest, mut seen) = (&self.given[..], BTreeSet::new());
        while let [arg, behind @ ..] = rest {
            rest = match parts(arg) {
                _ if self.taken.get() => return Ok(()),
                Some((name, _)) if !seen.insert(name) => {
                    return Err(Error::arguments(format!(
                        "the argument --{name} is given twice"
                    )));
                }
                Some((name, value)) => self.behind(name, value, behind)?,
                // As a shell leaves it where a variable is empty.
                None if arg.is_empty() => behind,
                None => {
                    return Err(Error::arguments(format!(
                        "the argument `{arg}` belongs to no --name; {}",
                        self.known()
                    )));
                }
            };
        }
        Ok(())
    }

    /// What remains after an argument and its value.
    fn behind<'a>(
        &self,
        name: &str,
        value: Option<&str>,
        behind: &'a [String],
    ) -> Result<&'a [String]> {
        let kind = self.asked.borrow().get(name).copied();
        match (kind, behind) {
            (None, _) => Err(self.unknown(name)),
            (Some(_), _) if value.is_some() => Ok(behind),
            (Some(Kind::Value), [next, further @ ..]) if parts(next).is_none() => Ok(further),
            (Some(Kind::Value), _) => Err(no_value(name)),
            (Some(Kind::Flag), [next, further @ ..]) if next == "true" || next == "false" => {
                Ok(further)
            }
            (Some(Kind::Flag), _) => Ok(behind),
        }
    }

    fn unknown(&self, name: &str) -> Error {
        let asked = self.asked.borrow();
        let hint = match nearest(name, asked.keys().map(String::as_str)) {
            Some(near) => format!("did you mean --{near}?"),
            None => self.known(),
        };
        Error::arguments(format!("the job has no argument --{name}; {hint}"))
    }

    fn known(&self) -> String {
        let names: Vec<String> = self
            .asked
            .borrow()
            .keys()
            .map(|name| format!("--{name}"))
            .collect();
        if names.is_empty() {
            "it reads none".to_owned()
        } else {
            format!("it reads {}", names.join(", "))
        }
    }
}

fn no_value(name: &str) -> Error {
    Error::arguments(format!(
        "the argument --{name} has no value; a value that begins with -- is written --{name}=VALUE"
    ))
}

/// The candidate closest to `name`, if it is close enough to be a typing error.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let within = (name.chars().count() / 3).max(1);
    let near = candidates
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= within);
    near.min().map(|(_, candidate)| candidate)
}

/// The number of letters to insert, delete, replace, or swap with their neighbour, to turn one word
/// into the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let exchanged = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let swapped = if i > 1 && j > 1 && a[i - 2..i] == [b[j - 1], b[j - 2]] {
                rows[i - 2][j - 2] + 1
            } else {
                usize::MAX
            };
            row.push(
                exchanged
                    .min(rows[i - 1][j] + 1)
                    .min(row[j - 1] + 1)
                    .min(swapped),
            );
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that reads `--input`, `--step` and the flag `--verbose`; what it got, or the
    /// sentence.
    fn check(line: &str, expected: Result<(&str, i64, bool), &str>) {
        let args = Args::new(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let read = || {
            let read = (
                args.get("input")?,
                args.parse_or("step", 2)?,
                args.flag("verbose"),
            );
            args.check().map(|()| read)
        };
        let found = read().map_err(|e| e.message().to_owned());
        assert_eq!(
            found,
            expected
                .map(|(input, step, verbose)| (input.to_owned(), step, verbose))
                .map_err(str::to_owned),
            "{line}"
        );
    }

    #[test]
    fn arguments_are_read_by_name() {
        check("--input a", Ok(("a", 2, false)));
        check("--input=a=b --step -3", Ok(("a=b", -3, false)));
        check("--verbose --input a", Ok(("a", 2, true)));
        check("--verbose true --input a --step=4", Ok(("a", 4, true)));
        check("--verbose false --input a", Ok(("a", 2, false)));
        check("--verbose=false --input=--step", Ok(("--step", 2, false)));
        check(
            "--input a --step x",
            Err("the argument --step cannot be read: x"),
        );
        check(" --input a ", Ok(("a", 2, false)));
    }

    #[test]
    fn what_nothing_reads_is_refused() {
        check(
            "--inptu a",
            Err("the argument --input is missing; is --inptu meant for it?"),
        );
        check(
            "--input a --stpe 3",
            Err("the job has no argument --stpe; did you mean --step?"),
        );
        check(
            "--input a --output b",
            Err("the job has no argument --output; it reads --input, --step, --verbose"),
        );
        check(
            "--input a b",
            Err("the argument `b` belongs to no --name; it reads --input, --step, --verbose"),
        );
        check(
            "--input a -step 3",
            Err("the argument `-step` belongs to no --name; it reads --input, --step, --verbose"),
        );
        check(
            "--input a --verbose yes",
            Err("the argument `yes` belongs to no --name; it reads --input, --step, --verbose"),
        );
        check(
            "--input a --input b",
            Err("the argument --input is given twice"),
        );
        check(
            "--step 3 --input",
            Err(
                "the argument --input has no value; a value that begins with -- is written --input=VALUE",
            ),
        );
        check("--step 3", Err("the argument --input is missing"));
        check(
            "--input a --step",
            Err(
                "the argument --step has no value; a value that begins with -- is written --step=VALUE",
            ),
        );
        check(
            "--input a --step --verbose",
            Err(
                "the argument --step has no value; a value that begins with -- is written --step=VALUE",
            ),
        );
    }

    #[test]
    fn a_program_that_takes_all_reads_them_by_itself() {
        let args = Args::new(&["stray".to_owned()]);
        assert_eq!((args.all().len(), args.check().is_ok()), (1, true));
    }

    #[test]
    fn nearest_names() {
        let near = |name| nearest(name, ["input", "output", "step", "n"].into_iter());
        assert_eq!(
            ["inptu", "inputs", "out", "stp", "m", "intput"].map(near),
            [
                Some("input"),
                Some("input"),
                None,
                Some("step"),
                Some("n"),
                Some("input")
            ]
        );
        assert_eq!(near("checkpoint"), None);
    }
}
