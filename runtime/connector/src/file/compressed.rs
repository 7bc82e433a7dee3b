//! Compressed files, as the bytes that they contain: `.gz`, `.zst` and `.bz2`, known by their
//! names.
//!
//! 1. A file is read member by member (gzip, bzip2) or frame by frame (zstd): those that begin
//!    within the length that it had when it was found, each to its end. So what is appended later
//!    is not read, and what was cut off then is, once the file is whole.
//! 2. What a checksum or an end marker announces must be there: a truncated or damaged file is an
//!    error at its place, never a shorter file.
//! 3. A block of bzip2 is passed on when its checksum was verified. The checksums of gzip and zstd
//!    follow members and frames of any length, which nobody could hold: these are passed on before,
//!    and a report of damage names the place from which on they may be wrong.
//!
//! Invariant: memory is bounded by the formats' windows (32 KiB; of zstd at most 100 MiB) and
//! blocks (900,000 bytes, which expand to at most 46 MB), whatever a file expands to, since what
//! was expanded is passed on at once.

mod bzip2_blocks;
mod gzip_members;
mod zstd_frames;

use bzip2_blocks::Bzip2Blocks;
use gzip_members::GzipMembers;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use zstd_frames::ZstdFrames;

/// Bytes that are read from a file at once.
const READ_BYTES: usize = 64 << 10;

/// The library refuses a larger window.
const WINDOW_BYTES_MAX: usize = 128 << 20;

/// The number of bytes that tell what window a file has.
pub const HEAD_BYTES: usize = 17;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Zstd,
    Bzip2,
}

/// The bytes of a file, and how many were taken.
struct Input {
    file: BufReader<File>,
    at: u64,
    /// No member or frame begins from here on.
    end: u64,
}

impl Input {
    fn is_past_end(&self) -> bool {
        self.at >= self.end
    }
}

impl Read for Input {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n_bytes = self.file.read(bytes)?;
        self.at += n_bytes as u64;
        Ok(n_bytes)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.file.fill_buf()
    }

    fn consume(&mut self, n_bytes: usize) {
        self.at += n_bytes as u64;
        self.file.consume(n_bytes);
    }
}

impl Compression {
    /// The compression that a name's suffix means.
    pub fn of(path: &Path) -> Option<Compression> {
        match path.extension()?.as_encoded_bytes() {
            b"gz" => Some(Compression::Gzip),
            b"zst" => Some(Compression::Zstd),
            b"bz2" => Some(Compression::Bzip2),
            _ => None,
        }
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Bzip2 => "bzip2",
        }
    }

    /// The approximate memory that decompressing a file takes; `head` are its first bytes. If there
    /// are several frames of zstd, the first one counts.
    fn held_bytes(self, head: &[u8]) -> usize {
        match self {
            Compression::Gzip => READ_BYTES + (64 << 10),
            // A block, and for each of its bytes a place in the order.
            Compression::Bzip2 => READ_BYTES + 5 * (900 << 10),
            Compression::Zstd => READ_BYTES + (256 << 10) + zstd_window(head),
        }
    }
}

/// The content of a compressed file.
pub struct Content {
    compression: Compression,
    decoder: Decoder,
    held_bytes: usize,
}

enum Decoder {
    Gzip(GzipMembers),
    Zstd(Box<ZstdFrames>),
    Bzip2(Bzip2Blocks),
}

impl Content {
    /// The content of the first `n_bytes` of a file; `head` are its first bytes.
    pub fn new(compression: Compression, file: File, n_bytes: u64, head: &[u8]) -> Content {
        let input = Input {
            file: BufReader::with_capacity(READ_BYTES, file),
            at: 0,
            end: n_bytes,
        };
        let decoder = match compression {
            Compression::Gzip => Decoder::Gzip(GzipMembers::new(input)),
            Compression::Zstd => Decoder::Zstd(Box::new(ZstdFrames::new(input))),
            Compression::Bzip2 => Decoder::Bzip2(Bzip2Blocks::new(input)),
        };
        Content {
            compression,
            decoder,
            held_bytes: compression.held_bytes(head),
        }
    }

    /// The name of its compression for people.
    pub fn name(&self) -> &'static str {
        self.compression.name()
    }

    /// The approximate memory that it takes.
    pub fn held_bytes(&self) -> usize {
        match &self.decoder {
            Decoder::Bzip2(blocks) => self.held_bytes + blocks.held_bytes(),
            Decoder::Gzip(_) | Decoder::Zstd(_) => self.held_bytes,
        }
    }

    /// How many of the last returned bytes no checksum has verified yet.
    pub fn n_unverified(&self) -> u64 {
        match &self.decoder {
            Decoder::Gzip(members) => members.n_unverified(),
            Decoder::Zstd(frames) => frames.n_unverified(),
            Decoder::Bzip2(_) => 0,
        }
    }
}

impl Read for Content {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match &mut self.decoder {
            Decoder::Gzip(members) => members.read(bytes),
            Decoder::Zstd(frames) => frames.read(bytes),
            Decoder::Bzip2(blocks) => blocks.read(bytes),
        }
    }
}

/// The window of a frame, in bytes, as its header says. A frame of one segment says how much it
/// holds instead, which is its window.
///
/// # Source
/// RFC 8878, section 3.1.1.1.
fn zstd_window(head: &[u8]) -> usize {
    const SINGLE_SEGMENT: u8 = 1 << 5;
    let window = match head {
        [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] if descriptor & SINGLE_SEGMENT != 0 => {
            content_size(*descriptor, rest)
        }
        [0x28, 0xb5, 0x2f, 0xfd, _, window, ..] => {
            // The greatest exponent is 41.
            let base = 1u64 << (10 + (window >> 3));
            base + base / 8 * u64::from(window & 7)
        }
        _ => 0,
    };
    usize::try_from(window)
        .unwrap_or(WINDOW_BYTES_MAX)
        .min(WINDOW_BYTES_MAX)
}

/// The content size of a frame without a window, whose header continues with `rest` after its
/// descriptor; 0 if it is cut off.
fn content_size(descriptor: u8, rest: &[u8]) -> u64 {
    let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let n_bytes = 1 << (descriptor >> 6);
    let field = rest
        .get(dictionary_bytes..dictionary_bytes + n_bytes)
        .unwrap_or_default();
    let number = field
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte));
    if n_bytes == 2 { number + 256 } else { number }
}

/// Whether an error is one of the disk. All others mean that the file is not what its name says.
pub fn is_of_disk(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |cause| {
        match cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => cause.source(),
        }
    });
    causes.any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.raw_os_error().is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 KiB, and 128 MiB with and without three eighths more, which is as much as is read at all.
    #[test]
    fn a_frame_of_zstd_says_what_window_it_has() {
        let frame =
            |descriptor: u8, window: u8| zstd_window(&[0x28, 0xb5, 0x2f, 0xfd, descriptor, window]);
        assert_eq!(
            [
                frame(0, 0),
                frame(4, 17 << 3),
                frame(0, 17 << 3 | 3),
                frame(0, 0xff)
            ],
            [1 << 10, 128 << 20, 128 << 20, 128 << 20]
        );
        assert_eq!([zstd_window(b"(\xb5/"), zstd_window(b"no frame")], [0; 2]);
        // The size in a field of one byte, of two after a dictionary's two, of four, and of eight.
        let whole = |descriptor: u8, rest: &[u8]| {
            zstd_window(&[&[0x28, 0xb5, 0x2f, 0xfd, 1 << 5 | descriptor], rest].concat())
        };
        assert_eq!(
            [
                whole(0, &[7]),
                whole(1 << 6 | 2, &[9, 9, 1, 2]),
                whole(2 << 6, &[0, 0, 32, 0])
            ],
            [7, 513 + 256, 2 << 20]
        );
        assert_eq!(
            [whole(3 << 6, &[0xff; 8]), whole(2 << 6, &[0, 0])],
            [128 << 20, 0]
        );
        assert!(Compression::Bzip2.held_bytes(b"BZh9") > 4 << 20);
    }
}
