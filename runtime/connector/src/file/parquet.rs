//! Parquet files as splits: each split is the row groups whose first byte lies in its range of
//! bytes.
//!
//! Columns are found by name, and the file's type may be a smaller one than the schema's: what is
//! read is what was written, or the file is refused. Timestamps of any unit become ms, rounded
//! down; INT96, which Spark and Hive write, counts days and so covers more years than 64 bits of
//! ns. Positions are row numbers, counted from 1 at the beginning of the split. A row with a null
//! where the schema has none is a poison record.

mod bounds;

use super::compressed::is_of_disk;
use super::{FileOptions, passed_over};
use crate::enumerator::{FileEnumerator, FileSplit, missing};
use crate::{file_name, position};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType, TimestampNanosecondType};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, BooleanArray, RecordBatch};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use bounds::{BoundedFile, check_chunks};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use streamrt_operator::json;
use streamrt_operator::{PoisonLine, ReaderPoll, Source, Split, SplitEnumerator, SplitReader};
use streamrt_types::{Batch, Error, Origin, Result, Rows, code};

pub struct ParquetSource {
    options: Arc<FileOptions>,
    schema: SchemaRef,
}

/// The size of a page as most writers make them.
const PAGE_BYTES: usize = 1 << 20;

/// The least number of rows that are decoded at once.
const DECODED_ROWS_MIN: usize = 1024;

/// Where a reader resumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ParquetPosition {
    /// Rows of the split that were read.
    rows: u64,
    /// Length of the whole file: such a file never grows.
    file_bytes: u64,
}

type Builder = ParquetRecordBatchReaderBuilder<BoundedFile>;

impl ParquetSource {
    /// # Errors
    /// `Invalid` if the schema has no columns.
    pub fn new(options: FileOptions, schema: SchemaRef) -> Result<ParquetSource> {
        if schema.fields().is_empty() {
            return Err(Error::new(
                code::SCHEMA_MISMATCH,
                "connector `file`: the schema has no columns",
            ));
        }
        Ok(ParquetSource {
            options: Arc::new(options),
            schema,
        })
    }

    /// Which of the file's columns are read.
    fn mask(&self, path: &str, builder: &Builder) -> Result<ProjectionMask> {
        let found = builder.schema();
        let mut roots = Vec::new();
        for field in self.schema.fields() {
            let refuse =
                |what: String| Error::new(code::SCHEMA_MISMATCH, format!("{path}: {what}"));
            let names = || {
                found
                    .fields()
                    .iter()
                    .map(|field| field.name().as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let root = found.index_of(field.name()).map_err(|_| {
                refuse(format!(
                    "no column is named `{}`; there are {}",
                    field.name(),
                    names()
                ))
            })?;
            let (there, wanted) = (found.field(root).data_type(), field.data_type());
            if !is_readable(there, wanted) {
                return Err(refuse(format!(
                    "column `{}` is {there}, which cannot be read as {wanted}",
                    field.name()
                )));
            }
            roots.push(root);
        }
        Ok(ProjectionMask::roots(builder.parquet_schema(), roots))
    }
}

impl ParquetSource {
    /// Opens a split whose rows are read.
    fn read(
        &self,
        split: &Split,
        detail: &FileSplit,
        position: Option<ParquetPosition>,
    ) -> Result<ParquetReader> {
        let path = file_name::to_path(&detail.path);
        let file = File::open(&path).map_err(|e| missing(&path, e))?;
        let file_bytes = file.metadata().map_err(|e| missing(&path, e))?.len();
        let path = path.display().to_string();
        check_length(&path, file_bytes, position)?;
        let file = BoundedFile::new(file, file_bytes);
        let metadata = unless_it_panics(|| metadata(&file)).map_err(|e| unreadable(&path, e))?;
        check_chunks(metadata.metadata(), file_bytes).map_err(|e| unreadable(&path, e))?;
        let builder = Builder::new_with_metadata(file, metadata);
        let mask = self.mask(&path, &builder)?;
        let held_bytes = page_bytes(&builder, &mask);
        let rows = position.map_or(Ok(0), |position| {
            position::count(&split.name, position.rows)
        })?;
        let groups = groups_of(detail, &builder);
        let behind =
            usize::try_from(rows).map_err(|_| position::damaged(&split.name, &rows.to_string()))?;
        let builder = builder.with_projection(mask).with_row_groups(groups);
        Ok(ParquetReader {
            rest: Rest::Unread(Box::new(builder)),
            held_bytes,
            behind,
            ahead: None,
            schema: self.schema.clone(),
            path,
            split: split.name.clone(),
            split_number: split.number,
            position: ParquetPosition { rows, file_bytes },
            poison: Vec::new(),
        })
    }
}

impl Source for ParquetSource {
    fn bounded(&self) -> bool {
        !self.options.watch
    }

    fn enumerator(&self, restored: Option<&str>) -> Result<Box<dyn SplitEnumerator>> {
        Ok(Box::new(FileEnumerator::new(
            self.options.clone(),
            false,
            restored,
        )?))
    }

    fn admits(&self, split: &Split) -> Result<()> {
        super::admits(&self.options, split)
    }

    fn open(&self, split: &Split, position: Option<&str>) -> Result<Box<dyn SplitReader>> {
        let detail: FileSplit = position::read(&split.name, &split.detail)?;
        if let Some(reporter) = passed_over::reported(&detail, position) {
            return Ok(reporter);
        }
        let at: Option<ParquetPosition> = position
            .map(|text| position::read(&split.name, text))
            .transpose()?;
        match self.read(split, &detail, at) {
            Ok(reader) => Ok(Box::new(reader)),
            Err(error) if at.is_none() => {
                passed_over::meet_missing(&detail, error, self.options.missing)
            }
            Err(error) => Err(error),
        }
    }
}

/// The file's metadata. Its INT96 columns are to be read as ms, for which 64 bits are always
/// enough; ns would wrap.
fn metadata(file: &BoundedFile) -> Result<ArrowReaderMetadata, ParquetError> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata = ArrowReaderMetadata::load(file, options.clone())?;
    let roots = metadata.parquet_schema().root_schema().get_fields();
    let is_int96 = |root: usize| {
        roots[root].is_primitive() && roots[root].get_physical_type() == PhysicalType::INT96
    };
    if !(0..roots.len()).any(is_int96) {
        return Ok(metadata);
    }
    let in_ms = |(root, field): (usize, &Arc<Field>)| match is_int96(root) {
        true => Arc::new(
            field
                .as_ref()
                .clone()
                .with_data_type(DataType::Timestamp(TimeUnit::Millisecond, None)),
        ),
        false => field.clone(),
    };
    let fields: Vec<Arc<Field>> = metadata
        .schema()
        .fields()
        .iter()
        .enumerate()
        .map(in_ms)
        .collect();
    ArrowReaderMetadata::try_new(
        metadata.metadata().clone(),
        options.with_schema(Arc::new(Schema::new(fields))),
    )
}

fn check_length(path: &str, file_bytes: u64, position: Option<ParquetPosition>) -> Result<()> {
    match position {
        Some(position) if position.file_bytes != file_bytes => Err(position::lost(format!(
            "{path} has {file_bytes} bytes, but had {} when row {} was read: put it back as it was",
            position.file_bytes, position.rows
        ))),
        _ => Ok(()),
    }
}

/// The row groups that begin in the range of a split.
fn groups_of(split: &FileSplit, builder: &Builder) -> Vec<usize> {
    let begin = |group: usize| {
        builder
            .metadata()
            .row_group(group)
            .columns()
            .first()
            .map_or(0, |column| column.byte_range().0)
    };
    (0..builder.metadata().num_row_groups())
        .filter(|&group| (split.start..split.end).contains(&begin(group)))
        .collect()
}

/// The approximate size of the pages that a reader has at once: one of each column.
fn page_bytes(builder: &Builder, mask: &ProjectionMask) -> usize {
    let of_column = |column: usize| {
        let sizes = builder
            .metadata()
            .row_groups()
            .iter()
            .map(|group| group.column(column).uncompressed_size());
        usize::try_from(sizes.max().unwrap_or(0))
            .unwrap_or(0)
            .min(PAGE_BYTES)
    };
    (0..builder.parquet_schema().num_columns())
        .filter(|column| mask.leaf_included(*column))
        .map(of_column)
        .sum()
}

/// Whether every value of one type is one of the other.
fn is_readable(there: &DataType, wanted: &DataType) -> bool {
    use DataType::{
        Binary, Float32, Float64, Int8, Int16, Int32, Int64, Timestamp, UInt8, UInt16, UInt32,
        UInt64, Utf8,
    };
    match (there, wanted) {
        (Int8 | Int16 | UInt8 | UInt16, Int32 | Int64)
        | (Int32 | UInt32 | Timestamp(..), Int64) => true,
        (UInt8 | UInt16, UInt32 | UInt64) | (UInt32, UInt64) => true,
        (Float32, Float64) | (Utf8, Binary) => true,
        _ => there == wanted,
    }
}

/// The column as the schema wants it.
///
/// # Errors
/// If a timestamp does not fit into 64 bits of ms.
fn converted(column: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, ArrowError> {
    let strict = CastOptions {
        safe: false,
        ..Default::default()
    };
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            Ok(floored::<TimestampNanosecondType>(column, 1_000_000))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Ok(floored::<TimestampMicrosecondType>(column, 1000))
        }
        DataType::Timestamp(_, zone) => {
            let in_ms = cast_with_options(
                column,
                &DataType::Timestamp(TimeUnit::Millisecond, zone.clone()),
                &strict,
            )?;
            cast_with_options(&in_ms, wanted, &strict)
        }
        there if there == wanted => Ok(column.clone()),
        _ => cast_with_options(column, wanted, &strict),
    }
}

/// The library panics on damage that it did not anticipate.
fn unless_it_panics<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    let read = catch_unwind(AssertUnwindSafe(read));
    read.unwrap_or_else(|_| {
        Err(ParquetError::General(
            "the columns do not hold together".to_owned(),
        ))
    })
}

/// Times in ms, of which `per_ms` units make one. A cast would round towards 1970.
fn floored<T: ArrowPrimitiveType<Native = i64>>(column: &ArrayRef, per_ms: i64) -> ArrayRef {
    Arc::new(
        column
            .as_primitive::<T>()
            .unary::<_, Int64Type>(|time| time.div_euclid(per_ms)),
    )
}

fn unreadable(path: &str, error: ParquetError) -> Error {
    // A footer that points beyond the end is not an error of the disk.
    let code = if is_of_disk(&error) {
        code::FILE_IO
    } else {
        code::BAD_FILE
    };
    Error::new(code, format!("{path} cannot be read as Parquet")).with_source(error)
}

/// What is still to be read.
enum Rest {
    /// The size of its batches is not known yet.
    Unread(Box<Builder>),
    Reader(ParquetRecordBatchReader),
    Ended,
}

struct ParquetReader {
    rest: Rest,
    held_bytes: usize,
    /// Rows at the beginning that an earlier reader has returned. They are decoded and dropped:
    /// when it skips pages itself, the library also asks for headers where there are none.
    behind: usize,
    /// Rows that were read and did not fit into the last batch.
    ahead: Option<RecordBatch>,
    schema: SchemaRef,
    path: String,
    split: Arc<str>,
    split_number: u64,
    position: ParquetPosition,
    poison: Vec<PoisonLine>,
}

impl ParquetReader {
    /// The next rows, as the file has them.
    fn next(&mut self, rows: usize) -> Result<Option<RecordBatch>> {
        self.rest = match std::mem::replace(&mut self.rest, Rest::Ended) {
            // Whatever the first call asks for, a column is decoded in pieces of some size.
            Rest::Unread(builder) => {
                let build = || builder.with_batch_size(rows.max(DECODED_ROWS_MIN)).build();
                Rest::Reader(unless_it_panics(build).map_err(|e| unreadable(&self.path, e))?)
            }
            rest => rest,
        };
        let found = match self.ahead.take() {
            None => self.decoded()?,
            ahead => ahead,
        };
        let Some(found) = found else {
            self.rest = Rest::Ended;
            return Ok(None);
        };
        let n_rows = found.num_rows().min(rows);
        self.ahead = Some(found.slice(n_rows, found.num_rows() - n_rows))
            .filter(|ahead| ahead.num_rows() > 0);
        Ok(Some(found.slice(0, n_rows)))
    }

    /// The next rows that no reader has returned, as many as are decoded at once.
    fn decoded(&mut self) -> Result<Option<RecordBatch>> {
        while let Rest::Reader(reader) = &mut self.rest {
            let read = unless_it_panics(|| Ok(reader.next().transpose()))
                .map_err(|e| unreadable(&self.path, e))?;
            let Some(found) = read.map_err(|e| self.damaged(e))? else {
                return Ok(None);
            };
            let known = self.behind.min(found.num_rows());
            self.behind -= known;
            if known < found.num_rows() {
                return Ok(Some(found.slice(known, found.num_rows() - known)));
            }
        }
        Ok(None)
    }

    fn damaged(&self, error: ArrowError) -> Error {
        let code = if is_of_disk(&error) {
            code::FILE_IO
        } else {
            code::BAD_FILE
        };
        let message = format!(
            "{} cannot be read after row {} of the split",
            self.path, self.position.rows
        );
        Error::new(code, message).with_source(error)
    }

    /// The columns of the schema, in its order. Rows with a forbidden null are kept apart as
    /// poison.
    fn batch(&mut self, found: &RecordBatch) -> Result<Option<Batch>> {
        let first = self.position.rows + 1;
        let wanted = self.schema.fields();
        let columns = wanted.iter().map(|field| {
            let column = found
                .column_by_name(field.name())
                .ok_or_else(|| ArrowError::SchemaError("a column is gone".to_owned()))?;
            converted(column, field.data_type())
        });
        let columns: Vec<ArrayRef> = columns
            .collect::<Result<_, ArrowError>>()
            .map_err(|e| self.damaged(e))?;
        let refused = self.refused(&columns, found.num_rows());
        if refused.is_empty() {
            return self.rows(columns, Rows::Range { first }).map(Some);
        }
        let names = wanted.iter().map(|field| field.name());
        let shown = RecordBatch::try_from_iter_with_nullable(
            names
                .zip(&columns)
                .map(|(name, column)| (name, column.clone(), true)),
        );
        let shown = shown.map_err(|e| self.damaged(e))?;
        for &row in &refused {
            self.refuse(&shown, row);
        }
        let kept: BooleanArray = (0..found.num_rows())
            .map(|row| Some(refused.binary_search(&row).is_err()))
            .collect();
        let columns = columns
            .iter()
            .map(|column| arrow_select::filter::filter(column, &kept))
            .collect::<Result<_, _>>();
        let positions = (0..found.num_rows())
            .filter(|row| refused.binary_search(row).is_err())
            .map(|row| first + row as u64);
        let batch = self.rows(
            columns.map_err(|e| self.damaged(e))?,
            Rows::Array(positions.collect()),
        )?;
        Ok(Some(batch).filter(|batch| batch.n_rows() > 0))
    }

    fn rows(&self, columns: Vec<ArrayRef>, rows: Rows) -> Result<Batch> {
        let columns =
            RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| self.damaged(e))?;
        let origin = Origin {
            split: self.split.clone(),
            split_number: self.split_number,
            rows,
        };
        Ok(Batch {
            origin: Some(origin),
            ..Batch::new(columns)
        })
    }

    /// The rows that have a forbidden null.
    fn refused(&self, columns: &[ArrayRef], n_rows: usize) -> Vec<usize> {
        let mut fields = self.schema.fields().iter().zip(columns);
        if fields.all(|(field, column)| field.is_nullable() || column.null_count() == 0) {
            return Vec::new();
        }
        (0..n_rows)
            .filter(|&row| self.null_column(columns, row).is_some())
            .collect()
    }

    /// The first column that has a null in this row and must not.
    fn null_column(&self, columns: &[ArrayRef], row: usize) -> Option<&str> {
        let mut fields = self.schema.fields().iter().zip(columns);
        fields
            .find(|(field, column)| !field.is_nullable() && column.is_null(row))
            .map(|(field, _)| field.name().as_str())
    }

    fn refuse(&mut self, rows: &RecordBatch, row: usize) {
        let record = json::row(rows, row).into_bytes();
        let reason = format!(
            "column `{}` is null, but it must have a value",
            self.null_column(rows.columns(), row).unwrap_or_default()
        );
        self.poison.push(PoisonLine::refused(
            self.position.rows + 1 + row as u64,
            record,
            reason,
        ));
    }
}

impl SplitReader for ParquetReader {
    fn poll(&mut self, rows: usize, _timeout: Duration) -> Result<ReaderPoll> {
        let Some(found) = self.next(rows)? else {
            return Ok(ReaderPoll::Finished);
        };
        let batch = self.batch(&found)?;
        self.position.rows += found.num_rows() as u64;
        Ok(batch.map_or(ReaderPoll::Pending { ms: 0 }, ReaderPoll::Batch))
    }

    fn position(&self) -> String {
        position::write(&self.position)
    }

    fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn way_back(&self) -> u64 {
        self.position.rows
    }

    fn take_poison(&mut self) -> Vec<PoisonLine> {
        std::mem::take(&mut self.poison)
    }
}

#[cfg(test)]
mod tests;
