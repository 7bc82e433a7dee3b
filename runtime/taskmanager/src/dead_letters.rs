//! Where skipped records go: files of JSON lines that are committed with the checkpoints, as those
//! of the sink `file`; or, where no folder is configured, the log, shortly.
//!
//! Each task has dead letters of its own. Its operators write them, and [`DeadLetterOperator`],
//! which stands at the end of its chain and gets no rows, takes part in checkpoints for them: so a
//! record that is treated again after a crash has its letter once.

use crate::factory::Factory;
use crate::places::Promised;
use crate::restored::Restored;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use streamrt_operator::{
    COMMITTABLES, DeadLetter, Operator, OperatorContext, Output, Sink, SinkOperator, SplitEvent,
    TaskMetrics, record_text, transaction_prefix,
};
use streamrt_state::{OperatorSnapshot, OperatorState};
use streamrt_types::{Batch, Error, Result, Status, Watermark, code, say};
use streamrt_wit::Options;

/// A snapshot keeps the dead letters of a task under the uid of its first operator with this
/// suffix.
pub(crate) const DEAD_LETTERS_SUFFIX: &str = ":dead-letters";

/// The configuration key of the folder.
pub(crate) const KEY: &str = "poison.dead-letters";

/// What the transactions are called by. The uid of a task's operator would change with the shape of
/// its chain.
const TRANSACTIONS: &str = "dead_letters";

/// Dead letters that a task shows in the log; the rest is only counted.
const SHOWN_MAX: u32 = 10;

/// The dead letters of one task.
#[derive(Clone, Default)]
pub(crate) struct DeadLetters(Arc<Mutex<Letters>>);

#[derive(Default)]
struct Letters {
    folder: Option<String>,
    /// How its transactions are called.
    context: Option<OperatorContext>,
    /// Made by the first letter: a job without any writes nothing.
    sink: Option<SinkOperator>,
    n_shown: u32,
}

impl DeadLetters {
    pub fn new(folder: Option<String>) -> DeadLetters {
        DeadLetters(Arc::new(Mutex::new(Letters {
            folder,
            ..Letters::default()
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a letter.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be written: a record must not vanish unseen.
    pub fn put(&self, letter: &DeadLetter) -> Result<()> {
        let mut letters = self.lock();
        if letters.folder.is_none() {
            letters.show(letter);
            return Ok(());
        }
        let batch = batch_of(letter)?;
        letters.sink()?.batch(batch, &mut Nowhere)
    }
}

impl Letters {
    fn show(&mut self, letter: &DeadLetter) {
        self.n_shown = self.n_shown.saturating_add(1);
        if self.n_shown <= SHOWN_MAX {
            let record = record_text::short(letter.record.as_bytes());
            say!(
                "skipped [{}] {}: {} ({}) {record}",
                letter.code,
                letter.uid,
                letter.message,
                letter.position
            );
        } else if self.n_shown == SHOWN_MAX + 1 {
            say!(
                "skipped more; the summary counts them, and `-D poison.dead-letters=DIR` keeps them"
            );
        }
    }

    fn sink(&mut self) -> Result<&mut SinkOperator> {
        let sink = match (self.sink.take(), &self.folder, &self.context) {
            (Some(sink), ..) => sink,
            (None, Some(folder), Some(context)) => {
                let mut sink = SinkOperator::new(writer(folder)?, None);
                sink.open(context)?;
                sink
            }
            _ => {
                return Err(Error::internal(
                    "a dead letter was written before its task was open",
                ));
            }
        };
        Ok(self.sink.insert(sink))
    }
}

/// The sink of the folder.
fn writer(folder: &str) -> Result<Box<dyn Sink>> {
    let mut options = Options::new();
    options.insert("path".into(), folder.into());
    streamrt_connector::sink(
        "file",
        &options,
        batch_of(&DeadLetter::default())?.columns.schema(),
    )
}

fn batch_of(letter: &DeadLetter) -> Result<Batch> {
    let text = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
    let columns = [
        ("uid", text(&letter.uid)),
        ("code", text(letter.code)),
        ("message", text(&letter.message)),
        ("backtrace", text(&letter.backtrace)),
        ("position", text(&letter.position)),
        ("key", text(&letter.key)),
        ("record", text(&letter.record)),
        ("record_encoding", text(letter.record_encoding.name())),
        ("time_ms", Arc::new(Int64Array::from(vec![letter.time_ms]))),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.map(|(name, column)| (name, column, name == "time_ms")),
    );
    batch
        .map(Batch::new)
        .map_err(|e| Error::internal("a dead letter does not make a row").with_source(e))
}

/// The beginning of the names of all transactions of dead letters of a job.
pub(crate) fn prefix(job: &str) -> String {
    transaction_prefix(job, TRANSACTIONS)
}

/// Commits the dead letters that a checkpoint holds, unless that is known to be done, and withdraws
/// those whose names begin with `prefixes`.
///
/// # Errors
/// `Data` if they cannot be committed any more, S2007 if it is not known any more where they are.
pub(crate) fn settle(
    factory: &Factory<'_>,
    restored: Option<&Restored>,
    prefixes: &[String],
) -> Result<()> {
    let uids = restored
        .iter()
        .flat_map(|restored| restored.with_state())
        .filter(|uid| uid.ends_with(DEAD_LETTERS_SUFFIX));
    let parts = uids.flat_map(|uid| restored.map_or(&[][..], |restored| restored.parts(uid)));
    let items = parts
        .flatten()
        .map(|part| part.list(COMMITTABLES))
        .collect::<Result<Vec<_>>>()?
        .concat();
    let folder = factory.definition.configuration.dead_letters.as_deref();
    let promised = restored.map_or(Promised::Here, |restored| {
        restored.places.of_letters(folder, &factory.job)
    });
    match promised {
        Promised::Elsewhere => {}
        Promised::Before(old) => settle_in(old, &items, prefixes)?,
        Promised::Here if folder.is_none() && !items.is_empty() => {
            let message = "the checkpoint promises dead letters, but `poison.dead-letters` does not say any more in which folder they are";
            return Err(Error::new(code::BAD_OPTION, message));
        }
        Promised::Here => {
            return folder.map_or(Ok(()), |folder| settle_in(folder, &items, prefixes));
        }
    }
    folder.map_or(Ok(()), |folder| settle_in(folder, &[], prefixes))
}

fn settle_in(folder: &str, items: &[Vec<u8>], prefixes: &[String]) -> Result<()> {
    let mut writer = writer(folder)?;
    let place = |e: Error| e.at(format_args!("dead letters in {folder}"));
    items
        .iter()
        .try_for_each(|item| writer.commit(item))
        .map_err(place)?;
    prefixes
        .iter()
        .try_for_each(|prefix| writer.abort_unlisted(prefix, &[]))
        .map_err(place)
}

/// Takes part in checkpoints for the dead letters of its task.
pub(crate) struct DeadLetterOperator {
    letters: DeadLetters,
    /// The task's number in the job, which makes the names of its transactions its own.
    task: u32,
}

impl DeadLetterOperator {
    pub fn new(letters: DeadLetters, task: u32) -> DeadLetterOperator {
        DeadLetterOperator { letters, task }
    }
}

impl Operator for DeadLetterOperator {
    fn open(&mut self, context: &OperatorContext) -> Result<()> {
        let metrics = Arc::new(TaskMetrics::default());
        self.letters.lock().context = Some(OperatorContext {
            uid: TRANSACTIONS.into(),
            subtask: self.task,
            metrics,
            ..context.clone()
        });
        Ok(())
    }

    fn batch(&mut self, _: Batch, _: &mut dyn Output) -> Result<()> {
        Err(Error::internal("the operator of dead letters gets no rows"))
    }

    fn end_of_input(&mut self, output: &mut dyn Output) -> Result<()> {
        self.letters
            .lock()
            .sink
            .as_mut()
            .map_or(Ok(()), |sink| sink.end_of_input(output))
    }

    fn snapshot(&mut self, checkpoint: u64) -> Result<OperatorSnapshot> {
        self.letters
            .lock()
            .sink
            .as_mut()
            .map_or(Ok(OperatorSnapshot::default()), |sink| {
                sink.snapshot(checkpoint)
            })
    }

    /// What was pending has been committed before any task began.
    fn restore(&mut self, state: &mut OperatorState) -> Result<()> {
        state.list(COMMITTABLES);
        Ok(())
    }

    fn checkpoint_complete(&mut self, checkpoint: u64) -> Result<()> {
        self.letters
            .lock()
            .sink
            .as_mut()
            .map_or(Ok(()), |sink| sink.checkpoint_complete(checkpoint))
    }

    fn awaits_checkpoint(&self) -> bool {
        self.letters
            .lock()
            .sink
            .as_ref()
            .is_some_and(|sink| sink.awaits_checkpoint())
    }

    fn close(&mut self) -> Result<()> {
        self.letters
            .lock()
            .sink
            .as_mut()
            .map_or(Ok(()), |sink| sink.close())
    }
}

/// A sink puts nothing out.
struct Nowhere;

impl Output for Nowhere {
    fn batch(&mut self, _: u16, _: Batch) -> Result<()> {
        Ok(())
    }
    fn watermark(&mut self, _: Watermark) -> Result<()> {
        Ok(())
    }
    fn status(&mut self, _: Status) -> Result<()> {
        Ok(())
    }
    fn split(&mut self, _: SplitEvent) -> Result<()> {
        Ok(())
    }
}
