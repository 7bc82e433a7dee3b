//! Cuts bytes into records: lines, or for CSV lines that may continue inside quotes. Called by the
//! readers of files and sockets.
//!
//! 1. `fill` appends what the input has.
//! 2. `frame` finds complete records, up to as many as a batch wants.
//! 3. `block` lends them to a format.
//! 4. `consume` forgets them.
//!
//! A record that is not complete stays until more bytes come or `end_input` completes it. If
//! records that are too long are to be skipped, only the beginning and the length of one are kept.
//!
//! Invariant: each byte is in exactly one line, each line is counted exactly once, and how often
//! the buffer was filled makes no difference.

use flate2::Crc;
use std::io::Read;
use std::ops::Range;
use streamrt_operator::PoisonLine;
use streamrt_types::{Error, Result, code};

/// Bytes that one `fill` asks for: large enough that system calls do not matter, small enough to
/// stay in the cache. The first ones ask for less: many files are opened for a few records, many
/// connections bring little, and each clears its buffer.
const FILL_BYTES: usize = 256 << 10;
const FIRST_FILL_BYTES: usize = 16 << 10;

/// The longest record. A longer one is an error, as soon as it is that long, or is skipped up to
/// its line end.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// The number of bytes of a record that is too long that a report keeps.
const BEGIN_BYTES: usize = 1024;

/// The number of bytes at which a block ends early, whatever its other limits: columns have 32-bit
/// offsets.
const BLOCK_BYTES_MAX: usize = 32 << 20;

/// One record: where its text is, without the line end, and the number of its first line, counted
/// from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub start: usize,
    pub end: usize,
    pub line: u64,
}

impl Record {
    pub fn text(self) -> Range<usize> {
        self.start..self.end
    }
}

/// Complete records. The text of each is followed by a line end.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    pub bytes: &'a [u8],
    pub records: &'a [Record],
}

impl<'a> Block<'a> {
    /// The bytes from the first record to the line end of the last.
    pub fn span(&self) -> &'a [u8] {
        match self.records {
            [] => &[],
            [only] => &self.bytes[only.start..=only.end],
            [first, .., last] => &self.bytes[first.start..=last.end],
        }
    }

    pub fn texts(&self) -> impl Iterator<Item = &'a [u8]> {
        let bytes = self.bytes;
        self.records.iter().map(move |record| &bytes[record.text()])
    }
}

/// What ends a record, and what is not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Every line is a record, even an empty one.
    Lines,
    /// Every line that has more than blanks is a record.
    Json,
    /// Every line that is not empty, or empty ones too if `blank_lines` is set; a line end inside
    /// quotes does not count. A quote opens only at the beginning of a field. One that is never
    /// closed takes the rest of the input with it: what it was to enclose makes no rows.
    Csv { delimiter: u8, blank_lines: bool },
}

/// The quotes of the record under construction: whether one is open, and the line ends inside of
/// them.
#[derive(Debug, Clone, Copy, Default)]
struct Quote {
    n_line_ends: u64,
    open: bool,
}

/// A record that is too long, as far as it was read and forgotten.
#[derive(Debug, Default)]
struct LongRecord {
    begin: Vec<u8>,
    n_bytes: u64,
    last: Option<u8>,
    /// The checksum of what was forgotten, if one is wanted.
    sum: Crc,
}

pub struct RecordBuffer {
    framing: Framing,
    /// Whether U+FEFF, which belongs to no record at the beginning of the input, is still to be
    /// looked for.
    may_have_mark: bool,
    /// Whether records that are too long are skipped instead of being an error.
    skips_long: bool,
    /// A block ends with the record by which it reaches this number of bytes.
    block_bytes: usize,
    /// The record that is being skipped.
    long: Option<LongRecord>,
    /// Those that were skipped, for a report.
    skipped: Vec<PoisonLine>,
    /// Valid up to `filled`; positions below count from `consumed`, so that moving the bytes to the
    /// front changes none of them.
    bytes: Vec<u8>,
    filled: usize,
    consumed: usize,
    /// What the next `fill` asks for.
    fill_bytes: usize,
    /// Where `consumed` is in the input.
    n_before: u64,
    /// The checksum of all bytes before that, if it is wanted.
    sum: Option<Crc>,
    /// Where the record under construction begins, and how far it was looked through.
    start: usize,
    cursor: usize,
    line: u64,
    quote: Quote,
    end_of_input: bool,
    records: Vec<Record>,
}

impl RecordBuffer {
    pub fn new(framing: Framing) -> RecordBuffer {
        RecordBuffer::at(framing, 0, 1)
    }

    /// A buffer for an input that begins at `byte` and `line` of a greater one.
    pub fn at(framing: Framing, byte: u64, line: u64) -> RecordBuffer {
        RecordBuffer {
            framing,
            may_have_mark: false,
            skips_long: false,
            block_bytes: BLOCK_BYTES_MAX,
            long: None,
            skipped: Vec::new(),
            bytes: Vec::new(),
            filled: 0,
            consumed: 0,
            fill_bytes: FIRST_FILL_BYTES,
            n_before: byte,
            sum: None,
            start: 0,
            cursor: 0,
            line,
            quote: Quote::default(),
            end_of_input: false,
            records: Vec::new(),
        }
    }

    /// From now on records end by another rule: the one that a header implies for the lines after
    /// it.
    pub fn reframe(&mut self, framing: Framing) {
        self.framing = framing;
    }

    /// Declares that the input may begin with U+FEFF, as UTF-8 files of some programs do.
    pub fn pass_over_mark(&mut self) {
        self.may_have_mark = true;
    }

    /// Keeps a checksum of what is consumed, continuing that of what precedes the buffer.
    pub fn sum_from(&mut self, before: Crc) {
        self.sum = Some(before);
    }

    /// The checksum of all bytes of the input before [`RecordBuffer::position`], if one is kept.
    pub fn sum(&self) -> Option<u32> {
        let mut sum = Crc::new();
        sum.combine(self.sum.as_ref()?);
        sum.update(&self.bytes[self.consumed..self.consumed + self.first_start()]);
        Some(sum.sum())
    }

    /// Where the first record begins that was not consumed.
    fn first_start(&self) -> usize {
        self.records
            .first()
            .map_or(self.start, |record| record.start)
    }

    /// Skips the next bytes.
    fn pass(&mut self, n_bytes: usize) {
        if let Some(sum) = &mut self.sum {
            sum.update(&self.bytes[self.consumed..self.consumed + n_bytes]);
        }
        (self.consumed, self.n_before) = (self.consumed + n_bytes, self.n_before + n_bytes as u64);
    }

    /// Skips the mark if it is there; false if there are too few bytes to tell.
    fn skip_mark(&mut self) -> bool {
        const MARK: &[u8] = b"\xEF\xBB\xBF";
        let rest = self.rest();
        if rest.len() < MARK.len() && MARK.starts_with(rest) && !self.end_of_input {
            return false;
        }
        if rest.starts_with(MARK) {
            self.pass(MARK.len());
        }
        self.may_have_mark = false;
        true
    }

    /// From now on a record that is too long is skipped, and reported by
    /// [`RecordBuffer::take_skipped`].
    pub fn skip_long_records(&mut self) {
        self.skips_long = true;
    }

    /// From now on a block ends with the record by which it reaches this number of bytes.
    pub fn limit_bytes(&mut self, block_bytes: usize) {
        self.block_bytes = block_bytes.min(BLOCK_BYTES_MAX);
    }

    /// The records that were skipped since the last call.
    pub fn take_skipped(&mut self) -> Vec<PoisonLine> {
        std::mem::take(&mut self.skipped)
    }

    /// Reads once; returns the number of bytes, 0 at the end of the input.
    pub fn fill(&mut self, input: &mut impl Read) -> std::io::Result<usize> {
        self.make_room(self.fill_bytes);
        let n_bytes = input.read(&mut self.bytes[self.filled..])?;
        self.filled += n_bytes;
        if n_bytes >= self.fill_bytes {
            self.fill_bytes = (self.fill_bytes * 2).min(FILL_BYTES);
        }
        Ok(n_bytes)
    }

    fn make_room(&mut self, n_bytes: usize) {
        self.bytes.copy_within(self.consumed..self.filled, 0);
        self.filled -= self.consumed;
        self.consumed = 0;
        if self.bytes.len() < self.filled + n_bytes {
            // Doubling keeps the number of moves small for long records.
            self.bytes
                .resize((self.filled + n_bytes).max(self.bytes.len() * 2), 0);
        }
    }

    /// Declares that nothing more will come: a last line without line end becomes complete.
    pub fn end_input(&mut self) {
        if self.may_have_mark && self.rest().len() >= 3 {
            self.skip_mark();
        }
        let is_open =
            self.long.is_some() || !self.rest().is_empty() && self.bytes[self.filled - 1] != b'\n';
        if !self.end_of_input && is_open {
            self.make_room(1);
            self.bytes[self.filled] = b'\n';
            self.filled += 1;
        }
        self.end_of_input = true;
    }

    /// Memory that the buffer takes.
    pub fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// The bytes of the incomplete record; for one that is too long, those that were not forgotten.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.consumed + self.start..self.filled]
    }

    /// The number of the line at which the next record begins.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The byte and the line at which the first record begins that was not consumed; blank lines
    /// may precede it there. A buffer made `at` this place finds the same records. The line end
    /// that `end_input` puts after the last line counts as a byte.
    pub fn position(&self) -> (u64, u64) {
        let line = self.records.first().map_or(self.line, |record| record.line);
        (self.n_before + self.first_start() as u64, line)
    }

    /// Finds records until there are `rows`, or enough bytes. Returns whether the block is to be
    /// taken as it is; otherwise more input is needed.
    ///
    /// # Errors
    /// `Data` if a line is longer than 16 MiB, and such lines are not skipped.
    pub fn frame(&mut self, rows: usize) -> Result<bool> {
        if self.may_have_mark && !self.skip_mark() {
            return Ok(false);
        }
        while self.records.len() < rows && self.start < self.block_bytes {
            match self.record_end() {
                Some(end) if self.is_long(end - self.start) => self.end_long(end)?,
                Some(end) => self.push(end),
                None if !self.is_long(self.rest().len()) => return Ok(false),
                // Its bytes can be forgotten when the records before it are consumed.
                None if self.skips_long && !self.records.is_empty() => return Ok(true),
                None => return self.forget_rest().map(|()| false),
            }
        }
        Ok(true)
    }

    /// Whether a record is too long of which `n_bytes` are here.
    fn is_long(&self, n_bytes: usize) -> bool {
        self.long.is_some() || n_bytes > RECORD_BYTES_MAX
    }

    /// Adds bytes from `start` to `end` to the record that is too long.
    fn lengthen(&mut self, end: usize) -> Result<()> {
        if !self.skips_long {
            let mib = RECORD_BYTES_MAX >> 20;
            let what = if self.quote.open {
                format!("has a quote that is not closed within {mib}")
            } else {
                format!("is longer than {mib}")
            };
            return Err(Error::new(
                code::BAD_RECORD,
                format!("line {} {what} MiB", self.line),
            ));
        }
        let bytes = &self.bytes[self.consumed + self.start..self.consumed + end];
        let begin = || bytes[..bytes.len().min(BEGIN_BYTES)].to_vec();
        let long = self.long.get_or_insert_with(|| LongRecord {
            begin: begin(),
            ..LongRecord::default()
        });
        long.n_bytes += bytes.len() as u64;
        long.last = bytes.last().copied().or(long.last);
        Ok(())
    }

    /// Forgets the examined part of a record that is too long and incomplete. There are no records
    /// before it.
    fn forget_rest(&mut self) -> Result<()> {
        // Blank lines may precede it.
        self.consume();
        let end = self.cursor;
        self.lengthen(end)?;
        if let (Some(long), true) = (&mut self.long, self.sum.is_some()) {
            long.sum
                .update(&self.bytes[self.consumed..self.consumed + end]);
        }
        (self.consumed, self.cursor) = (self.consumed + end, 0);
        Ok(())
    }

    /// Skips the record that is too long and ends at `end`.
    fn end_long(&mut self, end: usize) -> Result<()> {
        let here = (end - self.start) as u64;
        self.lengthen(end)?;
        let LongRecord {
            begin,
            n_bytes,
            sum: forgotten,
            ..
        } = self.long.take().unwrap_or_default();
        let reason = match self.quote.open {
            true => format!(
                "a quote in it is not closed: it takes the rest of the input, {n_bytes} bytes"
            ),
            false => format!(
                "it is longer than {} MiB: it has {n_bytes} bytes",
                RECORD_BYTES_MAX >> 20
            ),
        };
        self.skipped
            .push(PoisonLine::refused(self.line, begin, reason));
        self.n_before += n_bytes - here;
        if let Some(sum) = &mut self.sum {
            sum.combine(&forgotten);
        }
        self.end_record(end);
        Ok(())
    }

    /// The position of the line end that completes the record, if it is there.
    fn record_end(&mut self) -> Option<usize> {
        match self.framing {
            Framing::Csv { delimiter, .. } => self.record_end_csv(delimiter),
            _ => self.find(|bytes| memchr::memchr(b'\n', bytes)),
        }
    }

    /// Searches on from the cursor, which ends up at the hit or at the end.
    fn find(&mut self, search: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
        let unseen = &self.bytes[self.consumed + self.cursor..self.filled];
        let hit = search(unseen);
        self.cursor += hit.unwrap_or(unseen.len());
        hit.map(|_| self.cursor)
    }

    fn record_end_csv(&mut self, delimiter: u8) -> Option<usize> {
        while let Some(at) = self.find(|bytes| memchr::memchr2(b'\n', b'"', bytes)) {
            match (self.byte(at), self.quote.open) {
                (Some(b'\n'), false) => return Some(at),
                (Some(b'\n'), true) => self.quote.n_line_ends += 1,
                (_, false) => self.quote.open = self.begins_field(at, delimiter),
                (_, true) => match self.byte(at + 1) {
                    // Two quotes mean one.
                    Some(b'"') => self.cursor += 1,
                    Some(_) => self.quote.open = false,
                    // The next byte says what it is; look at it again then.
                    None if !self.end_of_input => return None,
                    None => self.quote.open = false,
                },
            }
            self.cursor += 1;
        }
        if self.end_of_input {
            self.give_up_quote()
        } else {
            None
        }
    }

    /// A quote that is never closed ends with the input, at its last line end, which was inside the
    /// quotes so far.
    fn give_up_quote(&mut self) -> Option<usize> {
        let end = (self.filled - self.consumed)
            .checked_sub(1)
            .filter(|end| self.quote.open && *end >= self.start)?;
        self.quote.n_line_ends = self.quote.n_line_ends.saturating_sub(1);
        Some(end)
    }

    /// Whether a field begins at this place of the record.
    fn begins_field(&self, at: usize, delimiter: u8) -> bool {
        let before = if at > self.start {
            self.byte(at - 1)
        } else {
            self.long.as_ref().and_then(|long| long.last)
        };
        before.is_none_or(|before| before == delimiter)
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes[..self.filled].get(self.consumed + at).copied()
    }

    /// Takes the record that ends at `end`, unless it is blank.
    fn push(&mut self, end: usize) {
        let text = &self.bytes[self.consumed + self.start..self.consumed + end];
        let length = text.len() - usize::from(text.last() == Some(&b'\r'));
        let blank = match self.framing {
            Framing::Lines => false,
            Framing::Json => text.iter().all(u8::is_ascii_whitespace),
            Framing::Csv { blank_lines, .. } => {
                !blank_lines && text.iter().all(|&byte| byte == b'\r')
            }
        };
        if !blank {
            self.records.push(Record {
                start: self.start,
                end: self.start + length,
                line: self.line,
            });
        }
        self.end_record(end);
    }

    /// The next record begins after the line end at `end`.
    fn end_record(&mut self, end: usize) {
        self.line += 1 + self.quote.n_line_ends;
        self.quote = Quote::default();
        self.start = end + 1;
        self.cursor = self.start;
    }

    /// The records that were found.
    pub fn block(&self) -> Block<'_> {
        Block {
            bytes: &self.bytes[self.consumed..self.filled],
            records: &self.records,
        }
    }

    /// Forgets the block and the blank lines around it.
    pub fn consume(&mut self) {
        self.pass(self.start);
        self.cursor -= self.start;
        self.start = 0;
        self.records.clear();
    }
}

#[cfg(test)]
mod tests;
