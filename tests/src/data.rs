//! Input for the tests: what ships with the examples, the real data of `tests/data`, and variations
//! of both.
//!
//! Invariant: a variation is a pure function of its lines; there is no randomness that a failed
//! test could not repeat.

use std::fs::File;
use std::path::{Path, PathBuf};

use ruzstd::decoding::StreamingDecoder;

use crate::binary::repository;
use crate::oracle;

/// The folder of an example.
pub fn example(name: &str) -> PathBuf {
    repository().join("examples").join(name)
}

/// What an example needs on the command line in addition to its arguments, to write into `output`.
pub fn options(example: &str, output: &Path) -> Vec<String> {
    match example {
        "audit-log" => vec!["--grant".to_owned(), format!("audit={}", output.display())],
        _ => Vec::new(),
    }
}

/// `--output FOLDER`, for an example that writes there and not into a folder that it is granted.
pub fn output(example: &str, output: &Path) -> Vec<String> {
    match example {
        "audit-log" | "sinks" => Vec::new(),
        _ => vec!["--output".to_owned(), output.display().to_string()],
    }
}

/// All lines of the input that ships with an example.
pub fn shipped(name: &str) -> String {
    read(&example(name).join("input"))
}

/// Unpacks a file of `tests/data` into `folder`.
pub fn unpack(file: &str, folder: &Path) -> PathBuf {
    let (packed, path) = (
        repository().join(format!("tests/data/{file}.zst")),
        folder.join(file),
    );
    let file =
        File::open(&packed).unwrap_or_else(|e| panic!("cannot open {}: {e}", packed.display()));
    let mut reader = StreamingDecoder::new(file)
        .unwrap_or_else(|e| panic!("{} is damaged: {e}", packed.display()));
    let mut unpacked =
        File::create(&path).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    std::io::copy(&mut reader, &mut unpacked)
        .unwrap_or_else(|e| panic!("cannot unpack {}: {e}", packed.display()));
    path
}

/// The text of a file, or of all files of a folder in the order of their names.
pub fn read(path: &Path) -> String {
    if !path.is_dir() {
        return std::fs::read_to_string(path)
            .unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(path)
        .expect("a folder can be listed")
        .map(|e| e.expect("it goes on").path())
        .collect();
    files.sort();
    files.iter().map(|file| read(file)).collect()
}

/// The lines in the order of their event time; lines of one time stay in order. An example without
/// event time keeps its order.
pub fn in_time_order<'a>(example: &str, text: &'a str) -> Vec<&'a str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_by_key(|line| oracle::time_of(example, line));
    lines
}

/// Makes every n-th line come this much later than its time says.
pub fn delay<'a>(example: &str, text: &'a str, every: usize, delay_ms: i64) -> Vec<&'a str> {
    let arrival = |(i, line): &(usize, &str)| match i % every {
        1 => oracle::time_of(example, line) + delay_ms,
        _ => oracle::time_of(example, line),
    };
    let mut lines: Vec<(usize, &str)> = text.lines().enumerate().collect();
    lines.sort_by_key(arrival);
    lines.into_iter().map(|(_, line)| line).collect()
}

/// Deals lines out to `n` files by their first field, so that what belongs to one key and has one
/// time stays in order.
pub fn deal<'a>(lines: &[&'a str], n: usize) -> Vec<Vec<&'a str>> {
    let mut hands = vec![Vec::new(); n];
    for line in lines {
        let first = line.split([',', ' ']).next().unwrap_or_default();
        hands[first.bytes().map(usize::from).sum::<usize>() % n].push(*line);
    }
    hands
}

/// Writes lines, each followed by a line end.
pub fn write(path: &Path, lines: &[&str]) {
    let text: String = lines.iter().flat_map(|line| [*line, "\n"]).collect();
    std::fs::write(path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
}
