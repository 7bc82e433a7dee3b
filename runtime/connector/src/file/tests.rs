//! Tests of the source `file`: listing, cutting, headers, and files that change.

use super::*;
use crate::enumerator::FileEnumerator;
use proptest::prelude::*;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use streamrt_operator::Enumeration;
use streamrt_types::arrow_schema;
use streamrt_wit::{DataType, Field};

fn source(path: &Path, more: serde_json::Value) -> FileSource {
    let mut options = more;
    options["path"] = path.to_str().unwrap().into();
    let options: FileOptions = serde_json::from_value(options).unwrap();
    let schema = match options.format {
        FormatName::Lines => vec![Field::new("value", DataType::String)],
        _ => vec![Field::new("name", DataType::String), Field::new("n", DataType::I64)],
    };
    FileSource::new(options, arrow_schema(&schema)).unwrap()
}

fn splits(source: &FileSource) -> Vec<Split> {
    let mut enumerator = source.enumerator().unwrap();
    let mut found = Vec::new();
    while let Enumeration::Splits(splits) = enumerator.poll(2).unwrap() {
        found.extend(splits);
    }
    found
}

/// (line, row as JSON)
type Rows = Vec<(u64, String)>;

/// Reads a split to its end: the rows, and the positions of the poison.
fn read(source: &FileSource, split: &Split, rows: usize) -> Result<(Rows, Vec<u64>)> {
    let mut reader = source.open(split)?;
    let (mut found, mut poison) = (Vec::new(), Vec::new());
    loop {
        let poll = reader.poll(rows, Duration::MAX)?;
        poison.extend(reader.take_poison().iter().map(|line| line.position));
        match poll {
            ReaderPoll::Batch(batch) => {
                assert!((1..=rows).contains(&batch.n_rows()));
                let mut text = Vec::new();
                crate::encoder::RowEncoder::JSON.encode(&batch.columns, false, &mut text).unwrap();
                let origin = batch.origin.as_ref().unwrap();
                let lines = String::from_utf8(text).unwrap();
                found.extend(lines.lines().enumerate().map(|(row, line)| (origin.position(row), line.to_owned())));
            }
            ReaderPoll::Pending { .. } => {}
            ReaderPoll::Finished => return Ok((found, poison)),
        }
    }
}

fn names(splits: &[Split], root: &Path) -> Vec<String> {
    splits.iter().map(|split| split.name.strip_prefix(&format!("{}/", root.display())).unwrap().to_owned()).collect()
}

fn file(root: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = root.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_folder_is_listed_in_name_order_without_hidden_files_and_folders() {
    let root = tempfile::tempdir().unwrap();
    for name in ["b.csv", "a.csv", ".hidden", "c.txt"] {
        file(&root, name, "x\n");
    }
    fs::create_dir(root.path().join("aa")).unwrap();
    let found = splits(&source(root.path(), serde_json::json!({})));
    assert_eq!(names(&found, root.path()), ["a.csv", "b.csv", "c.txt"]);
    assert_eq!(found.iter().map(|split| split.number).collect::<Vec<_>>(), [0, 1, 2]);
    let found = splits(&source(&root.path().join("*.csv"), serde_json::json!({})));
    assert_eq!(names(&found, root.path()), ["a.csv", "b.csv"]);
}

#[test]
fn a_missing_path_is_named_from_the_root() {
    let check = |path: &str, expected: &str| {
        let error = source(Path::new(path), serde_json::json!({})).enumerator().unwrap().poll(1).unwrap_err();
        let here = std::env::current_dir().unwrap();
        assert_eq!((error.code().id, error.message()), ("S3001", expected.replace("HERE", here.to_str().unwrap()).as_str()));
    };
    check("no-such.csv", "HERE/no-such.csv does not exist");
    check("no-such/*.csv", "no file fits HERE/no-such/*.csv");
}

#[test]
fn a_watched_folder_gives_each_file_once() {
    let root = tempfile::tempdir().unwrap();
    let source = source(root.path(), serde_json::json!({ "watch": true, "watch-ms": 5 }));
    assert!(!source.bounded());
    let mut enumerator = FileEnumerator::new(source.options.clone(), &source.format);
    let mut poll = || match enumerator.poll(1).unwrap() {
        Enumeration::Splits(splits) => names(&splits, root.path()),
        Enumeration::Idle { ms } => vec![format!("idle {ms}")],
        Enumeration::Finished => vec!["finished".to_owned()],
    };
    assert_eq!(poll(), ["idle 5"]);
    file(&root, "b", "1\n");
    file(&root, "a", "1\n");
    assert_eq!((poll(), poll()), (vec!["a".to_owned(), "b".to_owned()], vec!["idle 5".to_owned()]));
    file(&root, "a", "1\n2\n");
    file(&root, "0", "1\n");
    assert_eq!((poll(), poll()), (vec!["0".to_owned()], vec!["idle 5".to_owned()]));
}

#[test]
fn a_header_gives_the_columns_and_counts_as_a_line() {
    let root = tempfile::tempdir().unwrap();
    let path = file(&root, "a.csv", "\u{feff}n,skip,name\r\n-1,x,a\r\n\r\n2,x,b\r\nbad,x,c\r\n3,x,d");
    for split_bytes in [1000, 22] {
        let source = source(&path, serde_json::json!({ "format": "csv", "header": true, "split-bytes": split_bytes }));
        let found: Vec<_> = splits(&source).iter().map(|split| read(&source, split, 2).unwrap()).collect();
        let rows: Vec<&str> = found.iter().flat_map(|(rows, _)| rows.iter().map(|(_, row)| row.as_str())).collect();
        assert_eq!(rows, [r#"{"name":"a","n":-1}"#, r#"{"name":"b","n":2}"#, r#"{"name":"d","n":3}"#]);
        if split_bytes == 1000 {
            assert_eq!(found[0].0.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4, 6]);
            assert_eq!(found[0].1, [5]);
        }
    }
}

#[test]
fn a_csv_file_with_quotes_is_not_cut() {
    let root = tempfile::tempdir().unwrap();
    let count = |text: &str, format: &str| {
        splits(&source(&file(&root, "a", text), serde_json::json!({ "format": format, "split-bytes": 4 }))).len()
    };
    assert_eq!((count("\"a\nb\",1\n", "csv"), count("aaa\n,1\n\n", "csv"), count("\"a\nb\",1\n", "lines")), (1, 2, 2));
}

#[test]
fn a_file_that_shrinks_is_an_error_and_one_that_grows_is_not() {
    let root = tempfile::tempdir().unwrap();
    let path = file(&root, "a", "one\ntwo\nthr");
    let source = source(&path, serde_json::json!({}));
    let split = &splits(&source)[0];
    fs::write(&path, "one\ntwo\nthree\nfour\n").unwrap();
    let rows: Vec<String> = read(&source, split, 10).unwrap().0.into_iter().map(|(_, row)| row).collect();
    assert_eq!(rows, [r#"{"value":"one"}"#, r#"{"value":"two"}"#, r#"{"value":"three"}"#]);
    fs::write(&path, "one\n").unwrap();
    let error = read(&source, split, 10).unwrap_err();
    assert_eq!((error.code().id, error.message()), ("S3002", format!("{} shrank while it was read", path.display()).as_str()));
    fs::remove_file(&path).unwrap();
    assert_eq!(read(&source, split, 10).unwrap_err().code().id, "S3001");
}

#[test]
fn only_bad_lines_still_end() {
    let root = tempfile::tempdir().unwrap();
    let check = |text: &str, header: bool, poison: Vec<u64>| {
        let source = source(&file(&root, "a", text), serde_json::json!({ "format": "csv", "header": header }));
        assert_eq!(read(&source, &splits(&source)[0], 2).unwrap(), (vec![], poison));
    };
    check("x\ny\nz\n", false, vec![1, 2, 3]);
    check("n,name\nx,y", true, vec![2]);
    check("n,name", true, vec![]);
    check("", true, vec![]);
}

proptest! {
    #[test]
    fn any_cut_gives_every_line_exactly_once(text in "[ab\n\r]{1,80}", split_bytes in 1u64..90, rows in 1usize..5) {
        let root = tempfile::tempdir().unwrap();
        let path = file(&root, "a", &text);
        let all = |split_bytes: u64, rows| {
            let source = source(&path, serde_json::json!({ "split-bytes": split_bytes }));
            let mut lines = Vec::new();
            for split in splits(&source) {
                lines.extend(read(&source, &split, rows).unwrap().0.into_iter().map(|(_, row)| row));
            }
            lines
        };
        prop_assert_eq!(all(split_bytes, rows), all(1000, 1000));
    }
}
