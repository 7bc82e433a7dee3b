//! The sink `file`: each transaction of a subtask becomes one file `part-<transaction>.jsonl` (or
//! `.csv`, `.parquet`), directly in a folder; or several, if files are to roll: then the second is
//! `part-<transaction>-1.jsonl`, and so on.
//!
//! 1. A file is staged as `.part-<transaction>.jsonl.inprogress`, a name that sources and shells
//!    skip. It is made with its first row, so a transaction without rows leaves nothing.
//! 2. A file is synced as soon as it is ended. `pre_commit` ends the last one, syncs the names too,
//!    and promises all of them (`promise.rs`).
//! 3. `commit` gives each its own name by a hard link, which fails where a rename would overwrite,
//!    and removes the staged name.
//! 4. Staged files that no promise names are removed by `abort_unlisted`.
//!
//! Without checkpoints the end of the job is its only commit, which a killed job never reaches. So
//! a rolling file then gets its own name when it is ended, and a killed job leaves only the last
//! file of each subtask hidden.
//!
//! Invariants: a file with its own name is complete and is never withdrawn, and nothing that exists
//! is overwritten. The folder is made when the sink opens, so a run without results leaves an empty
//! one. Flink's `FileSink` works similarly, but renames.

mod disk;
#[cfg(feature = "parquet")]
mod parquet;
mod part;
mod promise;
mod rolling;

use crate::encoder::{RowEncoder, RowFormat};
use crate::options;
use arrow_schema::{DataType, SchemaRef};
use disk::{file_error, list, look, remove, sync_folder};
#[cfg(feature = "parquet")]
pub use parquet::ParquetExport;
use part::{PartWriter, TextPart};
use promise::{Promise, STAGED, StagedFile};
pub use rolling::RollingOptions;
use rolling::{Extent, Rolling};
use serde::Deserialize;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use streamrt_operator::{OperatorContext, Sink};
use streamrt_types::{Batch, Clock, Error, Result, SystemClock, code};

/// The most files of one transaction. After that the last one grows: a promise stays small.
const FILES_MAX: usize = 1000;

/// Options of the sink `file`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileSinkOptions {
    /// The folder; created, with its parents, if it is not there.
    pub path: String,
    /// `json` (default), `csv` or `parquet`.
    #[serde(default)]
    pub format: FileFormat,
    /// Whether a CSV file begins with a line of the column names. Default false.
    #[serde(default)]
    pub header: bool,
    /// CSV: the character between two fields. Default `,`.
    #[serde(default)]
    pub delimiter: Option<String>,
    /// Parquet: the `i64` columns of times in ms that are written as timestamps. Default: none.
    #[serde(default)]
    pub timestamps: Vec<String>,
    /// When a file is ended before its transaction is.
    #[serde(default)]
    pub rolling: RollingOptions,
}

/// `json`: JSON lines. `csv`: comma-separated values. `parquet`: columns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileFormat {
    #[default]
    Json,
    Csv,
    Parquet,
}

/// One subtask's writer.
pub struct FileSink {
    folder: PathBuf,
    encoding: Encoding,
    rolling: Rolling,
    clock: Arc<dyn Clock>,
    /// The name of the open one.
    transaction: String,
    part: Option<Part>,
    /// The ended files of the transaction.
    ended: Promise,
    /// How many of them have their own names already because nobody will commit them.
    n_visible: usize,
    /// Whether there are checkpoints, which then decide what is visible.
    checkpointed: bool,
}

/// How rows become bytes.
enum Encoding {
    Text {
        encoder: RowEncoder,
        header: bool,
    },
    #[cfg(feature = "parquet")]
    Parquet {
        schema: SchemaRef,
    },
}

/// The open file.
struct Part {
    writer: Box<dyn PartWriter>,
    names: StagedFile,
    n_rows: u64,
    begun_ms: i64,
}

impl Encoding {
    fn new(options: &FileSinkOptions, schema: &SchemaRef) -> Result<Encoding> {
        let format = match options.format {
            FileFormat::Json => RowFormat::Json,
            FileFormat::Csv => RowFormat::Csv,
            FileFormat::Parquet => return Encoding::parquet(options, schema),
        };
        let delimiter = options::delimiter("file", options.delimiter.as_deref().unwrap_or(","))?;
        Ok(Encoding::Text {
            encoder: RowEncoder { format, delimiter },
            header: options.header,
        })
    }

    #[cfg(feature = "parquet")]
    fn parquet(options: &FileSinkOptions, schema: &SchemaRef) -> Result<Encoding> {
        Ok(Encoding::Parquet {
            schema: parquet::file_schema(schema, &options.timestamps),
        })
    }

    #[cfg(not(feature = "parquet"))]
    fn parquet(_options: &FileSinkOptions, _schema: &SchemaRef) -> Result<Encoding> {
        Err(options::left_out("file", "format `parquet`", "parquet"))
    }

    fn extension(&self) -> &'static str {
        match self {
            Encoding::Text { encoder, .. } if encoder.format == RowFormat::Csv => "csv",
            Encoding::Text { .. } => "jsonl",
            #[cfg(feature = "parquet")]
            Encoding::Parquet { .. } => "parquet",
        }
    }

    fn writer(&self, file: File, path: &Path) -> Result<Box<dyn PartWriter>> {
        match self {
            Encoding::Text { encoder, header } => {
                Ok(Box::new(TextPart::new(file, path, *encoder, *header)))
            }
            #[cfg(feature = "parquet")]
            Encoding::Parquet { schema } => Ok(Box::new(parquet::ParquetPart::new(
                file,
                path,
                schema.clone(),
            )?)),
        }
    }
}

impl FileSinkOptions {
    /// # Errors
    /// `Invalid` if it names nothing.
    pub fn check_path(&self) -> Result<()> {
        match self.path.is_empty() {
            true => Err(options::refuse(
                "file",
                "`path` is empty, but it must name a folder",
            )),
            false => Ok(()),
        }
    }

    fn check(&self, schema: &SchemaRef) -> Result<()> {
        self.check_path()?;
        let given = [
            (
                "header",
                "csv",
                self.header && self.format != FileFormat::Csv,
            ),
            (
                "delimiter",
                "csv",
                self.delimiter.is_some() && self.format != FileFormat::Csv,
            ),
            (
                "timestamps",
                "parquet",
                !self.timestamps.is_empty() && self.format != FileFormat::Parquet,
            ),
        ];
        if let Some((name, format, _)) = given.iter().find(|(_, _, is_misplaced)| *is_misplaced) {
            return Err(options::refuse(
                "file",
                &format!("`{name}` is for {format}"),
            ));
        }
        let is_time = |name: &&String| {
            schema
                .field_with_name(name)
                .is_ok_and(|field| *field.data_type() == DataType::Int64)
        };
        match self.timestamps.iter().find(|name| !is_time(name)) {
            None => Ok(()),
            Some(name) => Err(options::refuse(
                "file",
                &format!("`timestamps` names `{name}`, which is no i64 column of the rows"),
            )),
        }
    }
}

impl FileSink {
    /// # Errors
    /// `Invalid` if options contradict one another or the columns of `schema`.
    pub fn new(options: FileSinkOptions, schema: &SchemaRef) -> Result<FileSink> {
        options.check(schema)?;
        Ok(FileSink {
            encoding: Encoding::new(&options, schema)?,
            rolling: Rolling::new(&options.rolling)?,
            folder: PathBuf::from(options.path),
            clock: SystemClock::shared(),
            transaction: String::new(),
            part: None,
            ended: Promise::default(),
            n_visible: 0,
            checkpointed: true,
        })
    }

    /// Makes a staged file. A transaction's name was never used before, so neither of its files is
    /// there.
    fn open_part(&self) -> Result<Part> {
        let name = match self.n_visible + self.ended.files.len() {
            0 => self.transaction.clone(),
            n => format!("{}-{n}", self.transaction),
        };
        let names = StagedFile::named(&name, self.encoding.extension());
        let (staged, complete) = (
            self.folder.join(&names.staged),
            self.folder.join(&names.file),
        );
        if look(&complete)?.is_some() {
            return Err(Error::new(
                code::EXISTS,
                format!(
                    "{} is there already, and would be overwritten",
                    complete.display()
                ),
            ));
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&staged)
            .map_err(|e| file_error(&staged, "cannot be created", e))?;
        Ok(Part {
            writer: self.encoding.writer(file, &staged)?,
            names,
            n_rows: 0,
            begun_ms: self.clock.monotonic_ms(),
        })
    }

    /// Ends the open file, if there is one. It counts as open until all of it is on the disk, so
    /// that `abort` finds it after an error.
    fn end_part(&mut self) -> Result<()> {
        let Some(part) = &mut self.part else {
            return Ok(());
        };
        part.names.bytes = part.writer.finish()?;
        self.ended
            .files
            .extend(self.part.take().map(|part| part.names));
        Ok(())
    }
}

impl FileSink {
    /// Ends the open file, and gives it its own name at once.
    fn show_part(&mut self) -> Result<()> {
        self.end_part()?;
        self.ended.keep(&self.folder)?;
        self.n_visible += std::mem::take(&mut self.ended).files.len();
        Ok(())
    }
}

impl Sink for FileSink {
    fn open(&mut self, context: &OperatorContext) -> Result<()> {
        (self.clock, self.checkpointed) = (
            context.clock.clone(),
            context.configuration.checkpoint_interval_ms.is_some(),
        );
        fs::create_dir_all(&self.folder).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => Error::new(
                code::EXISTS,
                format!("{} cannot be made a folder", self.folder.display()),
            )
            .with_source(e),
            _ => file_error(&self.folder, "cannot be made a folder", e),
        })
    }

    fn begin(&mut self, transaction: &str) -> Result<()> {
        assert!(
            self.part.is_none() && self.ended.files.is_empty(),
            "rows of two transactions would be in one file"
        );
        transaction.clone_into(&mut self.transaction);
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        if self.part.is_none() {
            self.part = Some(self.open_part()?);
        }
        let Some(part) = &mut self.part else {
            return Ok(());
        };
        part.writer.write(&batch.columns)?;
        part.n_rows += batch.n_rows() as u64;
        let age_ms = self.clock.monotonic_ms() - part.begun_ms;
        let is_due = self.rolling.is_due(Extent {
            bytes: part.writer.n_bytes(),
            age_ms,
            rows: part.n_rows,
        });
        match is_due {
            true if !self.checkpointed => self.show_part(),
            true if self.ended.files.len() < FILES_MAX - 1 => self.end_part(),
            _ => Ok(()),
        }
    }

    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
        self.end_part()?;
        if self.ended.files.is_empty() {
            return Ok(None);
        }
        sync_folder(&self.folder)?;
        Ok(Some(std::mem::take(&mut self.ended).write()))
    }

    fn commit(&mut self, committable: &[u8]) -> Result<()> {
        Promise::read(committable)?.keep(&self.folder)
    }

    fn abort(&mut self) -> Result<()> {
        let open = self.part.take().map(|part| part.names);
        let files = std::mem::take(&mut self.ended)
            .files
            .into_iter()
            .chain(open);
        files
            .map(|file| remove(&self.folder.join(&file.staged)))
            .fold(Ok(()), Result::and)
    }

    fn abort_unlisted(&mut self, prefix: &str, keep: &[Vec<u8>]) -> Result<()> {
        let mut kept = HashSet::new();
        for promise in keep {
            kept.extend(
                Promise::read(promise)?
                    .files
                    .into_iter()
                    .map(|file| file.staged),
            );
        }
        let begin = format!("{}{prefix}", STAGED.0);
        for path in list(&self.folder)? {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if name.starts_with(&begin) && name.ends_with(STAGED.1) && !kept.contains(name) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
