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
