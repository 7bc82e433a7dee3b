//! The content of a bzip2 file, each block only when its checksum was verified.
//!
//! The checksum of a block precedes it, and the library compares it when the whole block has been
//! returned. Only then does it take input for the next one, or report that the stream has ended: so
//! what was returned before a call that takes input is verified.

use super::Input;
use bzip2::{Decompress, Status};
use std::io::{self, BufRead, ErrorKind};

/// The least number of bytes that one call of the library may return.
const CALL_BYTES: usize = 64 << 10;

/// What is kept for the next block. A block has 900,000 bytes, but 46 MB if they are all the same.
const KEPT_BYTES: usize = 1 << 20;

pub struct Bzip2Blocks {
    input: Input,
    /// `None` between two streams.
    decoder: Option<Decompress>,
    /// What the library returned: up to `n_taken` it was read, and up to `n_verified` it may be.
    content: Vec<u8>,
    n_taken: usize,
    n_verified: usize,
}

impl Bzip2Blocks {
    pub fn new(input: Input) -> Bzip2Blocks {
        // A file without any stream was cut off before its first byte.
        Bzip2Blocks {
            input,
            decoder: Some(Decompress::new(false)),
            content: Vec::new(),
            n_taken: 0,
            n_verified: 0,
        }
    }

    pub fn held_bytes(&self) -> usize {
        self.content.capacity()
    }

    /// # Errors
    /// The disk's error, or that the file is not bzip2 or is cut off.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.n_taken == self.n_verified {
            self.forget();
            if !self.step()? {
                return Ok(0);
            }
        }
        let verified = &self.content[self.n_taken..self.n_verified];
        let n_bytes = verified.len().min(bytes.len());
        bytes[..n_bytes].copy_from_slice(&verified[..n_bytes]);
        self.n_taken += n_bytes;
        Ok(n_bytes)
    }

    fn forget(&mut self) {
        self.content.drain(..self.n_verified);
        (self.n_taken, self.n_verified) = (0, 0);
        self.content.shrink_to(KEPT_BYTES);
    }

    /// Calls the library once; false at the end of the file.
    fn step(&mut self) -> io::Result<bool> {
        let is_past_end = self.input.is_past_end();
        let input = self.input.fill_buf()?;
        let is_at_end = input.is_empty();
        let decoder = match &mut self.decoder {
            None if is_at_end || is_past_end => return Ok(false),
            decoder => decoder.get_or_insert_with(|| Decompress::new(false)),
        };
        let (n_before, n_in_before) = (self.content.len(), decoder.total_in());
        self.content.reserve(CALL_BYTES);
        let status = decoder
            .decompress_vec(input, &mut self.content)
            .map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
        // It takes no more than it was given.
        let n_in = (decoder.total_in() - n_in_before) as usize;
        self.input.consume(n_in);
        match status {
            Status::StreamEnd => (self.decoder, self.n_verified) = (None, self.content.len()),
            Status::MemNeeded => return Err(ErrorKind::OutOfMemory.into()),
            _ if n_in > 0 => self.n_verified = n_before,
            _ if is_at_end && self.content.len() == n_before => {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            _ => {}
        }
        Ok(true)
    }
}
