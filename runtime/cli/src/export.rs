//! `streamrt state export`: a keyed state as a Parquet file.
//!
//! A row is an entry: the key group, the key, what tells the entries of a key apart (the key of a
//! map, the place in a list, the bounds of a window, kind and time of a timer), with a time to live
//! the time of the last access, and the value. A key or value of several columns has `key_1`,
//! `key_2` and so on. Contents of windows and running aggregates are bytes.

use crate::args::StateExportArgs;
use streamrt_types::Result;

#[cfg(not(feature = "parquet"))]
pub fn export(_args: &StateExportArgs) -> Result<()> {
    let message =
        "`state export` is not in this build of streamrt; build it with `--features parquet`";
    Err(streamrt_types::Error::new(
        streamrt_types::code::BAD_OPTION,
        message,
    ))
}

/// Writes the file.
///
/// # Errors
/// If there is no such state, its bytes are damaged, or the file cannot be made.
#[cfg(feature = "parquet")]
pub fn export(args: &StateExportArgs) -> Result<()> {
    let mut state = crate::snapshot::KeyedState::open(&args.dir, &args.uid, &args.state)?;
    let n_rows = columns::write(&mut state, &args.output)?;
    crate::report::status(&format!(
        "{n_rows} entries of `{}` are in {}",
        args.state,
        args.output.display()
    ));
    Ok(())
}

#[cfg(feature = "parquet")]
mod columns;
