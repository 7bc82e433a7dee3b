//! A sink for systems without transactions: rows wait in the checkpoint, and are sent when it is
//! published.
//!
//! 1. `write` encodes rows as they come; nothing leaves the process. 2. `pre_commit` hands them
//!    over as the committable, with the transaction's name, their columns and a checksum. 3.
//!    `commit` decodes and sends them.
//!
//! A commit is repeated when nobody knows whether it was done: after a crash, and at every start
//! from the checkpoint that holds it. A system that recognises a transaction's name gets each row
//! once; any other one may get the rows of the last transaction again.
//!
//! # Source
//! Flink's `GenericWriteAheadSink`, whose checkpoint committer corresponds to the name here.

use crate::operator::OperatorContext;
use crate::sink::Sink;
use arrow_array::RecordBatch;
use std::sync::Arc;
use streamrt_state::RowCodec;
use streamrt_types::{Batch, Error, Result, code};
use streamrt_wit::Schema;

/// The default limit on the bytes of a transaction's rows: they are in memory until the checkpoint,
/// and in it.
pub const WRITE_AHEAD_BYTES: u64 = 64 << 20;

/// The number of rows that are handed over at a time.
const CHUNK_ROWS: usize = 1024;

/// What a committable begins with: its kind and version.
const MAGIC: &[u8; 5] = b"wahd\x01";

/// The connection to a system without transactions.
pub trait WriteAhead: Send {
    fn open(&mut self, _context: &OperatorContext) -> Result<()> {
        Ok(())
    }

    /// Sends the rows of a transaction, of which there is at least one. It may have been sent
    /// before, wholly or in part, under the same name.
    fn send(&mut self, transaction: &str, rows: &[RecordBatch]) -> Result<()>;
}

/// Makes a [`Sink`] from a [`WriteAhead`].
pub struct WriteAheadSink {
    inner: Box<dyn WriteAhead>,
    codec: Arc<RowCodec>,
    /// The columns as JSON, by which rows of another version of the job are recognised.
    columns: String,
    bytes_max: u64,
    transaction: String,
    /// Each row, preceded by its length (u32).
    rows: Vec<u8>,
}

impl WriteAheadSink {
    /// `columns` are those of the batches that will be written.
    pub fn new(inner: Box<dyn WriteAhead>, columns: &Schema, bytes_max: u64) -> WriteAheadSink {
        WriteAheadSink {
            inner,
            codec: Arc::new(RowCodec::new(columns)),
            columns: serde_json::to_string(columns).unwrap_or_default(),
            bytes_max,
            transaction: String::new(),
            rows: Vec::new(),
        }
    }

    /// The committable: magic, name, columns and rows, each of the three preceded by its length,
    /// then their checksum.
    fn seal(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for part in [
            self.transaction.as_bytes(),
            self.columns.as_bytes(),
            &self.rows,
        ] {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        }
        let checksum = *blake3::hash(&bytes).as_bytes();
        bytes.extend(checksum);
        bytes
    }

    /// The name and the rows of a committable.
    fn unseal<'a>(&self, committable: &'a [u8]) -> Result<(&'a str, Vec<&'a [u8]>)> {
        let (name, columns, rows) = parts(committable).ok_or_else(damaged)?;
        if columns != self.columns {
            let message = format!(
                "rows of the transaction {name} wait to be sent with the columns {columns}, but the sink takes {}",
                self.columns
            );
            return Err(Error::new(code::STATE_TYPES, message));
        }
        Ok((name, cut(rows).ok_or_else(damaged)?))
    }
}

fn damaged() -> Error {
    Error::new(
        code::SNAPSHOT_DAMAGED,
        "the rows that wait to be sent are not as they were written",
    )
}

/// Name, columns and rows, if the checksum is right.
fn parts(committable: &[u8]) -> Option<(&str, &str, &[u8])> {
    let (body, checksum) = committable.split_last_chunk::<{ blake3::OUT_LEN }>()?;
    let mut rest = body.strip_prefix(MAGIC)?;
    if blake3::hash(body).as_bytes() != checksum {
        return None;
    }
    let mut part = || {
        let (length, behind) = rest.split_first_chunk::<8>()?;
        let (part, behind) =
            behind.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        rest = behind;
        Some(part)
    };
    Some((
        std::str::from_utf8(part()?).ok()?,
        std::str::from_utf8(part()?).ok()?,
        part()?,
    ))
}

/// Rows without their lengths.
fn cut(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rows = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (row, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        rows.push(row);
        bytes = rest;
    }
    bytes.is_empty().then_some(rows)
}

impl Sink for WriteAheadSink {
    fn open(&mut self, context: &OperatorContext) -> Result<()> {
        self.inner.open(context)
    }

    fn begin(&mut self, transaction: &str) -> Result<()> {
        transaction.clone_into(&mut self.transaction);
        self.rows.clear();
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        for row in 0..batch.n_rows() {
            let start = self.rows.len();
            self.rows.extend([0; 4]);
            self.codec
                .encode(batch.columns.columns(), row, &mut self.rows);
            let length = (self.rows.len() - start - 4) as u32;
            self.rows[start..start + 4].copy_from_slice(&length.to_le_bytes());
        }
        if self.rows.len() as u64 <= self.bytes_max {
            return Ok(());
        }
        let message = format!(
            "a write-ahead sink keeps the rows between two checkpoints, and they have more than {} bytes",
            self.bytes_max
        );
        Err(Error::new(code::WRITE_AHEAD_LIMIT, message))
    }

    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
        let sealed = (!self.rows.is_empty()).then(|| self.seal());
        self.rows.clear();
        Ok(sealed)
    }

    fn commit(&mut self, committable: &[u8]) -> Result<()> {
        let (name, rows) = self.unseal(committable)?;
        let chunks = rows
            .chunks(CHUNK_ROWS)
            .map(|chunk| self.codec.decode(chunk).map_err(|_| damaged()))
            .collect::<Result<Vec<_>>>()?;
        self.inner.send(name, &chunks)
    }

    fn abort(&mut self) -> Result<()> {
        self.rows.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Int64Array, StringArray};
    use std::sync::Mutex;
    use streamrt_wit::{DataType, Field};

    type Sent = Arc<Mutex<Vec<(String, Vec<usize>)>>>;

    /// Keeps names, and the number of rows in each chunk.
    struct Seen(Sent);

    impl WriteAhead for Seen {
        fn send(&mut self, transaction: &str, rows: &[RecordBatch]) -> Result<()> {
            self.0.lock().unwrap().push((
                transaction.to_owned(),
                rows.iter().map(RecordBatch::num_rows).collect(),
            ));
            Ok(())
        }
    }

    fn columns(second: DataType) -> Schema {
        vec![
            Field::new("n", DataType::I64),
            Field {
                nullable: true,
                ..Field::new("s", second)
            },
        ]
    }

    fn sink(bytes_max: u64) -> (WriteAheadSink, Sent) {
        let sent = Sent::default();
        (
            WriteAheadSink::new(
                Box::new(Seen(sent.clone())),
                &columns(DataType::String),
                bytes_max,
            ),
            sent,
        )
    }

    fn rows(n: i64) -> Batch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..n));
        let texts: ArrayRef = Arc::new(StringArray::from_iter(
            (0..n).map(|i| (i % 3 > 0).then(|| format!("text {i}"))),
        ));
        Batch::new(
            RecordBatch::try_from_iter_with_nullable([("n", numbers, false), ("s", texts, true)])
                .unwrap(),
        )
    }

    fn sealed(sink: &mut WriteAheadSink, n: i64) -> Vec<u8> {
        sink.begin("out-j-1-0-7").unwrap();
        sink.write(&rows(n)).unwrap();
        sink.pre_commit().unwrap().unwrap()
    }

    #[test]
    fn rows_are_sent_at_the_commit_under_the_name_of_their_transaction() {
        let (mut sink, sent) = sink(WRITE_AHEAD_BYTES);
        let committable = sealed(&mut sink, 2500);
        sink.begin("out-j-1-0-8").unwrap();
        assert_eq!(
            sink.pre_commit().unwrap(),
            None,
            "a transaction without rows"
        );
        assert!(
            sent.lock().unwrap().is_empty(),
            "nothing leaves before the commit"
        );
        sink.commit(&committable).unwrap();
        sink.commit(&committable).unwrap();
        let once = ("out-j-1-0-7".to_owned(), vec![1024, 1024, 452]);
        assert_eq!(*sent.lock().unwrap(), [once.clone(), once]);
    }

    #[test]
    fn what_was_withdrawn_is_in_no_later_transaction() {
        let (mut sink, _) = sink(WRITE_AHEAD_BYTES);
        sink.begin("a").unwrap();
        sink.write(&rows(3)).unwrap();
        sink.abort().unwrap();
        sink.begin("b").unwrap();
        assert_eq!(sink.pre_commit().unwrap(), None);
    }

    #[test]
    fn too_many_rows_between_two_checkpoints_are_an_error() {
        let (mut sink, _) = sink(100);
        sink.begin("a").unwrap();
        let error = (0..10).find_map(|_| sink.write(&rows(1)).err()).unwrap();
        assert_eq!(
            (
                error.code(),
                error.message().contains("more than 100 bytes")
            ),
            (code::WRITE_AHEAD_LIMIT, true)
        );
    }

    #[test]
    fn no_flipped_bit_and_no_cut_is_sent() {
        let (mut sink, sent) = sink(WRITE_AHEAD_BYTES);
        let committable = sealed(&mut sink, 3);
        for at in 0..committable.len() {
            let mut changed = committable.clone();
            changed[at] ^= 1;
            assert_eq!(
                sink.commit(&changed).unwrap_err().code(),
                code::SNAPSHOT_DAMAGED,
                "byte {at}"
            );
            assert_eq!(
                sink.commit(&committable[..at]).unwrap_err().code(),
                code::SNAPSHOT_DAMAGED,
                "cut at {at}"
            );
        }
        assert!(sent.lock().unwrap().is_empty());
    }

    #[test]
    fn rows_of_other_columns_are_refused() {
        let (mut sink, sent) = sink(WRITE_AHEAD_BYTES);
        let committable = sealed(&mut sink, 3);
        let mut other = WriteAheadSink::new(
            Box::new(Seen(sent)),
            &columns(DataType::Binary),
            WRITE_AHEAD_BYTES,
        );
        assert_eq!(
            other.commit(&committable).unwrap_err().code(),
            code::STATE_TYPES
        );
    }
}
