//! The sink `print`: one JSON line per row on stdout, locked once per batch so that lines of
//! subtasks do not mix.
//!
//! Characters that a terminal would obey are escaped; in JSON they stay the same characters.
//!
//! A line appears as soon as its batch comes, and cannot be withdrawn: after a restart, rows since
//! the last checkpoint appear again.

use crate::encoder::RowEncoder;
use serde::Deserialize;
use std::io::Write;
use streamrt_operator::{OperatorContext, Sink};
use streamrt_types::{Batch, Result, printable, printable_bytes, stdout_error};

/// Options of the sink `print`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PrintOptions {
    /// Precedes each line, as in `late> {...}`. Default: nothing. With several subtasks the number
    /// of the subtask, counted from 1, follows as in Flink: `2> {...}`, or `late:2> {...}`.
    #[serde(default)]
    pub prefix: String,
}

/// Writes to `output`, which is stdout except in tests.
pub struct PrintSink<W> {
    options: PrintOptions,
    output: W,
    prefix: String,
    rows: Vec<u8>,
    text: Vec<u8>,
}

impl<W: Write + Send> PrintSink<W> {
    pub fn new(options: PrintOptions, output: W) -> PrintSink<W> {
        PrintSink {
            options,
            output,
            prefix: String::new(),
            rows: Vec::new(),
            text: Vec::new(),
        }
    }

    /// Fills `text` with the rows, each after the prefix.
    fn put_prefixes(&mut self) {
        self.text.clear();
        for line in printable_bytes(&self.rows).split_inclusive(|&byte| byte == b'\n') {
            self.text.extend_from_slice(self.prefix.as_bytes());
            self.text.extend_from_slice(line);
        }
    }
}

/// What Flink's `PrintSinkOutputWriter` puts before a line.
fn prefix(prefix: &str, subtask: u32, parallelism: u32) -> String {
    match (prefix, parallelism > 1) {
        ("", false) => String::new(),
        ("", true) => format!("{}> ", subtask + 1),
        (prefix, false) => format!("{prefix}> "),
        (prefix, true) => format!("{prefix}:{}> ", subtask + 1),
    }
}

impl<W: Write + Send> Sink for PrintSink<W> {
    fn open(&mut self, context: &OperatorContext) -> Result<()> {
        self.prefix = prefix(
            &printable(&self.options.prefix),
            context.subtask,
            context.parallelism,
        );
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        self.rows.clear();
        RowEncoder::JSON.encode(&batch.columns, false, &mut self.rows);
        self.put_prefixes();
        // One call for the whole text: stdout takes its lock inside, once.
        self.output.write_all(&self.text).map_err(stdout_error)?;
        self.output.flush().map_err(stdout_error)
    }

    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
        self.output.flush().map_err(stdout_error)?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use std::sync::Arc;

    #[test]
    fn the_prefix_names_the_subtask_only_among_several() {
        assert_eq!(prefix("", 0, 1), "");
        assert_eq!(prefix("", 1, 2), "2> ");
        assert_eq!(prefix("late", 0, 1), "late> ");
        assert_eq!(prefix("late", 1, 2), "late:2> ");
    }

    #[test]
    fn rows_do_not_command_a_terminal() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["\u{9b}2J\u{202e}"]));
        let mut sink = PrintSink::new(PrintOptions::default(), Vec::new());
        sink.write(&Batch::new(
            RecordBatch::try_from_iter([("t", texts)]).unwrap(),
        ))
        .unwrap();
        assert_eq!(
            String::from_utf8(sink.output).unwrap(),
            "{\"t\":\"\\u009b2J\\u202e\"}\n"
        );
    }

    #[test]
    fn each_row_is_a_line() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let mut sink = PrintSink::new(PrintOptions::default(), Vec::new());
        sink.prefix = prefix("", 2, 4);
        sink.write(&Batch::new(
            RecordBatch::try_from_iter([("n", numbers)]).unwrap(),
        ))
        .unwrap();
        assert_eq!(sink.pre_commit().unwrap(), None);
        assert_eq!(
            String::from_utf8(sink.output).unwrap(),
            "3> {\"n\":1}\n3> {\"n\":2}\n"
        );
    }
}
