//! The bytes of one split of a file that is not compressed: its lines, from the first that begins
//! in its range to the end of the last.

use super::input::Filled;
use super::{FilePosition, FileSplit};
use crate::enumerator::missing;
use crate::file_name;
use crate::position;
use crate::record_buffer::RecordBuffer;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use streamrt_types::{Error, Result, code};

/// The bytes of the lines that begin in a range of a file.
pub struct SplitFile {
    file: File,
    path: PathBuf,
    /// The offset of the next byte to read, from the beginning of the file.
    pub at: u64,
    /// The end of the range; once the input has ended, that of its last line.
    pub end: u64,
    /// Whether the last line of the range may extend beyond it.
    open_line: bool,
    /// Whether nothing is read beyond `end` any more.
    pub ended: bool,
    /// For a log that grows: after how many ms it is checked again; it never ends.
    pub follow_ms: Option<u64>,
}

impl SplitFile {
    fn open(split: &FileSplit, follow_ms: Option<u64>) -> Result<SplitFile> {
        let path = file_name::to_path(&split.path);
        let file = File::open(&path).map_err(|e| missing(&path, e))?;
        Ok(SplitFile {
            file,
            path,
            at: 0,
            end: split.end,
            open_line: false,
            ended: false,
            follow_ms,
        })
    }

    /// Opens a split at its first line. `follow_ms` is set for a log that grows.
    pub fn begin(split: &FileSplit, follow_ms: Option<u64>) -> Result<SplitFile> {
        let mut input = SplitFile::open(split, follow_ms)?;
        let aligned = if split.start == 0 {
            input.skip_byte_order_mark()
        } else {
            input.skip_to_line(split)
        };
        aligned.map_err(|e| input.error(e))?;
        Ok(input)
    }

    /// Opens a split at a position that a reader of it returned.
    ///
    /// # Errors
    /// `Unavailable` if the file is not there, `Data` if it is not the one that was read.
    pub fn go_on(
        split: &FileSplit,
        position: FilePosition,
        follow_ms: Option<u64>,
    ) -> Result<SplitFile> {
        let mut input = SplitFile::open(split, follow_ms)?;
        input.seal(Some(position));
        input.check_length(position.byte)?;
        input.check_line_end(position)?;
        input.seek(position.byte).map_err(|e| input.error(e))?;
        // Only a mark was skipped so far.
        input.open_line =
            position.line == 1 && position.byte == 3 && split.start == 0 && split.end <= 3;
        Ok(input)
    }

    /// Takes over where the previous reader saw the end.
    pub fn seal(&mut self, position: Option<FilePosition>) {
        if let Some(end) = position.and_then(|position| position.end) {
            (self.end, self.ended) = (end, true);
        }
    }

    fn check_length(&self, byte: u64) -> Result<()> {
        let n_bytes = self.file.metadata().map_err(|e| self.error(e))?.len();
        // A log was at least as long as what was read of it.
        let n_bytes_then = if self.follow_ms.is_some() {
            byte
        } else {
            byte.max(self.end)
        };
        if n_bytes >= n_bytes_then {
            return Ok(());
        }
        Err(position::lost(format!(
            "{} has {n_bytes} bytes, but had {n_bytes_then} when it was read up to byte {byte}: put it back as it was",
            self.path.display()
        )))
    }

    /// A line that was not the first began after a line end, and still does. This cheap check finds
    /// most files that were rewritten under an old name.
    fn check_line_end(&mut self, position: FilePosition) -> Result<()> {
        let before = position.byte.saturating_sub(1);
        let is_end = self.follow_ms.is_none() && position.byte >= self.end;
        if position.line == 1 || is_end || self.byte(before).map_err(|e| self.error(e))? == b'\n' {
            return Ok(());
        }
        Err(position::lost(format!(
            "{} is not the file that was read up to byte {}, for no line ends there: put it back as it was",
            self.path.display(),
            position.byte
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
        let has_mark = mark == b"\xEF\xBB\xBF";
        // The first line begins with the mark, and so in this range, however small that is.
        self.open_line = has_mark && self.end <= 3;
        self.seek(if has_mark { 3 } else { 0 })
    }

    /// Goes to the first line that begins in the range: after the first line end at `start - 1` or
    /// later.
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
        io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the file became {} bytes shorter", self.left()),
        )
    }

    fn error(&self, error: io::Error) -> Error {
        let path = self.path.display();
        match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                position::lost(format!("{path} shrank while it was read")).with_source(error)
            }
            _ => Error::new(code::FILE_IO, format!("{path} cannot be read")).with_source(error),
        }
    }

    /// Fills the buffer once, and tells it when the input ends.
    pub fn fill(&mut self, records: &mut RecordBuffer) -> Result<Filled> {
        let n_bytes = records.fill(self).map_err(|e| self.error(e))?;
        match (n_bytes, self.follow_ms) {
            (1.., _) => Ok(Filled::Bytes),
            (0, Some(ms)) => self.check_log().map(|()| Filled::Dry { ms }),
            (0, None) => {
                (self.end, self.ended) = (self.end.max(self.at), true);
                records.end_input();
                Ok(Filled::End)
            }
        }
    }

    /// A log that was truncated, or restarted under its name, has lost what was to be read.
    fn check_log(&self) -> Result<()> {
        let (open, named) = (
            self.file.metadata().map_err(|e| self.error(e))?,
            std::fs::metadata(&self.path),
        );
        let is_same =
            named.is_ok_and(|named| (named.dev(), named.ino()) == (open.dev(), open.ino()));
        let what = match () {
            () if open.len() < self.at => format!("was cut to {} bytes", open.len()),
            () if !is_same => "is another file now, or none".to_owned(),
            () => return Ok(()),
        };
        let message = format!(
            "{} {what}, after {} bytes of it were read: a log that is followed may only grow",
            self.path.display(),
            self.at
        );
        Err(position::lost(message))
    }

    /// Reads on in the range, of which `left` bytes remain.
    fn read_range(&mut self, bytes: &mut [u8], left: u64) -> io::Result<usize> {
        let wanted = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n_bytes = self.file.read(&mut bytes[..wanted])?;
        if n_bytes == 0 {
            return Err(self.shrank());
        }
        self.open_line = bytes[n_bytes - 1] != b'\n';
        Ok(n_bytes)
    }

    /// Reads on beyond the range, up to the line end.
    fn read_open_line(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n_bytes = self.file.read(bytes)?;
        let line_end = memchr::memchr(b'\n', &bytes[..n_bytes]);
        self.open_line = line_end.is_none() && n_bytes > 0;
        Ok(line_end.map_or(n_bytes, |at| at + 1))
    }
}

impl Read for SplitFile {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n_bytes = match self.left() {
            _ if self.follow_ms.is_some() => self.file.read(bytes)?,
            0 if self.open_line && !self.ended => self.read_open_line(bytes)?,
            0 => 0,
            left => self.read_range(bytes, left)?,
        };
        self.at += n_bytes as u64;
        Ok(n_bytes)
    }
}
