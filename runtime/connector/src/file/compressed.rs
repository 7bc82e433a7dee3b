//! Compressed files, as the bytes that they hold: `.gz`, `.zst` and `.bz2`, known by their names.
//!
//! 1. A file is read up to the length that it had when it was found, member by member (gzip, bzip2) or frame by frame (zstd).
//! 2. What a checksum or an end says that is there must be there: a file that is cut off or damaged is an error at its place, never a
//!    shorter file.
//!
//! Invariant: memory is bounded by the formats' windows (32 KiB, 900 KiB; of zstd at most 100 MiB), whatever a file expands to, since what
//! was expanded goes on at once.

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Take};
use std::path::Path;

/// Bytes that are read from a file at once.
const READ_BYTES: usize = 64 << 10;

/// Of a larger window the library reads nothing.
const WINDOW_BYTES_MAX: usize = 128 << 20;

/// So many bytes say what window a file has.
pub const HEAD_BYTES: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Zstd,
    Bzip2,
}

type Input = BufReader<Take<File>>;

impl Compression {
    /// What the end of a name says.
    pub fn of(path: &Path) -> Option<Compression> {
        match path.extension()?.as_encoded_bytes() {
            b"gz" => Some(Compression::Gzip),
            b"zst" => Some(Compression::Zstd),
            b"bz2" => Some(Compression::Bzip2),
            _ => None,
        }
    }

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Bzip2 => "bzip2",
        }
    }

    /// Memory that decompressing a file takes, about; `head` are its first bytes. Of several frames of zstd the first one counts.
    pub fn held_bytes(self, head: &[u8]) -> usize {
        match self {
            Compression::Gzip => READ_BYTES + (64 << 10),
            // A block, and for each of its bytes a place in the order.
            Compression::Bzip2 => READ_BYTES + 5 * (900 << 10),
            Compression::Zstd => READ_BYTES + (256 << 10) + zstd_window(head),
        }
    }

    /// The bytes that the first `n_bytes` of a file stand for.
    pub fn reader(self, file: File, n_bytes: u64) -> Box<dyn Read + Send> {
        let input = BufReader::with_capacity(READ_BYTES, file.take(n_bytes));
        match self {
            Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
            Compression::Bzip2 => Box::new(MultiBzDecoder::new(input)),
            Compression::Zstd => Box::new(ZstdFrames { input, decoder: FrameDecoder::new(), is_open: false, is_begun: false }),
        }
    }
}

/// The window of a frame, in bytes, as its header says; of one without a window, which is small, nothing.
///
/// # Source
/// RFC 8878, section 3.1.1.1.2.
fn zstd_window(head: &[u8]) -> usize {
    const SINGLE_SEGMENT: u8 = 1 << 5;
    match head {
        [0x28, 0xb5, 0x2f, 0xfd, descriptor, window, ..] if descriptor & SINGLE_SEGMENT == 0 => {
            // The greatest exponent is 41.
            let base = 1u64 << (10 + (window >> 3));
            usize::try_from(base + base / 8 * u64::from(window & 7)).unwrap_or(usize::MAX / 2).min(WINDOW_BYTES_MAX)
        }
        _ => 0,
    }
}

/// Whether an error is one of the disk. All others say that the file is not what its name says.
pub fn is_of_disk(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |cause| match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => cause.source(),
    });
    causes.any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error().is_some()))
}

/// The frames of a zstd file, one behind the other.
struct ZstdFrames {
    input: Input,
    decoder: FrameDecoder,
    /// A frame has begun and not ended.
    is_open: bool,
    /// There was a frame.
    is_begun: bool,
}

impl ZstdFrames {
    /// Begins the next frame; false at the end of the file.
    fn open(&mut self) -> io::Result<bool> {
        // A file without any frame was cut off before its first byte.
        while !self.input.fill_buf()?.is_empty() || !self.is_begun {
            self.is_begun = true;
            match self.decoder.reset(&mut self.input) {
                Ok(()) => {
                    self.is_open = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => self.skip(length.into())?,
                Err(e) => return Err(io::Error::other(e)),
            }
        }
        Ok(false)
    }

    /// Passes over a frame that is for others.
    fn skip(&mut self, n_bytes: u64) -> io::Result<()> {
        let n_skipped = io::copy(&mut self.input.by_ref().take(n_bytes), &mut io::sink())?;
        if n_skipped == n_bytes { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// Ends the frame, all of which was read.
    fn close(&mut self) -> io::Result<()> {
        self.is_open = false;
        let (written, found) = (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
        if written.is_none() || written == found {
            return Ok(());
        }
        Err(io::Error::new(ErrorKind::InvalidData, "the checksum is not that of the content"))
    }
}

impl Read for ZstdFrames {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_open && !self.open()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder.decode_blocks(&mut self.input, BlockDecodingStrategy::UptoBlocks(1)).map_err(io::Error::other)?;
            }
            match self.decoder.read(bytes)? {
                0 if !bytes.is_empty() => self.close()?,
                n_bytes => return Ok(n_bytes),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 KiB, and 128 MiB with and without three eighths more, which is as much as is read at all.
    #[test]
    fn a_frame_of_zstd_says_what_window_it_has() {
        let frame = |descriptor: u8, window: u8| zstd_window(&[0x28, 0xb5, 0x2f, 0xfd, descriptor, window]);
        assert_eq!([frame(0, 0), frame(4, 17 << 3), frame(0, 17 << 3 | 3), frame(0, 0xff)], [1 << 10, 128 << 20, 128 << 20, 128 << 20]);
        assert_eq!([frame(1 << 5, 17 << 3), zstd_window(b"(\xb5/"), zstd_window(b"no frame")], [0; 3]);
        assert!(Compression::Bzip2.held_bytes(b"BZh9") > 4 << 20);
    }
}
