//! Rows on their way to the server, and which of them it refuses.
//!
//! The server refuses a COPY as a whole. So what it refuses is cut: first around the line that it
//! names, otherwise into halves, until single rows are left that it refuses alone.

use super::copy_text::{self, ColumnText, Refused};
use bytes::Bytes;
use std::ops::Range;
use streamrt_types::{Batch, Result};

/// Rows as text, and as they came.
#[derive(Default)]
pub struct Waiting {
    pub text: Vec<u8>,
    n_lines: usize,
    batches: Vec<Kept>,
}

/// A batch of which rows are waiting.
struct Kept {
    batch: Batch,
    /// The line of its first row that has one.
    first_line: usize,
    /// Its rows that have no line, ascending.
    refused: Vec<usize>,
}

impl Waiting {
    /// Takes the rows of a batch, except those that are returned.
    ///
    /// # Errors
    /// The same as for [`copy_text::write`].
    pub fn add(&mut self, batch: &Batch, columns: &[ColumnText]) -> Result<Vec<Refused>> {
        let refused = copy_text::write(&batch.columns, columns, &mut self.text)?;
        let without_line = refused.iter().map(|refused| refused.row).collect();
        self.batches.push(Kept {
            batch: batch.clone(),
            first_line: self.n_lines,
            refused: without_line,
        });
        self.n_lines += batch.n_rows() - refused.len();
        Ok(refused)
    }

    pub fn clear(&mut self) {
        *self = Waiting::default();
    }

    /// Batch and row of a line.
    pub fn row(&self, line: usize) -> Option<(&Batch, usize)> {
        let number = self
            .batches
            .partition_point(|kept| kept.first_line <= line)
            .checked_sub(1)?;
        let kept = &self.batches[number];
        let row = kept
            .refused
            .iter()
            .fold(line - kept.first_line, |row, refused| {
                row + usize::from(*refused <= row)
            });
        (row < kept.batch.n_rows()).then_some((&kept.batch, row))
    }
}

/// Where each line of a text begins, and where the last one ends.
pub fn line_starts(text: &[u8]) -> Vec<usize> {
    std::iter::once(0)
        .chain(memchr::memchr_iter(b'\n', text).map(|end| end + 1))
        .collect()
}

/// The text of some lines.
pub fn lines(text: &Bytes, starts: &[usize], lines: &Range<usize>) -> Bytes {
    text.slice(starts[lines.start]..starts[lines.end])
}

/// Lines that are refused together, in parts that are to be tried next, in their order. `named` is
/// the line that the server names, from 1.
pub fn cut(refused: &Range<usize>, named: Option<usize>) -> Vec<Range<usize>> {
    let at = named
        .and_then(|line| refused.start.checked_add(line.checked_sub(1)?))
        .filter(|at| refused.contains(at));
    let parts = match at {
        Some(at) => vec![refused.start..at, at..at + 1, at + 1..refused.end],
        None => {
            let middle = refused.start + refused.len() / 2;
            vec![refused.start..middle, middle..refused.end]
        }
    };
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, RecordBatch, StringArray};
    use std::sync::Arc;

    fn batch(texts: &[&str]) -> Batch {
        let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        Batch::new(RecordBatch::try_from_iter([("t", column)]).unwrap())
    }

    #[test]
    fn a_line_finds_its_row_again() {
        let mut waiting = Waiting::default();
        for texts in [
            &["\0", "a", "\0", "\0", "b"][..],
            &["\0"],
            &[],
            &["c", "\0", "d", "\0"],
        ] {
            waiting.add(&batch(texts), &[ColumnText::Text]).unwrap();
        }
        assert_eq!(waiting.text, b"a\nb\nc\nd\n");
        let text_of = |line| {
            let (batch, row) = waiting.row(line)?;
            use arrow_array::cast::AsArray;
            Some(
                batch
                    .columns
                    .column(0)
                    .as_string::<i32>()
                    .value(row)
                    .to_owned(),
            )
        };
        let found: Vec<Option<String>> = (0..5).map(text_of).collect();
        assert_eq!(
            found,
            [
                Some("a".into()),
                Some("b".into()),
                Some("c".into()),
                Some("d".into()),
                None
            ]
        );
        let (text, starts) = (
            Bytes::from(waiting.text.clone()),
            line_starts(&waiting.text),
        );
        assert_eq!(lines(&text, &starts, &(1..3)), "b\nc\n");
    }

    /// Cuts until single lines are left, and returns those that `refuses`, with how often it was
    /// asked.
    fn isolate(n: usize, names: bool, refuses: impl Fn(usize) -> bool) -> (Vec<usize>, usize) {
        let (mut work, mut found, mut asked) = (vec![0..n], Vec::new(), 0);
        while let Some(lines) = work.pop() {
            asked += 1;
            match lines.clone().find(|&line| refuses(line)) {
                None => {}
                Some(line) if lines.len() == 1 => found.push(line),
                Some(line) => work.extend(
                    cut(&lines, names.then(|| line - lines.start + 1))
                        .into_iter()
                        .rev(),
                ),
            }
        }
        (found, asked)
    }

    #[test]
    fn what_is_refused_is_found_by_halves_or_by_the_line_that_is_named() {
        for names in [false, true] {
            for (n, refused) in [
                (1, vec![0]),
                (1000, vec![0]),
                (1000, vec![999]),
                (1000, vec![3, 4, 500]),
                (10, (0..10).collect()),
            ] {
                assert_eq!(isolate(n, names, |line| refused.contains(&line)).0, refused);
            }
        }
        assert!(isolate(1000, false, |line| line == 700).1 <= 21);
        assert!(isolate(1000, true, |line| line == 700).1 <= 4);
    }

    #[test]
    fn a_line_that_is_none_is_not_believed() {
        for named in [None, Some(0), Some(5), Some(usize::MAX)] {
            assert_eq!(cut(&(2..6), named), [2..4, 4..6], "{named:?}");
        }
        assert_eq!(cut(&(2..6), Some(1)), [2..3, 3..6]);
        assert_eq!(cut(&(2..6), Some(4)), [2..5, 5..6]);
    }
}
