//! The enumerator of sources that know all their splits at the beginning: it returns them in its
//! first poll, and never again, not even after a restore.

use crate::position;
use serde::{Deserialize, Serialize};
use streamrt_operator::{Enumeration, Split, SplitEnumerator};
use streamrt_types::Result;

/// What the snapshot holds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    given: bool,
}

struct Once<F> {
    given: Given,
    splits: F,
}

/// `splits` makes them, for a number of readers.
///
/// # Errors
/// `Data` if `restored` is not a snapshot of such an enumerator.
pub fn enumerator<F>(
    connector: &str,
    restored: Option<&str>,
    splits: F,
) -> Result<Box<dyn SplitEnumerator>>
where
    F: Fn(u32) -> Vec<Split> + Send + 'static,
{
    let given = restored
        .map(|text| position::read(format!("source `{connector}`"), text))
        .transpose()?
        .unwrap_or_default();
    Ok(Box::new(Once { given, splits }))
}

impl<F: Fn(u32) -> Vec<Split> + Send> SplitEnumerator for Once<F> {
    fn poll(&mut self, parallelism: u32) -> Result<Enumeration> {
        match std::mem::replace(&mut self.given.given, true) {
            true => Ok(Enumeration::Finished),
            false => Ok(Enumeration::Splits((self.splits)(parallelism))),
        }
    }

    fn snapshot(&self) -> String {
        position::write(&self.given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(restored: Option<&str>) -> Result<Box<dyn SplitEnumerator>> {
        enumerator("s", restored, |n| {
            (0..n)
                .map(|number| Split {
                    number: number.into(),
                    name: "s".into(),
                    detail: String::new(),
                })
                .collect()
        })
    }

    /// How many splits two polls return, after a restore from `snapshot`.
    fn check(snapshot: Option<&str>, expected: usize) {
        let mut enumerator = open(snapshot).unwrap();
        let n_splits = match enumerator.poll(3).unwrap() {
            Enumeration::Splits(splits) => splits.len(),
            _ => 0,
        };
        assert_eq!(n_splits, expected);
        assert!(matches!(enumerator.poll(3).unwrap(), Enumeration::Finished));
        assert_eq!(enumerator.snapshot(), r#"{"given":true}"#);
    }

    #[test]
    fn splits_are_given_once() {
        check(None, 3);
        let before = open(None).unwrap().snapshot();
        check(Some(&before), 3);
        check(Some(r#"{"given":true}"#), 0);
        let error = open(Some("{}")).err().unwrap();
        let expected = "source `s`: the snapshot holds `{}`, which nobody could go on from";
        assert_eq!((error.code().id, error.message()), ("S7001", expected));
    }
}
