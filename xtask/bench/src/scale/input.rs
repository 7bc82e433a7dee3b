//! The inputs of `bench scale`, made from numbers alone: the same each time.

use anyhow::{Context, Result};
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the records lie in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// In order of time.
    OneFile,
    /// Cut into a number of files, one after the other in time.
    InOrder { files: u64 },
    /// Those of each user together, so that each file covers all the time.
    ByUser { files: u64 },
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Layout::OneFile => write!(f, "in one file"),
            Layout::InOrder { files } => write!(f, "in {files} files in order"),
            Layout::ByUser { files } => write!(f, "in {files} files by user"),
        }
    }
}

/// Clicks as hot-items reads them: user, item, category, behaviour, seconds; 14 per second, a
/// quarter of them on a few items.
pub struct Behaviours {
    /// About this many bytes.
    pub bytes: u64,
}

/// What was written.
pub struct Written {
    pub path: PathBuf,
    pub rows: u64,
}

const A_SECOND: u64 = 14;
const USERS: u64 = 30_000;
const ITEMS: u64 = 60_000;
const HOT_ITEMS: u64 = 100;
const START_S: u64 = 1_511_658_000;
/// The average number of bytes of a line.
const LINE_BYTES: u64 = 36;

impl Behaviours {
    /// Writes them into the new folder `folder`; a single file is meant by its own path.
    pub fn write(&self, layout: Layout, folder: &Path) -> Result<Written> {
        fs::create_dir_all(folder)
            .with_context(|| format!("{} cannot be made", folder.display()))?;
        let rows = self.bytes / LINE_BYTES;
        let n_files = match layout {
            Layout::OneFile => 1,
            Layout::InOrder { files } | Layout::ByUser { files } => files,
        };
        let path = |file: u64| folder.join(format!("{file:05}.csv"));
        let open = |file| Ok(BufWriter::new(File::create(path(file))?));
        let mut files = (0..n_files).map(open).collect::<Result<Vec<_>>>()?;
        for row in 0..rows {
            let user = mix(row) % USERS;
            let file = match layout {
                Layout::OneFile => 0,
                Layout::InOrder { files } => row * files / rows,
                Layout::ByUser { files } => user % files,
            };
            line(&mut files[file as usize], row, user)?;
        }
        files.iter_mut().try_for_each(Write::flush)?;
        Ok(Written {
            path: if layout == Layout::OneFile {
                path(0)
            } else {
                folder.to_owned()
            },
            rows,
        })
    }
}

fn line(file: &mut impl Write, row: u64, user: u64) -> Result<()> {
    let chance = mix(row ^ 0x5bd1_e995);
    let item = if chance.is_multiple_of(4) {
        chance / 4 % HOT_ITEMS
    } else {
        HOT_ITEMS + chance / 4 % ITEMS
    };
    let behaviour = if chance % 10 < 9 { "pv" } else { "buy" };
    writeln!(
        file,
        "{user},{item},{},{behaviour},{}",
        1_000_000 + item % 5_000,
        START_S + row / A_SECOND
    )?;
    Ok(())
}

/// Spreads a number over 64 bits: the end of MurmurHash3.
fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

/// Rows `number,text` with a text of a given length, over 100 numbers.
pub fn write_wide(path: &Path, rows: usize, bytes: usize) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let text = "wide ".repeat(bytes / 5);
    (0..rows).try_for_each(|row| writeln!(file, "{},{text}", row % 100))?;
    Ok(file.flush()?)
}

/// Files of three rows with a number each.
pub fn write_small_files(folder: &Path, files: usize) -> Result<()> {
    let write = |file: usize| {
        fs::write(
            folder.join(format!("{file:06}.csv")),
            format!("{file}\n{file}\n{file}\n"),
        )
    };
    Ok((0..files).try_for_each(write)?)
}

/// A batch of one column `number`.
pub fn numbers(numbers: &[i64]) -> Result<RecordBatch> {
    Ok(RecordBatch::try_from_iter([(
        "number",
        Arc::new(Int64Array::from(numbers.to_vec())) as ArrayRef,
    )])?)
}
