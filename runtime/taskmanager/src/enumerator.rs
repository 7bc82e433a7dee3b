//! The loop of a source's enumerator: finds splits, deals them to the readers in turn, and tells
//! the end of each listing.
//!
//! A split's number is unique in the job, also where rows of several sources meet before watermarks
//! are made: above the count of the splits of a source stands the hash of its uid, which stays when
//! other sources come and go.
//!
//! On its edge, status IDLE says that a listing is complete, and the end of the input that no split
//! will follow. A barrier parts the splits that were dealt before a checkpoint, which are the
//! readers', from those after it.

use crate::control::Control;
use crate::split_rows;
use crate::task::{HeadSnapshot, Task};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use streamrt_exchange::{GateEvent, InputGate};
use streamrt_operator::{Enumeration, Exits, Source, Split, SplitEnumerator};
use streamrt_state::{ListMode, ListSnapshot, OperatorSnapshot, OperatorState};
use streamrt_types::{Error, Result, Status, code, murmur3_32};

/// A snapshot keeps the state of an enumerator under the uid of its source with this suffix.
pub const ENUMERATOR_SUFFIX: &str = ":splits";
const FOUND: &str = "found";
/// Splits that go to a reader in one batch.
const DEALT_SPLITS_MAX: usize = 1024;

/// Nobody finds so many; a snapshot that says so was made up.
const SPLITS_MAX: u32 = 1 << 31;

/// The connector's own words are kept in items of so many bytes, so that those in front are as they
/// were where a state grows at its end.
const WORDS_BYTES: usize = 4 << 10;

/// What a checkpoint keeps of an enumerator: the last item of its list.
#[derive(Serialize, Deserialize)]
struct Found {
    n_splits: u32,
    /// The connector's own words, where they do not stand in the items before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connector: Option<String>,
}

/// The enumerator of one source.
pub struct Enumerator {
    uid: Arc<str>,
    enumerator: Box<dyn SplitEnumerator>,
    parallelism: u32,
    n_splits: u32,
    finished: bool,
}

impl Enumerator {
    /// `parallelism` is that of the readers; `state` is that of the checkpoint, and `finished`
    /// whether it had found all splits by then.
    ///
    /// # Errors
    /// What the connector says; `Data` if the state is damaged.
    pub fn new(
        uid: Arc<str>,
        source: &Arc<dyn Source>,
        parallelism: u32,
        state: &mut OperatorState,
        finished: bool,
    ) -> Result<Enumerator> {
        let damaged = |e| {
            Error::new(
                code::SNAPSHOT_DAMAGED,
                format!("source `{uid}`: the state of its splits cannot be read"),
            )
            .with_source(e)
        };
        let items = state.list(FOUND);
        let found: Option<Found> = items
            .last()
            .map(|item| serde_json::from_slice(item))
            .transpose()
            .map_err(damaged)?;
        if let Some(found) = found.as_ref().filter(|found| found.n_splits > SPLITS_MAX) {
            let message = format!(
                "source `{uid}`: the state says that there are {} splits",
                found.n_splits
            );
            return Err(Error::new(code::SNAPSHOT_DAMAGED, message));
        }
        let n_splits = found.as_ref().map_or(0, |found| found.n_splits);
        let words = found.map(|found| match found.connector {
            Some(words) => words,
            // What is no text is no JSON either, and is refused as such.
            None => String::from_utf8_lossy(&items[..items.len() - 1].concat()).into_owned(),
        });
        let enumerator = source.enumerator(words.as_deref())?;
        Ok(Enumerator {
            uid,
            enumerator,
            parallelism,
            n_splits,
            finished,
        })
    }

    fn snapshot(&self) -> HeadSnapshot {
        let words = self.enumerator.snapshot();
        let found = serde_json::to_vec(&Found {
            n_splits: self.n_splits,
            connector: None,
        })
        .unwrap_or_default();
        let items = words
            .as_bytes()
            .chunks(WORDS_BYTES)
            .map(<[u8]>::to_vec)
            .chain([found])
            .collect();
        let lists = vec![ListSnapshot {
            name: FOUND.into(),
            mode: ListMode::Union,
            types: serde_json::Value::Null,
            items,
        }];
        (
            format!("{}{ENUMERATOR_SUFFIX}", self.uid).into(),
            OperatorSnapshot {
                lists,
                ..OperatorSnapshot::default()
            },
        )
    }

    /// Runs until the source has no more splits, or the job is stopped. `mailbox` is a gate without
    /// channels.
    ///
    /// # Errors
    /// What the connector says, or that the job was cancelled.
    pub fn run(&mut self, task: &mut Task, mailbox: &mut InputGate) -> Result<()> {
        let mut status = Status::Active;
        task.exits.status(0, status)?;
        let mut listed = false;
        while !task.control.is_stopped() && !task.control.is_drained() && !self.finished {
            // Before the first listing is complete no reader knows its status, which goes before
            // any barrier.
            if listed {
                self.barrier(task, mailbox)?;
            }
            match self.enumerator.poll(self.parallelism)? {
                Enumeration::Finished => self.finished = true,
                Enumeration::Splits(splits) => {
                    tell(task, &mut status, Status::Active)?;
                    self.deal(splits, task)?;
                }
                Enumeration::Idle { ms } => {
                    listed = true;
                    tell(task, &mut status, Status::Idle)?;
                    mailbox.wait(Duration::from_millis(ms));
                }
            }
            if task.control.is_cancelled() {
                return Err(Control::cancelled());
            }
        }
        task.end_of_input(mailbox, || self.snapshot())
    }

    /// Deals splits to the readers in turn: rebalancing deals batch by batch, so each batch has the
    /// splits of one reader.
    fn deal(&mut self, splits: Vec<Split>, task: &mut Task) -> Result<()> {
        let of_source = u64::from(murmur3_32(self.uid.as_bytes())) << 32;
        let numbered = splits
            .into_iter()
            .zip(self.n_splits..)
            .map(|(split, n)| Split {
                number: of_source | u64::from(n),
                ..split
            });
        let numbered: Vec<Split> = numbered.collect();
        self.n_splits += numbered.len() as u32;
        let n_readers = self.parallelism.max(1) as usize;
        for some in numbered.chunks(DEALT_SPLITS_MAX * n_readers) {
            for reader in 0..n_readers.min(some.len()) {
                let share: Vec<Split> = some
                    .iter()
                    .skip(reader)
                    .step_by(n_readers)
                    .cloned()
                    .collect();
                task.exits.batch(0, split_rows::to_batch(&share)?)?;
            }
        }
        Ok(())
    }

    fn barrier(&self, task: &mut Task, mailbox: &mut InputGate) -> Result<()> {
        task.commands(mailbox)?;
        match mailbox.poll(Some(Duration::ZERO))? {
            GateEvent::Barrier(barrier, alignment) => {
                task.checkpoint(barrier, alignment, self.snapshot())
            }
            _ => Ok(()),
        }
    }
}

fn tell(task: &mut Task, status: &mut Status, next: Status) -> Result<()> {
    if *status == next {
        return Ok(());
    }
    *status = next;
    task.exits.status(0, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grown::Grown;
    use serde_json::json;
    use std::collections::BTreeMap;
    use std::path::Path;
    use streamrt_checkpoint::Stored;
    use streamrt_state::{Part, Share};
    use streamrt_types::KeyGroupRange;

    const N_FILES: usize = 100_000;

    fn source(folder: &Path) -> Arc<dyn Source> {
        let options = json!({"path": folder, "watch": true, "settle": "0ms"});
        streamrt_connector::source(
            "file",
            options.as_object().unwrap(),
            &vec![streamrt_wit::Field::new(
                "v",
                streamrt_wit::DataType::String,
            )],
        )
        .unwrap()
    }

    fn touch(folder: &Path, number: usize) {
        std::fs::write(folder.join(format!("{number:07}.txt")), "").unwrap();
    }

    /// Looks for splits once.
    fn found(enumerator: &mut Enumerator) -> usize {
        match enumerator.enumerator.poll(1).unwrap() {
            Enumeration::Splits(splits) => {
                enumerator.n_splits += splits.len() as u32;
                splits.len()
            }
            Enumeration::Idle { .. } => 0,
            Enumeration::Finished => panic!("a watched folder has no end"),
        }
    }

    #[test]
    fn a_checkpoint_writes_the_files_that_were_found_since_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        (0..N_FILES).for_each(|number| touch(folder.path(), number));
        let source = source(folder.path());
        let mut enumerator = Enumerator::new(
            "in".into(),
            &source,
            1,
            &mut OperatorState::default(),
            false,
        )
        .unwrap();
        assert_eq!(found(&mut enumerator), N_FILES);
        let (mut grown, mut objects, mut kept) =
            (Grown::default(), BTreeMap::<String, Vec<u8>>::new(), None);
        let mut sizes = Vec::new();
        for checkpoint in 0..20 {
            if checkpoint > 0 {
                touch(folder.path(), N_FILES + checkpoint);
                assert_eq!(found(&mut enumerator), 1);
            }
            let (mut bytes, (uid, snapshot)) = (Vec::new(), enumerator.snapshot());
            let index = snapshot.write(&uid, 128, &mut bytes);
            let put = |bytes: Vec<u8>| {
                sizes.push(bytes.len());
                let stored = Stored::of(&checkpoint.to_string(), &bytes);
                objects.insert(stored.path.clone(), bytes);
                Ok(stored)
            };
            kept = Some((grown.put(0, &bytes, put).unwrap(), index));
        }
        assert!(
            sizes[0] > 3_000_000 && sizes[1..].iter().all(|n_bytes| *n_bytes < 30_000),
            "{sizes:?}"
        );
        let ((begins, object), index) = kept.unwrap();
        let begin = |begin: &streamrt_checkpoint::Beginning| {
            objects[&begin.stored.path][..begin.used as usize].to_vec()
        };
        let object = [
            begins.iter().map(begin).collect::<Vec<_>>().concat(),
            objects[&object.path].clone(),
        ]
        .concat();
        let share = Share {
            subtask: 0,
            parallelism: 1,
            key_groups: KeyGroupRange::of_subtask(128, 1, 0),
            max_parallelism: 128,
        };
        let mut state = OperatorState::assemble(
            "in:splits",
            &[Some(Part {
                object: Arc::new(object),
                index,
            })],
            share,
        )
        .unwrap();
        let mut again = Enumerator::new("in".into(), &source, 1, &mut state, false).unwrap();
        assert_eq!(
            (again.n_splits as usize, found(&mut again)),
            (N_FILES + 19, 0)
        );
    }

    #[test]
    fn what_an_older_version_kept_is_read() {
        let folder = tempfile::tempdir().unwrap();
        (0..3).for_each(|number| touch(folder.path(), number));
        let path = |number: usize| {
            folder
                .path()
                .join(format!("{number:07}.txt"))
                .to_string_lossy()
                .into_owned()
        };
        let words = json!({"files": [path(0), path(1)], "lengths": {path(0): 0, path(1): 0}, "n-splits": 2, "listed": true}).to_string();
        let item = json!({"n_splits": 2, "connector": words})
            .to_string()
            .into_bytes();
        let list = ListSnapshot {
            name: FOUND.into(),
            mode: ListMode::Union,
            types: serde_json::Value::Null,
            items: vec![item],
        };
        let (mut bytes, snapshot) = (
            Vec::new(),
            OperatorSnapshot {
                lists: vec![list],
                ..OperatorSnapshot::default()
            },
        );
        let index = snapshot.write("in:splits", 128, &mut bytes);
        let share = Share {
            subtask: 0,
            parallelism: 1,
            key_groups: KeyGroupRange::of_subtask(128, 1, 0),
            max_parallelism: 128,
        };
        let mut state = OperatorState::assemble(
            "in:splits",
            &[Some(Part {
                object: Arc::new(bytes),
                index,
            })],
            share,
        )
        .unwrap();
        let mut enumerator =
            Enumerator::new("in".into(), &source(folder.path()), 1, &mut state, false).unwrap();
        assert_eq!((enumerator.n_splits, found(&mut enumerator)), (2, 1));
    }
}
