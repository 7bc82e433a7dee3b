//! Where the bytes of a split come from: a file, a compressed file, or standard input.

use super::compressed::{Compression, Content, HEAD_BYTES, is_of_disk};
use super::split_file::SplitFile;
use super::stdin::Stdin;
use super::{FilePosition, FileSplit};
use crate::enumerator::missing;
use crate::file_name;
use crate::position;
use crate::record_buffer::RecordBuffer;
use flate2::Crc;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use streamrt_types::{Error, Result, code};

/// What became of an attempt to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filled {
    Bytes,
    /// There is nothing now; more may come after this many ms.
    Dry {
        ms: u64,
    },
    End,
    /// What follows cannot be read, and why: a clause. The input has ended before it.
    Damaged(String),
}

pub enum Input {
    File(SplitFile),
    Stream(Stream),
}

/// Bytes that come once, in order.
pub struct Stream {
    bytes: StreamBytes,
    /// What comes before the position at which it began.
    passed: Passed,
    /// Bytes that came.
    at: u64,
    ended: bool,
}

enum StreamBytes {
    Stdin,
    Compressed { path: String, content: Content },
}

impl Read for StreamBytes {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            StreamBytes::Stdin => Stdin.read(bytes),
            StreamBytes::Compressed { content, .. } => content.read(bytes),
        }
    }
}

impl Input {
    /// Opens a split at its beginning, or at a position that a reader of it returned.
    ///
    /// # Errors
    /// `Unavailable` if the file is not there, `Data` if it is not the one that was read.
    pub fn open(
        split: &FileSplit,
        position: Option<FilePosition>,
        follow_ms: Option<u64>,
    ) -> Result<Input> {
        match (Compression::of(&file_name::to_path(&split.path)), position) {
            _ if split.path == STDIN_SPLIT => {
                Ok(Input::Stream(Stream::new(StreamBytes::Stdin, position)))
            }
            (Some(compression), position) => {
                Stream::compressed(split, compression, position).map(Input::Stream)
            }
            (None, None) => SplitFile::begin(split, follow_ms).map(Input::File),
            (None, Some(position)) => SplitFile::go_on(split, position, follow_ms).map(Input::File),
        }
    }

    /// The offset of the next byte, from the beginning of the input.
    pub fn at(&self) -> u64 {
        match self {
            Input::File(file) => file.at,
            Input::Stream(stream) => stream.at,
        }
    }

    /// The checksum of everything before the place where it began, if resuming has to read all of
    /// that again.
    pub fn passed(&self) -> Option<Crc> {
        match self {
            Input::Stream(Stream {
                bytes: StreamBytes::Compressed { .. },
                passed,
                ..
            }) => {
                let mut before = Crc::new();
                before.combine(&passed.crc);
                Some(before)
            }
            Input::Stream(_) | Input::File(_) => None,
        }
    }

    pub fn is_stdin(&self) -> bool {
        matches!(
            self,
            Input::Stream(Stream {
                bytes: StreamBytes::Stdin,
                ..
            })
        )
    }

    /// The approximate memory that it takes in addition to the buffer that it fills.
    pub fn held_bytes(&self) -> usize {
        match self {
            Input::Stream(Stream {
                bytes: StreamBytes::Compressed { content, .. },
                ..
            }) => content.held_bytes(),
            Input::Stream(_) | Input::File(_) => 0,
        }
    }

    /// How long to wait if nothing comes, in ms.
    pub fn wait_ms(&self) -> u64 {
        match self {
            Input::File(file) => file.follow_ms.unwrap_or(0),
            Input::Stream(_) => 0,
        }
    }

    /// Takes over where the previous reader saw the end.
    pub fn seal(&mut self, position: Option<FilePosition>) {
        if let Input::File(file) = self {
            file.seal(position);
        }
    }

    /// Whether what is read may begin with a byte order mark. In a file it was skipped already.
    pub fn may_have_mark(&self) -> bool {
        matches!(self, Input::Stream(stream) if stream.at == 0)
    }

    /// Where the input was seen to end, once it was.
    pub fn end(&self) -> Option<u64> {
        match self {
            Input::File(file) => file.ended.then_some(file.end),
            Input::Stream(stream) => stream.ended.then_some(stream.at),
        }
    }

    /// Fills the buffer once, and tells it when the input ends.
    pub fn fill(&mut self, records: &mut RecordBuffer) -> Result<Filled> {
        match self {
            Input::File(file) => file.fill(records),
            Input::Stream(stream) => stream.fill(records),
        }
    }
}

/// The path that means standard input.
pub const STDIN: &str = "-";

/// The same in a split: a pattern may find a file named `-`, but none with this name.
pub const STDIN_SPLIT: &str = "\0-";

impl Stream {
    fn new(bytes: StreamBytes, position: Option<FilePosition>) -> Stream {
        let (at, end) = position.map_or((0, None), |position| (position.byte, position.end));
        Stream {
            bytes,
            passed: Passed::default(),
            at,
            ended: end.is_some(),
        }
    }

    /// What was read before is read again, and skipped: there is no other way into the middle of
    /// such a file.
    fn compressed(
        split: &FileSplit,
        compression: Compression,
        position: Option<FilePosition>,
    ) -> Result<Stream> {
        let path = file_name::to_path(&split.path);
        let file = File::open(&path).map_err(|e| missing(&path, e))?;
        let mut head = [0; HEAD_BYTES];
        // A file that is shorter, or that the disk fails to return, shows when it is read.
        let n_head = file.read_at(&mut head, 0).unwrap_or(0);
        let content = Content::new(compression, file, split.end, &head[..n_head]);
        let mut stream = Stream::new(
            StreamBytes::Compressed {
                path: path.display().to_string(),
                content,
            },
            position,
        );
        if let Some(position) = position.filter(|position| position.end.is_none()) {
            stream.pass_over(position)?;
        }
        Ok(stream)
    }

    /// A damaged file may have been read before its checksum was, and be intact by now: so what
    /// comes before the position is compared.
    fn pass_over(&mut self, position: FilePosition) -> Result<()> {
        let copied = io::copy(
            &mut self.bytes.by_ref().take(position.byte),
            &mut self.passed,
        );
        let passed = &self.passed;
        let is_there = copied.is_ok_and(|n_bytes| n_bytes == position.byte);
        // A line that was not the first began after a line end.
        if is_there
            && (position.line == 1 || passed.last == Some(b'\n'))
            && position.sum.is_none_or(|sum| sum == passed.crc.sum())
        {
            return Ok(());
        }
        let StreamBytes::Compressed { path, .. } = &self.bytes else {
            return Ok(());
        };
        Err(position::lost(format!(
            "{path} is not the file that was read up to byte {} of its content: put it back as it was, or read it from the beginning \
             with a source of another uid",
            position.byte
        )))
    }

    fn fill(&mut self, records: &mut RecordBuffer) -> Result<Filled> {
        match if self.ended {
            Ok(0)
        } else {
            records.fill(&mut self.bytes)
        } {
            Ok(0) => {
                self.ended = true;
                records.end_input();
                Ok(Filled::End)
            }
            Ok(n_bytes) => {
                self.at += n_bytes as u64;
                Ok(Filled::Bytes)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(Filled::Dry { ms: 0 }),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(Filled::Bytes),
            Err(e) => self.broken(e),
        }
    }

    fn broken(&mut self, error: io::Error) -> Result<Filled> {
        match &self.bytes {
            StreamBytes::Stdin => {
                Err(Error::new(code::FILE_IO, "standard input cannot be read").with_source(error))
            }
            StreamBytes::Compressed { path, .. } if is_of_disk(&error) => {
                Err(Error::new(code::FILE_IO, format!("{path} cannot be read")).with_source(error))
            }
            StreamBytes::Compressed { content, .. } => {
                self.ended = true;
                Ok(Filled::Damaged(damage(content, self.at, &error)))
            }
        }
    }
}

/// What is wrong with a file whose content was read up to byte `at`, and which of its rows may be
/// wrong.
fn damage(content: &Content, at: u64, error: &io::Error) -> String {
    let what = format!(
        "the file is damaged or cut off: it is no {} after byte {at} of its content ({error})",
        content.name()
    );
    match content.n_unverified() {
        0 => what,
        n_bytes => format!(
            "{what}; what stands after byte {} was read before the checksum that follows it, and may be wrong as well",
            at.saturating_sub(n_bytes)
        ),
    }
}

/// What was skipped.
#[derive(Default)]
struct Passed {
    crc: Crc,
    last: Option<u8>,
}

impl io::Write for Passed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.crc.update(bytes);
        self.last = bytes.last().copied().or(self.last);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
