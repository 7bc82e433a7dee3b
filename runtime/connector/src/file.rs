//! The source `file`: a file, the files of a folder, or those that a pattern matches; each file
//! once, its rows in order.
//!
//! A file is one split, or several if it is bigger than `split-bytes`: a split has the lines that
//! begin in its range of bytes, so every line is in exactly one, however the cuts fall. A CSV file
//! with a quote anywhere is never cut, since line ends may occur inside quotes. Positions are line
//! numbers, counted from 1 at the beginning of the split; a header and blank lines count.
//!
//! A file is read up to the length that it had when it was found, and to the end of the line there.
//! In a watched folder it is read when it has not changed for `settle`; what is appended to it
//! later is reported, and not read. With `follow` a file is a log: its whole lines are read as they
//! come. Names that begin with a dot are skipped, and those with a suffix in `ignore`.
//!
//! `.gz`, `.zst` and `.bz2` are read decompressed; such a file is one split, and positions count
//! the decompressed content. `-` is standard input.
//!
//! A reader that resumes at a position needs the file as it was: one that is gone, shorter, or
//! plainly another one is an error. The header is read again from the beginning of the file.

mod compressed;
mod input;
#[cfg(feature = "parquet")]
mod parquet;
mod passed_over;
mod split_file;
mod stdin;

use crate::enumerator::{FileEnumerator, FileSplit, may_list};
use crate::format::{BlockDecoder, FormatName, FormatSpec};
use crate::record_buffer::RecordBuffer;
use crate::{file_name, once, options, position};
use arrow_schema::SchemaRef;
pub use compressed::Compression;
use input::{Filled, Input, STDIN, STDIN_SPLIT};
use passed_over::Missing;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use streamrt_operator::{PoisonLine, ReaderPoll, Source, Split, SplitEnumerator, SplitReader};
use streamrt_types::{Error, Result, code, parse_duration_ms};

/// Options of the source `file`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileOptions {
    /// A file, a folder (its regular files, not those of folders in it), or a pattern with `*`,
    /// `?`, `[...]` and `**`; a leading part of it that exists as written is not a pattern.
    /// Relative paths start in the current folder. Names that begin with a dot are skipped, unless
    /// one is the path itself. `-` is standard input.
    pub path: String,
    /// `csv`, `json`, `lines` or `parquet`. Default `lines`.
    #[serde(default)]
    pub format: FileFormat,
    /// CSV: whether each file begins with a line of column names, by which the columns are found.
    /// Default false.
    #[serde(default)]
    pub header: bool,
    /// CSV: the character between two fields. Default `,`.
    #[serde(default)]
    pub delimiter: Option<String>,
    /// Whether to keep looking for new files; then the source never ends. Default false.
    #[serde(default)]
    pub watch: bool,
    /// How often to look, in ms. Default 1000.
    #[serde(default = "watch_ms")]
    pub watch_ms: u64,
    /// With `watch`, a file is read when it has not changed for this long. Default `1s`.
    #[serde(default = "settle")]
    pub settle: String,
    /// With `watch`, a file that has been gone for this long is forgotten: another one may come
    /// under its name. Default `24h`.
    #[serde(default = "forget")]
    pub forget: String,
    /// Suffixes of names that are skipped, such as `.tmp`, for files that are still being written.
    /// Default: none.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Whether files are logs that grow: their whole lines are read as they come, and the source
    /// never ends. With `watch`, this includes new files. Default false.
    #[serde(default)]
    pub follow: bool,
    /// `fail` or `skip`: what to do about a file that is gone when its turn comes. Default `fail`.
    #[serde(default)]
    pub missing: Missing,
    /// A file with more bytes is cut into splits of this size, which readers share. Default
    /// 67,108,864 (64 MiB).
    #[serde(default = "split_bytes", deserialize_with = "options::size")]
    pub split_bytes: u64,
}

/// What the files of the source contain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileFormat {
    Csv,
    Json,
    #[default]
    Lines,
    /// Columns of the file are found by name; those that the schema does not have are not read. A
    /// row group belongs to the split that contains its first byte.
    Parquet,
}

impl FileFormat {
    fn text(self) -> Option<FormatName> {
        match self {
            FileFormat::Csv => Some(FormatName::Csv),
            FileFormat::Json => Some(FormatName::Json),
            FileFormat::Lines => Some(FormatName::Lines),
            FileFormat::Parquet => None,
        }
    }
}

fn watch_ms() -> u64 {
    1000
}

fn settle() -> String {
    "1s".to_owned()
}

fn forget() -> String {
    "24h".to_owned()
}

fn split_bytes() -> u64 {
    64 << 20
}

impl FileOptions {
    /// # Errors
    /// `Invalid` if options contradict one another.
    pub fn check(&self) -> Result<()> {
        let (is_csv, is_stdin, is_parquet) = (
            self.format == FileFormat::Csv,
            self.path == STDIN,
            self.format == FileFormat::Parquet,
        );
        self.settle_ms()?;
        self.forget_ms()?;
        let refused = [
            (
                self.path.is_empty(),
                "`path` is empty, but it must name a file, a folder or a pattern",
            ),
            (
                self.split_bytes == 0,
                "`split-bytes` is 0, but it must be 1 or more",
            ),
            (self.header && !is_csv, "`header` is for csv"),
            (
                self.delimiter.is_some() && !is_csv,
                "`delimiter` is for csv",
            ),
            (
                is_stdin && (self.watch || self.follow),
                "`-` is standard input, which cannot be watched or followed",
            ),
            (
                is_stdin && is_parquet,
                "`-` is standard input, but a Parquet file is not read from its begin to its end",
            ),
            (
                self.follow && is_parquet,
                "`follow` is for lines: a Parquet file does not grow",
            ),
            (
                self.ignore.iter().any(String::is_empty),
                "`ignore` has an empty end, which every name has",
            ),
        ];
        let found = refused.iter().find(|(is_refused, _)| *is_refused);
        found.map_or(Ok(()), |(_, reason)| Err(options::refuse("file", reason)))
    }

    /// How long a watched file must not have changed, in ms.
    ///
    /// # Errors
    /// `Invalid` if it is not a duration.
    pub fn settle_ms(&self) -> Result<u64> {
        parse_duration_ms("settle", &self.settle).map_err(|e| options::refuse("file", e.message()))
    }

    /// After how many ms a watched file that is gone is forgotten.
    ///
    /// # Errors
    /// The same as for [`FileOptions::settle_ms`].
    pub fn forget_ms(&self) -> Result<u64> {
        parse_duration_ms("forget", &self.forget).map_err(|e| options::refuse("file", e.message()))
    }

    /// How often a log is checked, if the files are logs.
    fn follow_ms(&self) -> Option<u64> {
        self.follow.then_some(self.watch_ms)
    }
}

/// The source of files that the options describe.
///
/// # Errors
/// `Invalid` if options contradict one another, or the format cannot give the schema.
pub fn source(options: FileOptions, schema: SchemaRef) -> Result<Arc<dyn Source>> {
    options.check()?;
    match options.format.text() {
        Some(format) => Ok(Arc::new(FileSource::new(options, format, schema)?)),
        None => parquet_source(options, schema),
    }
}

#[cfg(feature = "parquet")]
fn parquet_source(options: FileOptions, schema: SchemaRef) -> Result<Arc<dyn Source>> {
    Ok(Arc::new(parquet::ParquetSource::new(options, schema)?))
}

#[cfg(not(feature = "parquet"))]
fn parquet_source(_options: FileOptions, _schema: SchemaRef) -> Result<Arc<dyn Source>> {
    Err(options::left_out("file", "format `parquet`", "parquet"))
}

/// Files of lines.
struct FileSource {
    options: Arc<FileOptions>,
    format: FormatSpec,
}

impl FileSource {
    fn new(options: FileOptions, format: FormatName, schema: SchemaRef) -> Result<FileSource> {
        let format = FormatSpec::new("file", format, options.delimiter.as_deref(), schema)?;
        Ok(FileSource {
            options: Arc::new(options),
            format,
        })
    }

    /// Opens a split that is read as lines.
    fn read(
        &self,
        split: &Split,
        detail: &FileSplit,
        position: Option<FilePosition>,
    ) -> Result<FileReader> {
        let line = position.map_or(Ok(1), |position| {
            position::count(&split.name, position.line)
        })?;
        let input = Input::open(detail, position, self.options.follow_ms())?;
        let framing = if self.options.header {
            self.format.header_framing()
        } else {
            self.format.framing()
        };
        let mut records = RecordBuffer::at(framing, input.at(), line);
        if let Some(passed) = input.passed() {
            records.sum_from(passed);
        }
        if input.may_have_mark() {
            records.pass_over_mark();
        }
        let (format, name, poison) = (self.format.clone(), split.name.clone(), Vec::new());
        let mut reader = FileReader {
            input,
            records,
            format,
            name,
            number: split.number,
            decoder: None,
            poison,
            ended: false,
        };
        let is_before_header =
            detail.start == 0 && position.is_none_or(|position| position.line == 1);
        match () {
            () if !self.options.header => reader.begin(None)?,
            // Standard input has its header once, whatever another process has read of it.
            () if detail.path == STDIN_SPLIT => {
                stdin::header().map_or(Ok(()), |header| reader.begin(Some(header)))?
            }
            () if is_before_header => reader.take_header()?,
            () => reader.begin(self.header(detail, position)?)?,
        }
        Ok(reader)
    }

    /// The header of a file whose reader begins after it.
    fn header(
        &self,
        detail: &FileSplit,
        position: Option<FilePosition>,
    ) -> Result<Option<Vec<u8>>> {
        let mut input = Input::open(
            &FileSplit {
                start: 0,
                ..detail.clone()
            },
            None,
            self.options.follow_ms(),
        )?;
        input.seal(position);
        let mut records = RecordBuffer::new(self.format.header_framing());
        if input.may_have_mark() {
            records.pass_over_mark();
        }
        while !records.frame(1)? && input.fill(&mut records)? == Filled::Bytes {}
        records.frame(1)?;
        Ok(records.block().texts().next().map(<[u8]>::to_vec))
    }
}

impl Source for FileSource {
    fn bounded(&self) -> bool {
        !self.options.watch && !self.options.follow && self.options.path != STDIN
    }

    fn stays_open(&self) -> bool {
        self.options.follow || self.options.path == STDIN
    }

    fn enumerator(&self, restored: Option<&str>) -> Result<Box<dyn SplitEnumerator>> {
        if self.options.path == STDIN {
            return once::enumerator("file", restored, |_| vec![stdin_split()]);
        }
        Ok(Box::new(FileEnumerator::new(
            self.options.clone(),
            self.format.is_csv(),
            restored,
        )?))
    }

    fn admits(&self, split: &Split) -> Result<()> {
        admits(&self.options, split)
    }

    fn open(&self, split: &Split, position: Option<&str>) -> Result<Box<dyn SplitReader>> {
        let detail: FileSplit = position::read(&split.name, &split.detail)?;
        if let Some(reporter) = passed_over::reported(&detail, position) {
            return Ok(reporter);
        }
        let at: Option<FilePosition> = position
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

/// Checks a split of a snapshot against the options.
///
/// # Errors
/// `Invalid` (S7013) if no enumerator with these options would return the split.
fn admits(options: &FileOptions, split: &Split) -> Result<()> {
    let detail: FileSplit = position::read(&split.name, &split.detail)?;
    let is_named = match options.path.as_str() {
        STDIN => detail.path == STDIN_SPLIT,
        _ => may_list(options, &file_name::to_path(&detail.path)),
    };
    if is_named {
        return Ok(());
    }
    let (path, named) = (file_name::to_path(&detail.path), &options.path);
    let message = format!(
        "the snapshot would have it read {}, which does not lie in {named}; `--allow-changed-arguments` lets it read what the snapshot says",
        path.display()
    );
    Err(Error::new(code::CHANGED_ARGUMENTS, message))
}

/// The one split of standard input.
fn stdin_split() -> Split {
    let detail = FileSplit {
        path: STDIN_SPLIT.to_owned(),
        start: 0,
        end: 0,
        report: None,
    };
    Split {
        number: 0,
        name: "standard input".into(),
        detail: position::write(&detail),
    }
}

/// Where a reader resumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePosition {
    /// Offset of the next record, from the beginning of the file.
    byte: u64,
    /// Number of the next record, from the beginning of the split.
    line: u64,
    /// Where the input was seen to end, once it was: a last line without line end is then complete,
    /// whatever was appended since.
    end: Option<u64>,
    /// CRC-32 of everything before it, if resuming has to read that again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sum: Option<u32>,
}

struct FileReader {
    input: Input,
    records: RecordBuffer,
    format: FormatSpec,
    name: Arc<str>,
    number: u64,
    /// `None` before the header was read.
    decoder: Option<BlockDecoder>,
    /// What is wrong with the input itself; the decoder keeps that of its records.
    poison: Vec<PoisonLine>,
    ended: bool,
}

impl FileReader {
    /// Begins to decode what follows `header`.
    fn begin(&mut self, header: Option<Vec<u8>>) -> Result<()> {
        self.decoder = Some(self.format.decoder(
            header.as_deref(),
            self.name.clone(),
            self.number,
        )?);
        if let Some(header) = header {
            self.records.reframe(self.format.framing_under(&header));
        }
        Ok(())
    }

    /// Reads the header, if all of it is there: the first record that is not blank.
    fn take_header(&mut self) -> Result<()> {
        self.collect(1, Duration::MAX)?;
        let header = self.records.block().texts().next().map(<[u8]>::to_vec);
        if header.is_none() && !self.ended {
            return Ok(());
        }
        self.records.consume();
        if let (Some(header), true) = (&header, self.input.is_stdin()) {
            stdin::keep_header(header);
        }
        self.begin(header)
    }

    /// Reports what cannot be read after the records that are here, and ends.
    fn damaged(&mut self, reason: String) -> u64 {
        let rest = self.records.rest().to_vec();
        self.poison.push(PoisonLine {
            code: code::BAD_FILE,
            ..PoisonLine::refused(self.records.line(), rest, reason)
        });
        self.end(true)
    }

    /// Reports whether the records that are here are the last; there is nothing to wait for.
    fn end(&mut self, ended: bool) -> u64 {
        self.ended = ended;
        0
    }

    /// Collects records until there are `rows`, or the input has no more at the moment; returns the
    /// ms after which it may have. If it comes slowly, the first record waits for `timeout` at
    /// most.
    fn collect(&mut self, rows: usize, timeout: Duration) -> Result<u64> {
        let start = Instant::now();
        while !self.records.frame(rows)? {
            match self.input.fill(&mut self.records)? {
                Filled::Bytes if self.input.is_stdin() && start.elapsed() >= timeout => {
                    return self.records.frame(rows).map(|_| 0);
                }
                Filled::Bytes => {}
                Filled::Dry { ms } => return Ok(ms),
                Filled::End => return self.records.frame(rows).map(|is_full| self.end(!is_full)),
                Filled::Damaged(reason) => return Ok(self.damaged(reason)),
            }
        }
        Ok(0)
    }
}

impl SplitReader for FileReader {
    fn poll(&mut self, rows: usize, timeout: Duration) -> Result<ReaderPoll> {
        if self.decoder.is_none() {
            self.take_header()?;
        }
        if self.ended {
            return Ok(ReaderPoll::Finished);
        }
        let wait_ms = if self.decoder.is_some() {
            self.collect(rows, timeout)?
        } else {
            self.input.wait_ms()
        };
        let Some(decoder) = &mut self.decoder else {
            return Ok(ReaderPoll::Pending { ms: wait_ms });
        };
        let batch = decoder.decode(self.records.block());
        self.records.consume();
        match (batch?, self.ended) {
            (Some(batch), _) => Ok(ReaderPoll::Batch(batch)),
            (None, true) => Ok(ReaderPoll::Finished),
            // All of the block was refused, or there is nothing now.
            (None, false) => Ok(ReaderPoll::Pending { ms: wait_ms }),
        }
    }

    fn position(&self) -> String {
        let (byte, line) = self.records.position();
        let end = self.input.end();
        position::write(&FilePosition {
            byte: end.map_or(byte, |end| byte.min(end)),
            line,
            end,
            sum: self.records.sum().filter(|_| end.is_none()),
        })
    }

    fn way_back(&self) -> u64 {
        self.input.passed().map_or(0, |_| self.records.position().0)
    }

    fn limit_bytes(&mut self, batch_bytes: usize) {
        self.records.limit_bytes(batch_bytes);
    }

    fn held_bytes(&self) -> usize {
        self.records
            .held_bytes()
            .saturating_add(self.input.held_bytes())
    }

    fn skip_long_records(&mut self) {
        self.records.skip_long_records();
    }

    fn take_poison(&mut self) -> Vec<PoisonLine> {
        let mut poison = self.records.take_skipped();
        poison.append(&mut self.poison);
        match &mut self.decoder {
            Some(decoder) => decoder.take_poison(poison),
            None => poison,
        }
    }
}

impl Drop for FileReader {
    /// What was read from standard input and not taken is for the next attempt of the job.
    fn drop(&mut self) {
        if self.input.is_stdin() {
            stdin::give_back(self.records.rest());
        }
    }
}

#[cfg(test)]
mod tests;
