//! The open file: rows go in, one format's bytes come out. It does not know how a file is staged
//! and committed.

use super::disk::file_error;
use crate::encoder::RowEncoder;
use arrow_array::RecordBatch;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use streamrt_types::Result;

/// Writes rows into one file.
pub trait PartWriter: Send {
    fn write(&mut self, rows: &RecordBatch) -> Result<()>;

    /// The length of the file, including what has gathered and is not written yet.
    fn n_bytes(&self) -> u64;

    /// Writes everything, down to the disk, and returns the length of the file. Called once, at the
    /// end.
    fn finish(&mut self) -> Result<u64>;
}

/// Bytes that gather before they are written: nobody sees them before the commit, so small batches
/// need no system call each.
const WRITE_BYTES: usize = 256 << 10;

/// JSON lines or CSV.
pub struct TextPart {
    file: File,
    path: PathBuf,
    encoder: RowEncoder,
    /// Whether the names of the columns are still to be written.
    header: bool,
    text: Vec<u8>,
    n_written: u64,
}

impl TextPart {
    pub fn new(file: File, path: &Path, encoder: RowEncoder, header: bool) -> TextPart {
        TextPart {
            file,
            path: path.to_owned(),
            encoder,
            header,
            text: Vec::new(),
            n_written: 0,
        }
    }

    fn write_text(&mut self) -> Result<()> {
        self.file
            .write_all(&self.text)
            .map_err(|e| file_error(&self.path, "cannot be written", e))?;
        self.n_written += self.text.len() as u64;
        self.text.clear();
        Ok(())
    }
}

impl PartWriter for TextPart {
    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let header = std::mem::take(&mut self.header);
        self.encoder.encode(rows, header, &mut self.text);
        if self.text.len() < WRITE_BYTES {
            Ok(())
        } else {
            self.write_text()
        }
    }

    fn n_bytes(&self) -> u64 {
        self.n_written + self.text.len() as u64
    }

    fn finish(&mut self) -> Result<u64> {
        self.write_text()?;
        self.file
            .sync_all()
            .map_err(|e| file_error(&self.path, "cannot be synced", e))?;
        Ok(self.n_written)
    }
}
