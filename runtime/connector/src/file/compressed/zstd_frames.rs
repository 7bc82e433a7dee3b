//! The frames of a zstd file, one after the other. The checksum of a frame, if it has one, follows
//! it.

use super::Input;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self, BufRead, ErrorKind, Read};

pub struct ZstdFrames {
    input: Input,
    decoder: FrameDecoder,
    /// Whether a frame has begun and not ended.
    is_open: bool,
    /// Whether there was a frame.
    is_begun: bool,
    n_unverified: u64,
}

impl ZstdFrames {
    pub fn new(input: Input) -> ZstdFrames {
        ZstdFrames {
            input,
            decoder: FrameDecoder::new(),
            is_open: false,
            is_begun: false,
            n_unverified: 0,
        }
    }

    /// Bytes of the frame that were read, and whose checksum was not.
    pub fn n_unverified(&self) -> u64 {
        self.n_unverified
    }

    /// # Errors
    /// The disk's error, or that the file is not zstd or is cut off.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_open && !self.open()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.input, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            }
            match self.decoder.read(bytes)? {
                0 if !bytes.is_empty() => self.close()?,
                n_bytes => {
                    self.n_unverified += n_bytes as u64;
                    return Ok(n_bytes);
                }
            }
        }
    }

    /// Begins the next frame; false at the end of the file.
    fn open(&mut self) -> io::Result<bool> {
        // A file without any frame was cut off before its first byte.
        while !self.input.fill_buf()?.is_empty() || !self.is_begun {
            if self.is_begun && self.input.is_past_end() {
                break;
            }
            self.is_begun = true;
            match self.decoder.reset(&mut self.input) {
                Ok(()) => {
                    self.is_open = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => self.skip(length.into())?,
                Err(e) => return Err(io::Error::other(e)),
            }
        }
        Ok(false)
    }

    /// Skips a frame that is for others.
    fn skip(&mut self, n_bytes: u64) -> io::Result<()> {
        let n_skipped = io::copy(&mut self.input.by_ref().take(n_bytes), &mut io::sink())?;
        if n_skipped == n_bytes {
            Ok(())
        } else {
            Err(ErrorKind::UnexpectedEof.into())
        }
    }

    /// Ends the frame, all of which was read.
    fn close(&mut self) -> io::Result<()> {
        self.is_open = false;
        let (written, found) = (
            self.decoder.get_checksum_from_data(),
            self.decoder.get_calculated_checksum(),
        );
        if written.is_none() || written == found {
            self.n_unverified = 0;
            return Ok(());
        }
        Err(io::Error::new(
            ErrorKind::InvalidData,
            "the checksum is not that of the content",
        ))
    }
}
