//! What a file enumerator knows of the files that it has found, and what a snapshot keeps of it.
//!
//! 1. A file has its place in the order of discovery, so that what a snapshot holds grows at its
//!    end. 2. In a watched folder a file that has been gone for as long as `forget` says is
//!    forgotten: what comes later under its name is another file. So a folder that is kept small
//!    keeps snapshots small, however long it is watched. 3. Forgotten files leave the order when
//!    they are half of it.

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug, Default)]
pub struct Found {
    /// The paths, as text, and the lengths of those that are watched.
    files: Vec<(Arc<str>, Option<u64>)>,
    places: HashMap<Arc<str>, usize>,
    /// When files went missing, as far as this process has seen.
    gone: HashMap<Arc<str>, Instant>,
    pub n_splits: u32,
    /// Whether there was a listing. Without `watch` it was the only one.
    pub listed: bool,
}

/// The form in a snapshot.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Kept {
    files: Vec<KeptFile>,
    /// Earlier versions kept the lengths of files separately.
    #[serde(default, skip_serializing)]
    lengths: HashMap<String, u64>,
    n_splits: u32,
    listed: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum KeptFile {
    Name(String),
    Watched(String, u64),
}

impl From<Kept> for Found {
    fn from(kept: Kept) -> Found {
        let mut found = Found {
            n_splits: kept.n_splits,
            listed: kept.listed,
            ..Found::default()
        };
        for file in kept.files {
            let (name, length) = match file {
                KeptFile::Watched(name, length) => (name, Some(length)),
                KeptFile::Name(name) => {
                    let length = kept.lengths.get(&name).copied();
                    (name, length)
                }
            };
            found.insert(&name, length);
        }
        found
    }
}

impl Found {
    pub fn kept(&self) -> Kept {
        let file = |(name, length): &(Arc<str>, Option<u64>)| match length {
            Some(length) => KeptFile::Watched(name.to_string(), *length),
            None => KeptFile::Name(name.to_string()),
        };
        Kept {
            files: self.files.iter().map(file).collect(),
            lengths: HashMap::new(),
            n_splits: self.n_splits,
            listed: self.listed,
        }
    }

    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Records a file, or another length of one. Returns the previous length.
    pub fn insert(&mut self, name: &str, length: Option<u64>) -> Option<u64> {
        if let Some(&place) = self.places.get(name) {
            return std::mem::replace(&mut self.files[place].1, length);
        }
        let name: Arc<str> = name.into();
        self.places.insert(name.clone(), self.files.len());
        self.files.push((name, length));
        None
    }

    /// Compares with a whole listing: forgets what was gone for that long before it came back, and
    /// what has been gone for that long, if that is much.
    pub fn compare(&mut self, listed: &HashSet<String>, forget: Duration) {
        let now = Instant::now();
        let is_over = |since: &Instant| now.duration_since(*since) >= forget;
        let come_back =
            |name: &Arc<str>, since: &Instant| listed.contains(&**name) && is_over(since);
        let mut forgotten: HashSet<Arc<str>> = self
            .gone
            .iter()
            .filter(|(name, since)| come_back(name, since))
            .map(|(name, _)| name.clone())
            .collect();
        self.gone.retain(|name, _| !listed.contains(&**name));
        for (name, _) in self
            .files
            .iter()
            .filter(|(name, _)| !listed.contains(&**name))
        {
            self.gone.entry(name.clone()).or_insert(now);
        }
        let over = self
            .gone
            .iter()
            .filter(|(_, since)| is_over(since))
            .map(|(name, _)| name.clone());
        let over: Vec<Arc<str>> = over.collect();
        if over.len() * 2 >= self.files.len() {
            forgotten.extend(over);
        }
        self.remove(&forgotten);
    }

    fn remove(&mut self, names: &HashSet<Arc<str>>) {
        if names.is_empty() {
            return;
        }
        self.files.retain(|(name, _)| !names.contains(name));
        self.gone.retain(|name, _| !names.contains(name));
        self.places = self
            .files
            .iter()
            .enumerate()
            .map(|(place, (name, _))| (name.clone(), place))
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn listing(names: &[&str]) -> HashSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn of(names: &[&str]) -> Found {
        let mut found = Found::default();
        for name in names {
            found.insert(name, Some(1));
        }
        found
    }

    fn names(found: &Found) -> Vec<&str> {
        found.files.iter().map(|(name, _)| &**name).collect()
    }

    #[test]
    fn a_file_is_forgotten_when_it_was_gone_for_long_and_not_before() {
        let mut found = of(&["a", "b", "c"]);
        found.compare(&listing(&["b", "c"]), HOUR);
        found.compare(&listing(&["a", "b", "c"]), HOUR);
        assert!(found.contains("a"), "it was gone for a moment");
        found.compare(&listing(&["b", "c"]), Duration::ZERO);
        assert_eq!(names(&found), ["a", "b", "c"], "a third is not worth it");
        found.compare(&listing(&["a", "b", "c"]), Duration::ZERO);
        assert_eq!(
            names(&found),
            ["b", "c"],
            "what has come back is another file"
        );
        found.compare(&listing(&["c"]), Duration::ZERO);
        assert_eq!(names(&found), ["c"]);
        assert_eq!(
            (found.contains("b"), found.insert("c", Some(2))),
            (false, Some(1))
        );
    }

    #[test]
    fn a_folder_that_is_kept_small_keeps_snapshots_small() {
        let mut found = Found::default();
        let mut longest = 0;
        for day in 0..1000 {
            let today: Vec<String> = (0..20).map(|i| format!("{}", day * 10 + i)).collect();
            found.compare(&today.iter().cloned().collect(), Duration::ZERO);
            for name in &today {
                found.insert(name, Some(1));
            }
            longest = longest.max(serde_json::to_string(&found.kept()).unwrap().len());
        }
        assert!(longest < 1000, "{longest} bytes");
    }

    #[test]
    fn what_was_kept_by_any_version_is_read() {
        let read = |text: &str| Found::from(serde_json::from_str::<Kept>(text).unwrap());
        let old = read(r#"{"files":["a","b"],"lengths":{"b":7},"n-splits":3,"listed":true}"#);
        let new = serde_json::to_string(&old.kept()).unwrap();
        assert_eq!(new, r#"{"files":["a",["b",7]],"n-splits":3,"listed":true}"#);
        assert_eq!(serde_json::to_string(&read(&new).kept()).unwrap(), new);
    }
}
