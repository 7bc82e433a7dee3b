//! Cuts bytes into records: lines, or for CSV lines that may go on inside quotes. Called by the readers of files and sockets.
//!
//! 1. `fill` appends what the input has.
//! 2. `frame` finds complete records, up to as many as a batch wants.
//! 3. `block` lends them to a format.
//! 4. `consume` forgets them.
//!
//! A record that is not complete stays until more bytes come or `end_input` completes it. One that is too long stays as its beginning and its
//! length alone, if such records are to be left out.
//!
//! Invariant: each byte is in exactly one line, each line is counted exactly once, and how often the input was filled does not show.

use std::io::Read;
use std::ops::Range;
use streamrt_operator::PoisonLine;
use streamrt_types::{Error, Result, code};

/// Bytes that one `fill` asks for: large enough that system calls do not show, small enough to stay in the cache. The first ones ask for
/// less: many files are opened for a few records, and each clears its buffer.
const FILL_BYTES: usize = 256 << 10;
const FIRST_FILL_BYTES: usize = 16 << 10;

/// The longest record. A longer one is an error, as soon as it is that long, or is left out up to its line end.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// Bytes of a refused record that a report keeps.
pub const POISON_BYTES_MAX: usize = 1024;

/// A block ends early when it has so many bytes: columns have 32-bit offsets.
const BLOCK_BYTES_MAX: usize = 32 << 20;

/// A quote that is not closed after so many bytes is a mistake of its line alone.
const QUOTED_BYTES_MAX: usize = 1 << 20;

/// One record: where its text is, without the line end, and the number of its first line, counted from 1.
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

/// Complete records. Behind the text of each stands a line end.
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

    /// The records before and from `index`.
    pub fn split_at(&self, index: usize) -> (Block<'a>, Block<'a>) {
        let (left, right) = self.records.split_at(index);
        (Block { bytes: self.bytes, records: left }, Block { bytes: self.bytes, records: right })
    }
}

/// What ends a record, and what is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Every line, empty ones too.
    Lines,
    /// Every line that has more than blanks.
    Json,
    /// Every line that is not empty; a line end inside quotes does not count. A quote opens at the begin of a field alone.
    Csv { delimiter: u8 },
}

/// An open quote: the first line end inside, and how many there are.
#[derive(Debug, Clone, Copy, Default)]
struct Quote {
    first_line_end: Option<usize>,
    n_line_ends: u64,
    open: bool,
}

/// A record that is too long, as far as it was read and forgotten.
#[derive(Debug, Default)]
struct LongRecord {
    begin: Vec<u8>,
    n_bytes: u64,
}

pub struct RecordBuffer {
    framing: Framing,
    /// Records that are too long are left out, and no error.
    skips_long: bool,
    /// The one that is being left out.
    long: Option<LongRecord>,
    /// Those that were left out, for a report.
    skipped: Vec<PoisonLine>,
    /// Valid up to `filled`; positions below count from `consumed`, so that moving the bytes to the front changes none of them.
    bytes: Vec<u8>,
    filled: usize,
    consumed: usize,
    /// What the next `fill` asks for.
    fill_bytes: usize,
    /// Where `consumed` is in the input.
    n_before: u64,
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
            skips_long: false,
            long: None,
            skipped: Vec::new(),
            bytes: Vec::new(),
            filled: 0,
            consumed: 0,
            fill_bytes: FIRST_FILL_BYTES,
            n_before: byte,
            start: 0,
            cursor: 0,
            line,
            quote: Quote::default(),
            end_of_input: false,
            records: Vec::new(),
        }
    }

    /// From now on a record that is too long is left out, and told by [`RecordBuffer::take_skipped`].
    pub fn skip_long_records(&mut self) {
        self.skips_long = true;
    }

    /// The records that were left out since the last call.
    pub fn take_skipped(&mut self) -> Vec<PoisonLine> {
        std::mem::take(&mut self.skipped)
    }

    /// Reads once; returns the number of bytes, 0 at the end of the input.
    pub fn fill(&mut self, input: &mut impl Read) -> std::io::Result<usize> {
        self.make_room(self.fill_bytes);
        self.fill_bytes = (self.fill_bytes * 2).min(FILL_BYTES);
        let n_bytes = input.read(&mut self.bytes[self.filled..])?;
        self.filled += n_bytes;
        Ok(n_bytes)
    }

    fn make_room(&mut self, n_bytes: usize) {
        self.bytes.copy_within(self.consumed..self.filled, 0);
        self.filled -= self.consumed;
        self.consumed = 0;
        if self.bytes.len() < self.filled + n_bytes {
            // Doubling keeps the number of moves small for long records.
            self.bytes.resize((self.filled + n_bytes).max(self.bytes.len() * 2), 0);
        }
    }

    /// Says that nothing more will come: a last line without line end becomes complete.
    pub fn end_input(&mut self) {
        let is_open = self.long.is_some() || !self.rest().is_empty() && self.bytes[self.filled - 1] != b'\n';
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

    /// Whether the input may end here without cutting a record.
    pub fn is_between_records(&self) -> bool {
        self.long.is_none() && self.rest().is_empty()
    }

    /// The bytes of the record that is not complete; of one that is too long, those that were not forgotten.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.consumed + self.start..self.filled]
    }

    /// The number of the line at which the next record begins.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The byte and the line at which the first record begins that was not consumed; blank lines may stand there. A buffer made `at` this
    /// place finds the same records. The line end that `end_input` puts behind the last line counts as a byte.
    pub fn position(&self) -> (u64, u64) {
        let (start, line) = self.records.first().map_or((self.start, self.line), |record| (record.start, record.line));
        (self.n_before + start as u64, line)
    }

    /// Finds records until there are `rows`. Returns whether the block is to be taken as it is: else more input is needed.
    ///
    /// # Errors
    /// `Data` if a line is longer than 16 MiB, and such are not left out.
    pub fn frame(&mut self, rows: usize) -> Result<bool> {
        while self.records.len() < rows && self.start < BLOCK_BYTES_MAX {
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

    /// Whether the record is too long of which so many bytes are here.
    fn is_long(&self, n_bytes: usize) -> bool {
        self.long.is_some() || n_bytes > RECORD_BYTES_MAX
    }

    /// Adds bytes from `start` to `end` to the record that is too long.
    fn lengthen(&mut self, end: usize) -> Result<()> {
        if !self.skips_long {
            return Err(Error::new(code::BAD_RECORD, format!("line {} is longer than {} MiB", self.line, RECORD_BYTES_MAX >> 20)));
        }
        let bytes = &self.bytes[self.consumed + self.start..self.consumed + end];
        let long = self.long.get_or_insert_with(|| LongRecord { begin: bytes[..POISON_BYTES_MAX].to_vec(), n_bytes: 0 });
        long.n_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Forgets what is here of a record that is too long and not complete. There are no records before it.
    fn forget_rest(&mut self) -> Result<()> {
        // Blank lines may stand before it.
        self.consume();
        let end = self.filled - self.consumed;
        self.lengthen(end)?;
        (self.consumed, self.cursor, self.quote) = (self.filled, 0, Quote::default());
        Ok(())
    }

    /// Leaves out the record that is too long and ends at `end`.
    fn end_long(&mut self, end: usize) -> Result<()> {
        let here = (end - self.start) as u64;
        self.lengthen(end)?;
        let LongRecord { begin, n_bytes } = self.long.take().unwrap_or_default();
        let reason = format!("it is longer than {} MiB: it has {n_bytes} bytes", RECORD_BYTES_MAX >> 20);
        self.skipped.push(PoisonLine { position: self.line, line: String::from_utf8_lossy(&begin).into_owned(), reason });
        self.n_before += n_bytes - here;
        self.end_record(end);
        Ok(())
    }

    /// The position of the line end that completes the record, if it is there.
    fn record_end(&mut self) -> Option<usize> {
        match self.framing {
            // Of one that is too long it is not known any more whether quotes are open.
            Framing::Csv { delimiter } if self.long.is_none() => self.record_end_csv(delimiter),
            _ => self.find(|bytes| memchr::memchr(b'\n', bytes)),
        }
    }

    /// Looks on from the cursor, which ends up at the hit or at the end.
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
                (Some(b'\n'), true) => {
                    self.quote.first_line_end.get_or_insert(at);
                    self.quote.n_line_ends += 1;
                    if at - self.start > QUOTED_BYTES_MAX {
                        return self.give_up_quote();
                    }
                }
                (_, false) => self.quote.open = at == self.start || self.byte(at - 1) == Some(delimiter),
                (_, true) => match self.byte(at + 1) {
                    // Two quotes stand for one.
                    Some(b'"') => self.cursor += 1,
                    Some(_) => self.quote.open = false,
                    // What it is, the next byte says; look at it again then.
                    None if !self.end_of_input => return None,
                    None => self.quote.open = false,
                },
            }
            self.cursor += 1;
        }
        if self.end_of_input || self.rest().len() > RECORD_BYTES_MAX { self.give_up_quote() } else { None }
    }

    /// A quote that nobody closes ends with its line, so that it takes no other line with it.
    fn give_up_quote(&mut self) -> Option<usize> {
        let end = self.quote.first_line_end.filter(|_| self.quote.open)?;
        self.quote = Quote::default();
        Some(end)
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
            Framing::Csv { .. } => text.iter().all(|&byte| byte == b'\r'),
        };
        if !blank {
            self.records.push(Record { start: self.start, end: self.start + length, line: self.line });
        }
        self.end_record(end);
    }

    /// The next record begins behind the line end at `end`.
    fn end_record(&mut self, end: usize) {
        self.line += 1 + self.quote.n_line_ends;
        self.quote = Quote::default();
        self.start = end + 1;
        self.cursor = self.start;
    }

    /// The records that were found.
    pub fn block(&self) -> Block<'_> {
        Block { bytes: &self.bytes[self.consumed..self.filled], records: &self.records }
    }

    /// Forgets the block and the blank lines around it.
    pub fn consume(&mut self) {
        self.consumed += self.start;
        self.n_before += self.start as u64;
        self.cursor -= self.start;
        if let Some(line_end) = &mut self.quote.first_line_end {
            *line_end -= self.start;
        }
        self.start = 0;
        self.records.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CSV: Framing = Framing::Csv { delimiter: b',' };

    /// (line, text)
    type Records = Vec<(u64, String)>;

    /// Hands the input over in pieces of `piece` bytes and takes blocks of `rows` rows.
    fn frame(framing: Framing, input: &[u8], piece: usize, rows: usize) -> Records {
        frame_on(RecordBuffer::new(framing), input, piece, rows, usize::MAX).0
    }

    /// Takes at most `n_blocks` blocks; returns where the next record begins as well.
    fn frame_on(mut buffer: RecordBuffer, input: &[u8], piece: usize, rows: usize, n_blocks: usize) -> (Records, (u64, u64)) {
        let (mut pieces, mut found, mut ended) = (input.chunks(piece), Vec::new(), false);
        let mut n_left = n_blocks;
        loop {
            if n_left == 0 {
                return (found, buffer.position());
            }
            let full = buffer.frame(rows).unwrap();
            if full || ended {
                n_left -= 1;
                let block = buffer.block();
                found.extend(block.records.iter().map(|r| (r.line, String::from_utf8_lossy(&block.bytes[r.text()]).into_owned())));
                buffer.consume();
            }
            if full {
                continue;
            }
            match pieces.next() {
                Some(mut bytes) => assert!(buffer.fill(&mut bytes).unwrap() > 0),
                None if ended => return (found, buffer.position()),
                None => {
                    buffer.end_input();
                    ended = true;
                }
            }
        }
    }

    fn check(framing: Framing, input: &str, expected: &[(u64, &str)]) {
        let expected: Vec<(u64, String)> = expected.iter().map(|(line, text)| (*line, (*text).to_owned())).collect();
        for (piece, rows) in [(1, 1), (2, 3), (7, 2), (1000, 1000)] {
            assert_eq!(frame(framing, input.as_bytes(), piece, rows), expected, "{input:?} in pieces of {piece}, {rows} rows");
        }
    }

    #[test]
    fn lines_are_cut_and_counted() {
        check(Framing::Lines, "a\n\nb\r\nc", &[(1, "a"), (2, ""), (3, "b"), (4, "c")]);
        check(Framing::Json, "{}\n \t\r\n\n{}\n", &[(1, "{}"), (4, "{}")]);
        check(CSV, "\na,b\r\n\r\nc,d", &[(2, "a,b"), (4, "c,d")]);
        check(CSV, "", &[]);
        check(CSV, "\n", &[]);
    }

    #[test]
    fn quotes_hold_line_ends() {
        check(CSV, "1,\"a\nb\"\n2,c\n", &[(1, "1,\"a\nb\""), (3, "2,c")]);
        check(CSV, "\"a\"\"\n\",1\n2,c\n", &[(1, "\"a\"\"\n\",1"), (3, "2,c")]);
        check(CSV, "5\" disk,1\n6\" disk,2\n", &[(1, "5\" disk,1"), (2, "6\" disk,2")]);
        check(CSV, "1,\"\"\n2,\"x\"", &[(1, "1,\"\""), (2, "2,\"x\"")]);
    }

    #[test]
    fn an_open_quote_takes_no_other_line_with_it() {
        check(CSV, "1,\"a\n2,b\n3,c\n", &[(1, "1,\"a"), (2, "2,b"), (3, "3,c")]);
        check(CSV, "1,a\n2,\"", &[(1, "1,a"), (2, "2,\"")]);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut buffer = RecordBuffer::new(Framing::Lines);
        let mut input = std::io::repeat(b'x');
        let error = loop {
            buffer.fill(&mut input).unwrap();
            if let Err(error) = buffer.frame(1) {
                break error;
            }
        };
        assert_eq!((error.code().id, error.message()), ("S3003", "line 1 is longer than 16 MiB"));
    }

    /// Reads an input as a file is read, with records that are too long left out.
    fn frame_skipping(framing: Framing, mut input: &[u8]) -> (Records, Vec<(u64, String)>, Vec<(u64, u64)>) {
        let mut buffer = RecordBuffer::new(framing);
        buffer.skip_long_records();
        let (mut found, mut skipped, mut positions, mut ended) = (Vec::new(), Vec::new(), Vec::new(), false);
        while !ended {
            while !buffer.frame(2).unwrap() {
                if buffer.fill(&mut input).unwrap() == 0 {
                    buffer.end_input();
                    ended = !buffer.frame(2).unwrap();
                    break;
                }
            }
            let block = buffer.block();
            found.extend(block.records.iter().map(|r| (r.line, String::from_utf8_lossy(&block.bytes[r.text()]).into_owned())));
            buffer.consume();
            skipped.extend(buffer.take_skipped().into_iter().map(|line| (line.position, line.reason)));
            positions.push(buffer.position());
            assert!(buffer.bytes.len() <= 4 * RECORD_BYTES_MAX, "the record is kept");
        }
        assert!(buffer.is_between_records());
        (found, skipped, positions)
    }

    #[test]
    fn records_that_are_too_long_are_left_out_if_that_is_wanted() {
        let reason = |n_bytes: usize| format!("it is longer than 16 MiB: it has {n_bytes} bytes");
        for n_bytes in [RECORD_BYTES_MAX + 1, 5 * RECORD_BYTES_MAX] {
            let long = "x".repeat(n_bytes);
            for end in ["", "\n"] {
                let (found, skipped, positions) = frame_skipping(Framing::Lines, format!("a\n{long}\nb\n{long}{end}").as_bytes());
                assert_eq!(found, [(1, "a".to_owned()), (3, "b".to_owned())]);
                assert_eq!(skipped, [(2, reason(n_bytes)), (4, reason(n_bytes))]);
                let n_bytes = n_bytes as u64;
                // A line that does not come whole is where one goes on, until all of it was seen; then it is behind `b`.
                assert!(positions.contains(&(n_bytes + 5, 4)), "{positions:?}");
                assert_eq!(positions[0], if n_bytes > 2 * RECORD_BYTES_MAX as u64 { (2, 2) } else { (n_bytes + 5, 4) });
                // With the line end that `end_input` adds.
                assert_eq!(positions.last(), Some(&(2 * n_bytes + 6, 5)));
            }
            // A quote that is open in such a record does not reach beyond its line.
            let (found, skipped, _) = frame_skipping(CSV, format!("a,\"{long}\nb,c\n").as_bytes());
            assert_eq!((found, skipped), (vec![(2, "b,c".to_owned())], vec![(1, reason(n_bytes + 3))]));
        }
    }

    proptest! {
        #[test]
        fn pieces_and_blocks_do_not_show(input in "[ab,\"\n\r]{0,60}", piece in 1usize..9, rows in 1usize..5) {
            for framing in [Framing::Lines, Framing::Json, CSV] {
                prop_assert_eq!(frame(framing, input.as_bytes(), piece, rows), frame(framing, input.as_bytes(), 1000, 1000));
            }
        }

        #[test]
        fn a_buffer_made_at_a_position_goes_on_there(input in "[ab,\"\n\r]{0,60}", piece in 1usize..9, rows in 1usize..5, n_blocks in 0usize..9) {
            for framing in [Framing::Lines, Framing::Json, CSV] {
                let (mut found, (byte, line)) = frame_on(RecordBuffer::new(framing), input.as_bytes(), piece, rows, n_blocks);
                let rest = &input.as_bytes()[input.len().min(byte as usize)..];
                found.extend(frame_on(RecordBuffer::at(framing, byte, line), rest, piece, rows, usize::MAX).0);
                prop_assert_eq!(found, frame(framing, input.as_bytes(), 1000, 1000));
            }
        }
    }
}
