//! The members of a gzip file, one after the other. The checksum of a member follows it. Zeros
//! after a member fill up a block of a tape or disk, and are ignored, as by gzip itself.

use super::Input;
use flate2::bufread::GzDecoder;
use std::io::{self, BufRead, Read};

pub struct GzipMembers {
    /// `None` after the last one.
    decoder: Option<GzDecoder<Input>>,
    n_unverified: u64,
}

impl GzipMembers {
    pub fn new(input: Input) -> GzipMembers {
        GzipMembers {
            decoder: Some(GzDecoder::new(input)),
            n_unverified: 0,
        }
    }

    /// Bytes of the member that were read, and whose checksum was not.
    pub fn n_unverified(&self) -> u64 {
        self.n_unverified
    }

    /// # Errors
    /// The disk's error, or that the file is not gzip or is cut off.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let n_bytes = decoder.read(bytes)?;
            self.n_unverified += n_bytes as u64;
            if n_bytes > 0 || bytes.is_empty() {
                return Ok(n_bytes);
            }
            self.next_member()?;
        }
        Ok(0)
    }

    fn next_member(&mut self) -> io::Result<()> {
        self.n_unverified = 0;
        let Some(mut input) = self.decoder.take().map(GzDecoder::into_inner) else {
            return Ok(());
        };
        loop {
            let bytes = input.fill_buf()?;
            let (n_zeros, is_empty) = (
                bytes.iter().take_while(|byte| **byte == 0).count(),
                bytes.is_empty(),
            );
            match (n_zeros, is_empty || input.is_past_end()) {
                (_, true) => return Ok(()),
                (0, false) => break,
                (n_zeros, false) => input.consume(n_zeros),
            }
        }
        self.decoder = Some(GzDecoder::new(input));
        Ok(())
    }
}
