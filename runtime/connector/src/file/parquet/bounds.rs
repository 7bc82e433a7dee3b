//! A file as the Parquet library may read it: no length in it is believed before it was checked
//! against what is there.
//!
//! The library reserves what a page header or a list in the footer announces. So both are walked
//! here first, and what announces more than it can hold is refused: otherwise a file of some
//! hundred bytes would take gigabytes, or end the process.

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};
use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The end of a file: the length of the metadata, and the magic.
const TAIL_BYTES: u64 = 8;

/// A page header holds some numbers and, if the writer likes, a least and a greatest value.
const HEADER_BYTES: u64 = 4 << 10;
const HEADER_BYTES_MAX: u64 = 16 << 20;

/// The most that snappy, the only codec that is built in, makes from its input: 64 bytes from 3.
const EXPANSION_MAX: u64 = 24;
/// An empty page takes a few bytes.
const EXPANSION_ROOM: u64 = 64;

/// A footer has structures within structures, but few.
const DEPTH_MAX: u32 = 32;

/// Numbers of row groups have 16 bits.
const ROW_GROUPS_MAX: u64 = i16::MAX as u64;
const ROW_GROUPS_FIELD: i64 = 4;

/// See the module.
pub struct BoundedFile {
    file: Arc<File>,
    bytes: u64,
}

fn refused(what: impl Into<String>) -> ParquetError {
    ParquetError::General(what.into())
}

impl BoundedFile {
    /// `bytes` is the length of the file.
    pub fn new(file: File, bytes: u64) -> BoundedFile {
        BoundedFile {
            file: Arc::new(file),
            bytes,
        }
    }

    fn read(&self, start: u64, length: u64) -> Result<Vec<u8>, ParquetError> {
        let is_there = start
            .checked_add(length)
            .is_some_and(|end| end <= self.bytes);
        if !is_there {
            return Err(refused(format!(
                "{length} bytes are announced at byte {start}, but the file has {}",
                self.bytes
            )));
        }
        let mut bytes = vec![0; usize::try_from(length)?];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes)
    }

    /// The bytes of a page header only.
    fn page_header(&self, start: u64) -> Result<Vec<u8>, ParquetError> {
        let left = self.bytes.saturating_sub(start);
        let mut n_bytes = HEADER_BYTES;
        loop {
            let mut bytes = self.read(start, n_bytes.min(left))?;
            let mut walk = Walk {
                rest: &bytes,
                page: Page::default(),
            };
            match walk.page_header() {
                Ok(()) => {
                    let header_bytes = bytes.len() - walk.rest.len();
                    walk.page.check(left - header_bytes as u64)?;
                    bytes.truncate(header_bytes);
                    return Ok(bytes);
                }
                Err(Fault::Ends) if n_bytes < left.min(HEADER_BYTES_MAX) => n_bytes *= 16,
                Err(_) => return Err(refused(format!("no page header stands at byte {start}"))),
            }
        }
    }
}

impl Length for BoundedFile {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for BoundedFile {
    type T = Cursor<Vec<u8>>;

    /// This is how the library asks for the tail of the file, and for page headers.
    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let is_tail = start.checked_add(TAIL_BYTES) == Some(self.bytes);
        Ok(Cursor::new(if is_tail {
            self.read(start, TAIL_BYTES)?
        } else {
            self.page_header(start)?
        }))
    }

    /// And this is how it asks for the metadata, and for the contents of pages.
    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.read(start, length as u64)?;
        let is_metadata = start + length as u64 + TAIL_BYTES == self.bytes;
        if is_metadata
            && (Walk {
                rest: &bytes,
                page: Page::default(),
            })
            .metadata()
            .is_err()
        {
            return Err(refused(
                "the metadata at its end announces more than it holds",
            ));
        }
        Ok(bytes.into())
    }
}

/// Whether every column chunk lies in the file.
///
/// # Errors
/// Says which does not.
pub fn check_chunks(metadata: &ParquetMetaData, file_bytes: u64) -> Result<(), ParquetError> {
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let lies_within = |start: i64, bytes: i64| {
            let range = u64::try_from(start).ok().zip(u64::try_from(bytes).ok());
            range
                .and_then(|(start, bytes)| start.checked_add(bytes))
                .is_some_and(|end| end <= file_bytes)
        };
        let is_there = |column: &parquet::file::metadata::ColumnChunkMetaData| {
            let starts = [
                Some(column.data_page_offset()),
                column.dictionary_page_offset(),
            ];
            starts
                .into_iter()
                .flatten()
                .all(|start| lies_within(start, 0))
                && starts
                    .into_iter()
                    .flatten()
                    .min()
                    .is_some_and(|start| lies_within(start, column.compressed_size()))
        };
        if group.num_rows() < 0 || !group.columns().iter().all(is_there) {
            return Err(refused(format!(
                "row group {} does not lie in the file",
                number + 1
            )));
        }
    }
    Ok(())
}

/// What a page header announces.
#[derive(Debug, Default)]
struct Page {
    uncompressed: Option<i32>,
    compressed: Option<i32>,
    /// The number of values of a dictionary, which is allocated at this length at once.
    dictionary_values: Option<i32>,
}

impl Page {
    /// `left` are the bytes of the file after the header.
    fn check(&self, left: u64) -> Result<(), ParquetError> {
        let number = |n: Option<i32>| {
            u64::try_from(n.unwrap_or(0))
                .map_err(|_| refused("a page header announces less than nothing"))
        };
        let (uncompressed, compressed, values) = (
            number(self.uncompressed)?,
            number(self.compressed)?,
            number(self.dictionary_values)?,
        );
        if compressed > left
            || uncompressed > compressed * EXPANSION_MAX + EXPANSION_ROOM
            || values > uncompressed
        {
            return Err(refused(format!(
                "a page header announces {uncompressed} bytes out of {compressed}, and {values} values of a dictionary, with {left} bytes \
                 left in the file"
            )));
        }
        Ok(())
    }
}

/// Why a walk ends.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// The bytes end.
    Ends,
    /// They are not in the compact protocol of Thrift.
    Foreign,
}

/// Types of the compact protocol.
mod thrift {
    pub const STOP: u8 = 0;
    pub const TRUE: u8 = 1;
    pub const FALSE: u8 = 2;
    pub const BYTE: u8 = 3;
    pub const I16: u8 = 4;
    pub const I32: u8 = 5;
    pub const I64: u8 = 6;
    pub const DOUBLE: u8 = 7;
    pub const BINARY: u8 = 8;
    pub const LIST: u8 = 9;
    pub const SET: u8 = 10;
    pub const STRUCT: u8 = 12;
}

/// A walk over a structure of the compact protocol, which finds every length smaller than what is
/// left.
///
/// # Source
/// "Thrift Compact protocol encoding", specification of Apache Thrift.
struct Walk<'a> {
    rest: &'a [u8],
    page: Page,
}

impl Walk<'_> {
    fn page_header(&mut self) -> Result<(), Fault> {
        const UNCOMPRESSED: i64 = 2;
        const COMPRESSED: i64 = 3;
        const DICTIONARY: i64 = 7;
        self.fields(|walk, field, kind| {
            match (field, kind) {
                (UNCOMPRESSED, thrift::I32) => {
                    walk.page.uncompressed = Some(walk.once(walk.page.uncompressed)?)
                }
                (COMPRESSED, thrift::I32) => {
                    walk.page.compressed = Some(walk.once(walk.page.compressed)?)
                }
                (DICTIONARY, thrift::STRUCT) => walk.dictionary_header()?,
                (_, kind) => walk.skip(kind, DEPTH_MAX)?,
            }
            Ok(())
        })
    }

    fn dictionary_header(&mut self) -> Result<(), Fault> {
        const VALUES: i64 = 1;
        self.fields(|walk, field, kind| match (field, kind) {
            (VALUES, thrift::I32) => {
                walk.page.dictionary_values = Some(walk.once(walk.page.dictionary_values)?);
                Ok(())
            }
            (_, kind) => walk.skip(kind, DEPTH_MAX),
        })
    }

    fn metadata(&mut self) -> Result<(), Fault> {
        self.fields(|walk, field, kind| match (field, kind) {
            (ROW_GROUPS_FIELD, thrift::LIST) => walk.list(ROW_GROUPS_MAX, DEPTH_MAX),
            (_, kind) => walk.skip(kind, DEPTH_MAX),
        })
    }

    /// Shows every field of a structure: its number and its type. What is shown is to be walked
    /// over.
    fn fields(
        &mut self,
        mut each: impl FnMut(&mut Self, i64, u8) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut field = 0i64;
        loop {
            let head = self.byte()?;
            let (delta, kind) = (head >> 4, head & 0x0f);
            if kind == thrift::STOP {
                return Ok(());
            }
            field = if delta == 0 {
                self.number()?
            } else {
                field.saturating_add(i64::from(delta))
            };
            each(self, field, kind)?;
        }
    }

    fn skip(&mut self, kind: u8, depth: u32) -> Result<(), Fault> {
        let below = depth.checked_sub(1).ok_or(Fault::Foreign)?;
        match kind {
            thrift::TRUE | thrift::FALSE => Ok(()),
            thrift::BYTE => self.byte().map(drop),
            thrift::I16 | thrift::I32 | thrift::I64 => self.varint().map(drop),
            thrift::DOUBLE => self.take(8),
            thrift::BINARY => {
                let length = self.varint()?;
                self.take(length)
            }
            thrift::LIST | thrift::SET => self.list(u64::MAX, below),
            thrift::STRUCT => self.fields(|walk, _, kind| walk.skip(kind, below)),
            // Parquet has no maps.
            _ => Err(Fault::Foreign),
        }
    }

    fn list(&mut self, most: u64, depth: u32) -> Result<(), Fault> {
        const LONG: u8 = 15;
        let below = depth.checked_sub(1).ok_or(Fault::Foreign)?;
        let head = self.byte()?;
        let (short, kind) = (head >> 4, head & 0x0f);
        let length = if short == LONG {
            self.varint()?
        } else {
            u64::from(short)
        };
        // Every element has a byte at least.
        if length > most || length > self.rest.len() as u64 {
            return Err(if length > most {
                Fault::Foreign
            } else {
                Fault::Ends
            });
        }
        (0..length).try_for_each(|_| match kind {
            // In a list a truth value has a byte of its own.
            thrift::TRUE | thrift::FALSE => self.byte().map(drop),
            kind => self.skip(kind, below),
        })
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        let (&byte, rest) = self.rest.split_first().ok_or(Fault::Ends)?;
        self.rest = rest;
        Ok(byte)
    }

    fn take(&mut self, length: u64) -> Result<(), Fault> {
        let length = usize::try_from(length).map_err(|_| Fault::Ends)?;
        let (_, rest) = self.rest.split_at_checked(length).ok_or(Fault::Ends)?;
        self.rest = rest;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let mut number = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            // Bits beyond the 64th are lost, as the library loses them.
            number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Fault::Foreign)
    }

    /// A number of 32 bits, in a field that was not there before: if there are two, the library
    /// might take the other one.
    fn once(&mut self, before: Option<i32>) -> Result<i32, Fault> {
        let number = i32::try_from(self.number()?).map_err(|_| Fault::Foreign)?;
        if before.is_none() {
            Ok(number)
        } else {
            Err(Fault::Foreign)
        }
    }

    /// A number with a sign, which is in its last bit.
    fn number(&mut self) -> Result<i64, Fault> {
        let number = self.varint()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> BoundedFile {
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        BoundedFile::new(file, bytes.len() as u64)
    }

    fn varint(mut number: u64, out: &mut Vec<u8>) {
        while number >= 0x80 {
            out.push(number as u8 | 0x80);
            number >>= 7;
        }
        out.push(number as u8);
    }

    fn signed(number: i64) -> u64 {
        ((number << 1) ^ (number >> 63)) as u64
    }

    /// A header of a dictionary page, with this many bytes after it.
    fn dictionary(uncompressed: i64, compressed: i64, values: i64, behind: usize) -> Vec<u8> {
        let mut bytes = vec![0x15, 4];
        for number in [uncompressed, compressed] {
            bytes.push(0x15);
            varint(signed(number), &mut bytes);
        }
        bytes.extend([0x4c, 0x15]);
        varint(signed(values), &mut bytes);
        bytes.extend([0x15, 0, 0, 0]);
        bytes.resize(bytes.len() + behind, 7);
        bytes
    }

    #[test]
    fn a_page_header_is_shown_and_nothing_behind_it() {
        let bytes = dictionary(100, 90, 12, 90);
        let header = file(&bytes).get_read(0).unwrap().into_inner();
        assert_eq!(header, bytes[..bytes.len() - 90]);
    }

    #[test]
    fn what_a_page_header_announces_is_held_against_the_file() {
        let check = |uncompressed, compressed, values, expected: &str| {
            let error = file(&dictionary(uncompressed, compressed, values, 90))
                .get_read(0)
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(
            i64::from(i32::MAX),
            90,
            1,
            "announces 2147483647 bytes out of 90",
        );
        check(100, i64::from(i32::MAX), 1, "out of 2147483647");
        check(
            100,
            90,
            i64::from(i32::MAX),
            "2147483647 values of a dictionary",
        );
        for negative in [(-1, 90, 1), (100, -1, 1), (100, 90, -1)] {
            check(negative.0, negative.1, negative.2, "less than nothing");
        }
    }

    #[test]
    fn a_number_that_is_doubled_or_too_long_is_none() {
        let mut bytes = vec![0x15, 4, 0x15, 2, 0x15, 2];
        // Field 2 again, in the long form.
        bytes.extend([0x05, 4]);
        varint(signed(i64::from(i32::MAX)), &mut bytes);
        bytes.push(0);
        bytes.resize(200, 7);
        assert!(
            file(&bytes)
                .get_read(0)
                .unwrap_err()
                .to_string()
                .contains("no page header stands at byte 0")
        );
        // The library takes the last 32 bits of it, which are those of a great number.
        let long = dictionary((1 << 32) + i64::from(i32::MAX), 90, 1, 90);
        assert!(
            file(&long)
                .get_read(0)
                .unwrap_err()
                .to_string()
                .contains("no page header stands at byte 0")
        );
    }

    #[test]
    fn lists_and_texts_of_the_metadata_are_as_long_as_what_is_there() {
        let metadata = |bytes: &[u8]| {
            let mut whole = bytes.to_vec();
            whole.extend([0; TAIL_BYTES as usize]);
            file(&whole).get_bytes(0, bytes.len()).map(drop)
        };
        metadata(&[0x15, 2, 0]).unwrap();
        // Field 4, a list of structures, of which there are none.
        metadata(&[0x49, 0x0c, 0]).unwrap();
        let mut lie = vec![0x49, 0xfc];
        varint(u64::from(u32::MAX) >> 1, &mut lie);
        lie.push(0);
        assert!(metadata(&lie).is_err());
        let mut text = vec![0x68];
        varint(u64::MAX, &mut text);
        text.push(0);
        assert!(metadata(&text).is_err());
        // Structures within structures without end.
        assert!(metadata(&[0x1c; 1000]).is_err());
        assert!(metadata(&[0x19; 1000]).is_err());
    }

    #[test]
    fn nothing_is_reserved_for_what_lies_behind_the_end() {
        let short = file(&[1, 2, 3]);
        for (start, length) in [(0, 4), (3, 1), (u64::MAX, 1), (1, usize::MAX)] {
            assert!(short.get_bytes(start, length).is_err(), "{start} {length}");
        }
        assert_eq!(short.get_bytes(1, 2).unwrap(), vec![2, 3]);
    }
}
