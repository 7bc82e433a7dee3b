//! Reads splits in tests, in one go or reopened at their positions. Tests compare rows with their
//! line numbers, and poison.

use std::time::Duration;
use streamrt_operator::{PoisonLine, ReaderPoll, Source, Split, SplitReader};
use streamrt_types::{Batch, Result};

/// What a reader returned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// (line, row as JSON)
    pub rows: Vec<(u64, String)>,
    pub poison: Vec<PoisonLine>,
}

impl Found {
    /// The rows without their lines.
    pub fn texts(&self) -> Vec<&str> {
        self.rows.iter().map(|(_, row)| row.as_str()).collect()
    }

    /// The lines of the rows, and those of the poison.
    pub fn lines(&self) -> (Vec<u64>, Vec<u64>) {
        (
            self.rows.iter().map(|(line, _)| *line).collect(),
            self.poison.iter().map(|line| line.position).collect(),
        )
    }

    fn push(&mut self, batch: &Batch) {
        batch.check().expect("a reader makes sound batches");
        let mut text = Vec::new();
        crate::encoder::RowEncoder::JSON.encode(&batch.columns, false, &mut text);
        let origin = batch.origin.as_ref().expect("a reader names the origin");
        let text = String::from_utf8(text).expect("JSON is text");
        self.rows.extend(
            text.lines()
                .enumerate()
                .map(|(row, line)| (origin.position(row), line.to_owned())),
        );
    }
}

/// Polls once as a task does; returns whether there is more.
pub fn poll(reader: &mut dyn SplitReader, rows: usize, found: &mut Found) -> Result<bool> {
    let poll = reader.poll(rows, Duration::MAX)?;
    found.poison.extend(reader.take_poison());
    match poll {
        ReaderPoll::Batch(batch) => {
            assert!(
                (1..=rows).contains(&batch.n_rows()),
                "{} rows instead of {rows}",
                batch.n_rows()
            );
            found.push(&batch);
            Ok(true)
        }
        ReaderPoll::Pending { .. } => Ok(true),
        ReaderPoll::Finished => Ok(false),
    }
}

/// Reads a split to its end in one go.
pub fn read(source: &dyn Source, split: &Split, rows: usize) -> Result<Found> {
    drain(&mut *source.open(split, None)?, rows)
}

/// Reads what is left.
pub fn drain(reader: &mut dyn SplitReader, rows: usize) -> Result<Found> {
    let mut found = Found::default();
    while poll(reader, rows, &mut found)? {}
    Ok(found)
}

/// Reads a split to its end with a new reader after each number of polls in `cuts`, and then one
/// more, even if nothing was polled.
pub fn read_in_pieces(
    source: &dyn Source,
    split: &Split,
    rows: usize,
    cuts: &[usize],
) -> Result<Found> {
    let mut found = Found::default();
    let mut reader = source.open(split, None)?;
    for &n_polls in cuts {
        for _ in 0..n_polls {
            poll(&mut *reader, rows, &mut found)?;
        }
        let position = reader.position();
        reader = source.open(split, Some(&position))?;
        assert_eq!(
            reader.position(),
            position,
            "a reader that has not read stands where it was opened"
        );
    }
    while poll(&mut *reader, rows, &mut found)? {}
    Ok(found)
}
