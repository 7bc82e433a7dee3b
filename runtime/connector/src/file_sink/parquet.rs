//! Parquet files: every type of a stream has its own counterpart there, so a file read again gives
//! the same columns.
//!
//! Columns of event time are `i64` in ms, as everywhere; those that the option `timestamps` names
//! are written as Parquet's timestamps in ms, UTC, which other programs show as times. Pages are
//! compressed by Snappy.

use super::disk::{file_error, look, sync_folder};
use super::part::PartWriter;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMillisecondType};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use streamrt_types::{Error, Result, code};

/// Rows gather in memory up to this size, then a row group is written.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// The zone of all event times.
const ZONE: &str = "UTC";

pub struct ParquetPart {
    writer: ArrowWriter<File>,
    path: PathBuf,
    schema: SchemaRef,
}

impl ParquetPart {
    /// `schema` is the one of [`file_schema`].
    pub fn new(file: File, path: &Path, schema: SchemaRef) -> Result<ParquetPart> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by("streamrt".to_owned())
            .build();
        // Parquet's own types say everything about ours.
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(file, schema.clone(), options)
            .map_err(|e| write_error(path, e))?;
        Ok(ParquetPart {
            writer,
            path: path.to_owned(),
            schema,
        })
    }
}

impl PartWriter for ParquetPart {
    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let columns = rows
            .columns()
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| stamped(column, field))
            .collect();
        let rows = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|e| Error::internal("rows fit their file").with_source(e))?;
        self.writer
            .write(&rows)
            .map_err(|e| write_error(&self.path, e))?;
        if self.writer.in_progress_size() < ROW_GROUP_BYTES {
            return Ok(());
        }
        self.writer.flush().map_err(|e| write_error(&self.path, e))
    }

    fn n_bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    fn finish(&mut self) -> Result<u64> {
        self.writer
            .finish()
            .map_err(|e| write_error(&self.path, e))?;
        let file = self.writer.inner();
        file.sync_all()
            .map_err(|e| file_error(&self.path, "cannot be synced", e))?;
        file.metadata()
            .map(|found| found.len())
            .map_err(|e| file_error(&self.path, "cannot be looked at", e))
    }
}

/// One Parquet file, which appears under its name when it is complete.
pub struct ParquetExport {
    part: ParquetPart,
    staged: PathBuf,
    path: PathBuf,
}

impl ParquetExport {
    /// Begins a file in an existing folder. `timestamps` are columns as in the options of the sink.
    ///
    /// # Errors
    /// `Invalid` if something with that name exists, `Unavailable` if it cannot be made.
    pub fn create(path: &Path, schema: &SchemaRef, timestamps: &[String]) -> Result<ParquetExport> {
        if look(path)?.is_some() {
            return Err(Error::new(
                code::EXISTS,
                format!(
                    "{} is there already, and would be overwritten",
                    path.display()
                ),
            ));
        }
        let name = path.file_name().ok_or_else(|| {
            Error::new(
                code::NOT_A_FILE,
                format!("{} names no file", path.display()),
            )
        })?;
        let staged = path.with_file_name(format!(".{}.inprogress", name.to_string_lossy()));
        let file =
            File::create(&staged).map_err(|e| file_error(&staged, "cannot be created", e))?;
        let part = ParquetPart::new(file, &staged, file_schema(schema, timestamps))?;
        Ok(ParquetExport {
            part,
            staged,
            path: path.to_owned(),
        })
    }

    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.part.write(rows)
    }

    /// Ends the file, and gives it its name.
    pub fn finish(mut self) -> Result<()> {
        self.part.finish()?;
        fs::hard_link(&self.staged, &self.path)
            .map_err(|e| file_error(&self.path, "cannot be made a hard link", e))?;
        sync_folder(
            self.path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty())
                .unwrap_or(Path::new(".")),
        )
    }
}

impl Drop for ParquetExport {
    /// What is not complete is useless.
    fn drop(&mut self) {
        fs::remove_file(&self.staged).ok();
    }
}

/// The schema of a file: that of the stream, with timestamps as requested.
pub fn file_schema(schema: &SchemaRef, timestamps: &[String]) -> SchemaRef {
    let field = |field: &Field| match timestamps.contains(field.name()) {
        true => field.clone().with_data_type(DataType::Timestamp(
            TimeUnit::Millisecond,
            Some(ZONE.into()),
        )),
        false => field.clone(),
    };
    Arc::new(Schema::new(
        schema.fields().iter().map(|f| field(f)).collect::<Vec<_>>(),
    ))
}

/// The same numbers, as times where the file has times.
fn stamped(column: &ArrayRef, field: &Field) -> ArrayRef {
    match field.data_type() {
        DataType::Timestamp(..) => Arc::new(
            column
                .as_primitive::<Int64Type>()
                .reinterpret_cast::<TimestampMillisecondType>()
                .with_timezone(ZONE),
        ),
        _ => column.clone(),
    }
}

/// What failed is the disk; a writer of valid rows has no errors of its own.
fn write_error(path: &Path, error: ParquetError) -> Error {
    file_error(path, "cannot be written", io::Error::other(error))
}
