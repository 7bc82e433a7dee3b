//! Names of files as text, in splits and snapshots. A name of any bytes can be recovered.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use streamrt_operator::values::hexadecimal;

/// Precedes the digits of a path that is not UTF-8. No path contains this character.
const MARK: char = '\0';

/// The path itself, or if it is not UTF-8, its bytes as digits after a mark.
pub fn to_text(path: &Path) -> String {
    path.to_str().map_or_else(
        || format!("{MARK}{}", hexadecimal(path.as_os_str().as_bytes())),
        str::to_owned,
    )
}

/// The path that [`to_text`] was given.
pub fn to_path(text: &str) -> PathBuf {
    let bytes = text.strip_prefix(MARK).and_then(bytes);
    bytes.map_or_else(
        || PathBuf::from(text),
        |bytes| PathBuf::from(OsString::from_vec(bytes)),
    )
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let byte = |at: usize| {
        digits
            .get(at..at + 2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
    };
    (0..digits.len()).step_by(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_any_bytes_comes_back() {
        for bytes in [
            &b"data/a.csv"[..],
            "é [1]".as_bytes(),
            b"caf\xe9/\xff.csv",
            b"\n",
            b"0a",
        ] {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            assert_eq!(to_path(&to_text(&path)), path);
        }
        assert_eq!(to_text(Path::new("data/a.csv")), "data/a.csv");
    }
}
