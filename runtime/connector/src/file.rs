//! The source `file`: a file, the files of a folder, or those that a pattern fits; each file once, its rows in order.
//!
//! A file is one split, or several if it is bigger than `split-bytes`: a split has the lines that begin in its range of bytes, so
//! every line is in exactly one, however the cuts fall. A CSV file with a quote anywhere is never cut, since line ends may stand
//! inside quotes. Positions are line numbers, counted from 1 at the begin of the split; a header and blank lines count.
//!
//! A file is read up to the length that it had when it was found, and to the end of the line there; what is appended later is not
//! seen. So files are best moved into a watched folder when they are complete; names with a dot in front are left out.
//!
//! A reader that goes on at a position needs the file as it was: one that is gone, shorter, or plainly another one is an error. The
//! header is read again from the begin of the file.

#[cfg(feature = "parquet")]
mod parquet;

use crate::enumerator::{FileEnumerator, FileSplit, missing};
use crate::format::{BlockDecoder, FormatName, FormatSpec};
use crate::options;
use crate::position;
use crate::record_buffer::RecordBuffer;
use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use streamrt_operator::{PoisonLine, ReaderPoll, Source, Split, SplitEnumerator, SplitReader};
use streamrt_types::{Error, Result, code};

/// Options of the source `file`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileOptions {
    /// A file, a folder (its regular files, not those of folders in it), or a pattern with `*`, `?`, `[...]` and `**`. Relative
    /// paths start in the current folder. Names that begin with a dot are left out, unless one is the path itself.
    pub path: String,
    /// `csv`, `json`, `lines` or `parquet`. Default `lines`.
    #[serde(default)]
    pub format: FileFormat,
    /// CSV: whether each file begins with a line of column names, by which the columns are found. Default false.
    #[serde(default)]
    pub header: bool,
    /// CSV: the character between two fields. Default `,`.
    #[serde(default)]
    pub delimiter: Option<String>,
    /// Whether to look for new files for ever; the source never ends then. Default false.
    #[serde(default)]
    pub watch: bool,
    /// How often to look, in ms. Default 1000.
    #[serde(default = "watch_ms")]
    pub watch_ms: u64,
    /// A file with more bytes is cut into splits of so many, which readers share. Default 67,108,864 (64 MiB).
    #[serde(default = "split_bytes")]
    pub split_bytes: u64,
}

/// What the files of the source hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileFormat {
    Csv,
    Json,
    #[default]
    Lines,
    /// Columns of the file are found by name; those that the schema does not have are not read. A row group is in the split that its
    /// first byte is in.
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

fn split_bytes() -> u64 {
    64 << 20
}

/// The source of files that the options want.
///
/// # Errors
/// `Invalid` if options do not go together, or the format cannot give the schema.
pub fn source(options: FileOptions, schema: SchemaRef) -> Result<Arc<dyn Source>> {
    if options.split_bytes == 0 {
        return Err(options::refuse("file", "`split-bytes` is 0, but it must be 1 or more"));
    }
    if options.header && options.format != FileFormat::Csv {
        return Err(options::refuse("file", "`header` is for csv"));
    }
    if options.delimiter.is_some() && options.format != FileFormat::Csv {
        return Err(options::refuse("file", "`delimiter` is for csv"));
    }
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
        Ok(FileSource { options: Arc::new(options), format })
    }

    /// Reads the first record of the file, with the buffer that reads on behind it if the reader begins there.
    fn header(
        &self,
        split: &FileSplit,
        position: Option<FilePosition>,
        input: &mut SplitFile,
        records: &mut RecordBuffer,
    ) -> Result<Option<Vec<u8>>> {
        if !self.options.header {
            return Ok(None);
        }
        if split.start == 0 && position.is_none() {
            return first_record(input, records);
        }
        let mut whole = SplitFile::begin(&FileSplit { start: 0, ..split.clone() })?;
        whole.seal(position);
        first_record(&mut whole, &mut RecordBuffer::new(self.format.framing()))
    }
}

/// The first record that is not blank, or `None` in an empty file.
fn first_record(input: &mut SplitFile, records: &mut RecordBuffer) -> Result<Option<Vec<u8>>> {
    while !records.frame(1)? && input.fill(records)? {}
    records.frame(1)?;
    let first = records.block().texts().next().map(<[u8]>::to_vec);
    records.consume();
    Ok(first)
}

impl Source for FileSource {
    fn bounded(&self) -> bool {
        !self.options.watch
    }

    fn enumerator(&self, restored: Option<&str>) -> Result<Box<dyn SplitEnumerator>> {
        Ok(Box::new(FileEnumerator::new(self.options.clone(), self.format.is_csv(), restored)?))
    }

    fn open(&self, split: &Split, position: Option<&str>) -> Result<Box<dyn SplitReader>> {
        let detail: FileSplit = position::read(&split.name, &split.detail)?;
        let position: Option<FilePosition> = position.map(|text| position::read(&split.name, text)).transpose()?;
        let mut input = match position {
            None => SplitFile::begin(&detail)?,
            Some(position) => SplitFile::go_on(&detail, position)?,
        };
        let mut records = RecordBuffer::at(self.format.framing(), input.at, position.map_or(1, |position| position.line));
        let header = self.header(&detail, position, &mut input, &mut records)?;
        let decoder = self.format.decoder(header.as_deref(), split.name.clone(), split.number)?;
        Ok(Box::new(FileReader { input, records, decoder, ended: false }))
    }
}

/// Where a reader goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePosition {
    /// Of the next record, from the begin of the file.
    byte: u64,
    /// Of the next record, from the begin of the split.
    line: u64,
    /// Where the input was seen to end, once it was: a last line without line end is then complete, whatever was appended since.
    end: Option<u64>,
}

struct FileReader {
    input: SplitFile,
    records: RecordBuffer,
    decoder: BlockDecoder,
    ended: bool,
}

impl SplitReader for FileReader {
    fn poll(&mut self, rows: usize, _timeout: Duration) -> Result<ReaderPoll> {
        if self.ended {
            return Ok(ReaderPoll::Finished);
        }
        while !self.records.frame(rows)? {
            if !self.input.fill(&mut self.records)? {
                self.ended = !self.records.frame(rows)?;
                break;
            }
        }
        let batch = self.decoder.decode(self.records.block());
        self.records.consume();
        match (batch?, self.ended) {
            (Some(batch), _) => Ok(ReaderPoll::Batch(batch)),
            (None, true) => Ok(ReaderPoll::Finished),
            // All of the block was refused.
            (None, false) => Ok(ReaderPoll::Pending { ms: 0 }),
        }
    }

    fn position(&self) -> String {
        let (byte, line) = self.records.position();
        let end = self.input.ended.then_some(self.input.end);
        position::write(&FilePosition { byte: end.map_or(byte, |end| byte.min(end)), line, end })
    }

    fn held_bytes(&self) -> usize {
        self.records.held_bytes()
    }

    fn skip_long_records(&mut self) {
        self.records.skip_long_records();
    }

    fn take_poison(&mut self) -> Vec<PoisonLine> {
        self.decoder.take_poison(self.records.take_skipped())
    }
}

/// The bytes of the lines that begin in a range of a file.
struct SplitFile {
    file: File,
    path: String,
    /// The next byte that is read, from the begin of the file.
    at: u64,
    /// The end of the range; once the input has ended, that of its last line.
    end: u64,
    /// Whether the last line of the range may go on behind it.
    open_line: bool,
    /// Nothing is read behind `end` any more.
    ended: bool,
}

impl SplitFile {
    fn open(split: &FileSplit) -> Result<SplitFile> {
        let path = Path::new(&split.path);
        let file = File::open(path).map_err(|e| missing(path, e))?;
        Ok(SplitFile { file, path: split.path.clone(), at: 0, end: split.end, open_line: false, ended: false })
    }

    /// Opens a split at its first line.
    fn begin(split: &FileSplit) -> Result<SplitFile> {
        let mut input = SplitFile::open(split)?;
        let aligned = if split.start == 0 { input.skip_byte_order_mark() } else { input.skip_to_line(split) };
        aligned.map_err(|e| input.error(e))?;
        Ok(input)
    }

    /// Opens a split at a position that a reader of it gave.
    ///
    /// # Errors
    /// `Unavailable` if the file is not there, `Data` if it is not the one that was read.
    fn go_on(split: &FileSplit, position: FilePosition) -> Result<SplitFile> {
        let mut input = SplitFile::open(split)?;
        input.seal(Some(position));
        input.check_length(position.byte)?;
        input.check_line_end(position)?;
        input.seek(position.byte).map_err(|e| input.error(e))?;
        Ok(input)
    }

    /// Takes over where the reader before saw the end.
    fn seal(&mut self, position: Option<FilePosition>) {
        if let Some(end) = position.and_then(|position| position.end) {
            (self.end, self.ended) = (end, true);
        }
    }

    fn check_length(&self, byte: u64) -> Result<()> {
        let n_bytes = self.file.metadata().map_err(|e| self.error(e))?.len();
        let n_bytes_then = byte.max(self.end);
        if n_bytes >= n_bytes_then {
            return Ok(());
        }
        Err(position::lost(format!(
            "{} has {n_bytes} bytes, but had {n_bytes_then} when it was read up to byte {byte}: put it back as it was",
            self.path
        )))
    }

    /// A line that was not the first began behind a line end, and does so still. A cheap look that finds most of the files that were
    /// written anew under an old name.
    fn check_line_end(&mut self, position: FilePosition) -> Result<()> {
        let before = position.byte.saturating_sub(1);
        if position.line == 1 || position.byte >= self.end || self.byte(before).map_err(|e| self.error(e))? == b'\n' {
            return Ok(());
        }
        Err(position::lost(format!(
            "{} is not the file that was read up to byte {}, for no line ends there: put it back as it was",
            self.path, position.byte
        )))
    }

    fn byte(&mut self, at: u64) -> io::Result<u8> {
        let mut byte = [0];
        self.seek(at)?;
        self.file.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn seek(&mut self, at: u64) -> io::Result<()> {
        self.at = at;
        self.file.seek(SeekFrom::Start(at)).map(|_| ())
    }

    /// UTF-8 files from some programs begin with U+FEFF, which belongs to no field.
    fn skip_byte_order_mark(&mut self) -> io::Result<()> {
        let mut mark = Vec::new();
        self.file.by_ref().take(3).read_to_end(&mut mark)?;
        let has_mark = mark == b"\xEF\xBB\xBF" && self.end >= 3;
        self.seek(if has_mark { 3 } else { 0 })
    }

    /// Goes to the first line that begins in the range: behind the first line end at `start - 1` or later.
    fn skip_to_line(&mut self, split: &FileSplit) -> io::Result<()> {
        let mut at = split.start - 1;
        let mut bytes = vec![0; 4096];
        self.seek(at)?;
        while at < split.end {
            let n_bytes = self.file.read(&mut bytes)?;
            if n_bytes == 0 {
                return Err(self.shrank());
            }
            if let Some(line_end) = memchr::memchr(b'\n', &bytes[..n_bytes]) {
                at += line_end as u64 + 1;
                break;
            }
            at += n_bytes as u64;
        }
        self.seek(at)
    }

    /// Bytes of the range that are still to be read.
    fn left(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    fn shrank(&self) -> io::Error {
        io::Error::new(io::ErrorKind::UnexpectedEof, format!("the file became {} bytes shorter", self.left()))
    }

    fn error(&self, error: io::Error) -> Error {
        let what = if error.kind() == io::ErrorKind::UnexpectedEof { "shrank while it was read" } else { "cannot be read" };
        Error::new(code::FILE_IO, format!("{} {what}", self.path)).with_source(error)
    }

    /// Fills the buffer once; at the end it says so to the buffer, and returns false.
    fn fill(&mut self, records: &mut RecordBuffer) -> Result<bool> {
        let n_bytes = records.fill(self).map_err(|e| self.error(e))?;
        if n_bytes == 0 {
            (self.end, self.ended) = (self.end.max(self.at), true);
            records.end_input();
        }
        Ok(n_bytes > 0)
    }

    /// Reads on behind the range, up to the line end.
    fn read_open_line(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n_bytes = self.file.read(bytes)?;
        let line_end = memchr::memchr(b'\n', &bytes[..n_bytes]);
        self.open_line = line_end.is_none() && n_bytes > 0;
        Ok(line_end.map_or(n_bytes, |at| at + 1))
    }
}

impl Read for SplitFile {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.left() == 0 {
            let n_bytes = if self.open_line && !self.ended { self.read_open_line(bytes)? } else { 0 };
            self.at += n_bytes as u64;
            return Ok(n_bytes);
        }
        let wanted = bytes.len().min(usize::try_from(self.left()).unwrap_or(usize::MAX));
        let n_bytes = self.file.read(&mut bytes[..wanted])?;
        if n_bytes == 0 {
            return Err(self.shrank());
        }
        self.at += n_bytes as u64;
        self.open_line = bytes[n_bytes - 1] != b'\n';
        Ok(n_bytes)
    }
}

#[cfg(test)]
mod tests;
