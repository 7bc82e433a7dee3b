//! Tests of the source `file`: listing, cutting, headers, positions, and files that change.

mod compressed;
mod watched;

use super::*;
use crate::testing::{self, Found};
use proptest::prelude::*;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use streamrt_operator::Enumeration;
use streamrt_types::arrow_schema;
use streamrt_wit::{DataType, Field};

fn source(path: &Path, more: serde_json::Value) -> FileSource {
    let mut options = more;
    options["path"] = path.to_str().unwrap().into();
    let options: FileOptions = serde_json::from_value(options).unwrap();
    let schema = match options.format {
        FileFormat::Lines => vec![Field::new("value", DataType::String)],
        _ => vec![
            Field::new("name", DataType::String),
            Field::new("n", DataType::I64),
        ],
    };
    let format = options.format.text().unwrap();
    FileSource::new(options, format, arrow_schema(&schema)).unwrap()
}

fn splits(source: &FileSource) -> Vec<Split> {
    let mut enumerator = source.enumerator(None).unwrap();
    let mut found = Vec::new();
    while let Enumeration::Splits(splits) = enumerator.poll(2).unwrap() {
        found.extend(splits);
    }
    found
}

fn names(splits: &[Split], root: &Path) -> Vec<String> {
    splits
        .iter()
        .map(|split| {
            split
                .name
                .strip_prefix(&format!("{}/", root.display()))
                .unwrap()
                .to_owned()
        })
        .collect()
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
    assert_eq!(
        found.iter().map(|split| split.number).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    let found = splits(&source(&root.path().join("*.csv"), serde_json::json!({})));
    assert_eq!(names(&found, root.path()), ["a.csv", "b.csv"]);
}

#[test]
fn a_missing_path_is_named_from_the_root() {
    let check = |path: &str, expected: &str| {
        let error = source(Path::new(path), serde_json::json!({}))
            .enumerator(None)
            .unwrap()
            .poll(1)
            .unwrap_err();
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            (error.code().id, error.message()),
            (
                "S3001",
                expected.replace("HERE", here.to_str().unwrap()).as_str()
            )
        );
    };
    check("no-such.csv", "HERE/no-such.csv does not exist");
    check("no-such/*.csv", "no file fits HERE/no-such/*.csv");
    check(
        "no [such]/x",
        "no file fits HERE/no [such]/x; where a name has a `[`, the pattern has `[[]`",
    );
}

#[test]
fn what_is_no_file_is_told_from_what_is_not_there() {
    let error = source(Path::new("/dev/null"), serde_json::json!({}))
        .enumerator(None)
        .unwrap()
        .poll(1)
        .unwrap_err();
    assert_eq!(
        (error.code().id, error.message()),
        ("S3030", "/dev/null is neither a regular file nor a folder")
    );
}

#[test]
fn a_folder_whose_name_looks_like_a_pattern_is_itself() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("data [2024]/x?")).unwrap();
    fs::create_dir_all(root.path().join("data 2/xy")).unwrap();
    for name in [
        "data [2024]/a.txt",
        "data [2024]/b[1].txt",
        "data [2024]/x?/c.txt",
        "data 2/d.txt",
    ] {
        file(&root, name, "x\n");
    }
    let check = |pattern: &str, expected: &[&str]| {
        let found = splits(&source(&root.path().join(pattern), serde_json::json!({})));
        assert_eq!(names(&found, root.path()), expected, "{pattern}");
    };
    check(
        "data [2024]/*.txt",
        &["data [2024]/a.txt", "data [2024]/b[1].txt"],
    );
    check("data [2024]/b[1].txt", &["data [2024]/b[1].txt"]);
    check("data [2024]/b[[]?].*", &["data [2024]/b[1].txt"]);
    check("data [2024]/x?/*.txt", &["data [2024]/x?/c.txt"]);
    check("data [2-9]/*.txt", &["data 2/d.txt"]);
}

#[test]
fn a_name_that_is_no_text_is_one_of_many() {
    let root = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.txt");
    fs::write(root.path().join(name), "x\n").unwrap();
    file(&root, "a.txt", "y\n");
    let source = source(root.path(), serde_json::json!({}));
    let rows: Vec<Found> = splits(&source)
        .iter()
        .map(|split| testing::read(&source, split, 10).unwrap())
        .collect();
    assert_eq!(
        rows.iter().flat_map(Found::texts).collect::<Vec<_>>(),
        [r#"{"value":"y"}"#, r#"{"value":"x"}"#]
    );
    let mut enumerator = source.enumerator(None).unwrap();
    enumerator.poll(1).unwrap();
    assert!(matches!(
        source
            .enumerator(Some(&enumerator.snapshot()))
            .unwrap()
            .poll(1)
            .unwrap(),
        Enumeration::Finished
    ));
}

#[test]
fn names_with_an_end_of_files_in_the_making_are_left_out() {
    let root = tempfile::tempdir().unwrap();
    for name in ["a.csv", "b.csv.tmp", "c.part", "tmp"] {
        file(&root, name, "x\n");
    }
    let ignore = serde_json::json!({ "ignore": [".tmp", ".part"] });
    assert_eq!(
        names(&splits(&source(root.path(), ignore.clone())), root.path()),
        ["a.csv", "tmp"]
    );
    assert_eq!(
        names(
            &splits(&source(&root.path().join("*.*"), ignore)),
            root.path()
        ),
        ["a.csv"]
    );
}

#[test]
fn a_header_gives_the_columns_and_counts_as_a_line() {
    let root = tempfile::tempdir().unwrap();
    let path = file(
        &root,
        "a.csv",
        "\u{feff}n,skip,name\r\n-1,x,a\r\n\r\n2,x,b\r\nbad,x,c\r\n3,x,d",
    );
    for split_bytes in [1000, 22] {
        let source = source(
            &path,
            serde_json::json!({ "format": "csv", "header": true, "split-bytes": split_bytes }),
        );
        let found: Vec<Found> = splits(&source)
            .iter()
            .map(|split| testing::read(&source, split, 2).unwrap())
            .collect();
        let rows: Vec<&str> = found.iter().flat_map(Found::texts).collect();
        assert_eq!(
            rows,
            [
                r#"{"name":"a","n":-1}"#,
                r#"{"name":"b","n":2}"#,
                r#"{"name":"d","n":3}"#
            ]
        );
        if split_bytes == 1000 {
            assert_eq!(found[0].lines(), (vec![2, 4, 6], vec![5]));
        }
    }
}

#[test]
fn a_csv_file_with_quotes_is_not_cut() {
    let root = tempfile::tempdir().unwrap();
    let count = |text: &str, format: &str| {
        splits(&source(
            &file(&root, "a", text),
            serde_json::json!({ "format": format, "split-bytes": 4 }),
        ))
        .len()
    };
    assert_eq!(
        (
            count("\"a\nb\",1\n", "csv"),
            count("aaa\n,1\n\n", "csv"),
            count("\"a\nb\",1\n", "lines")
        ),
        (1, 2, 2)
    );
}

#[test]
fn a_file_that_shrinks_is_an_error_and_one_that_grows_is_not() {
    let root = tempfile::tempdir().unwrap();
    let path = file(&root, "a", "one\ntwo\nthr");
    let source = source(&path, serde_json::json!({}));
    let split = &splits(&source)[0];
    fs::write(&path, "one\ntwo\nthree\nfour\n").unwrap();
    assert_eq!(
        testing::read(&source, split, 10).unwrap().texts(),
        [
            r#"{"value":"one"}"#,
            r#"{"value":"two"}"#,
            r#"{"value":"three"}"#
        ]
    );
    fs::write(&path, "one\n").unwrap();
    let error = testing::read(&source, split, 10).unwrap_err();
    assert_eq!(
        (error.code().id, error.message()),
        (
            "S3012",
            format!("{} shrank while it was read", path.display()).as_str()
        )
    );
    fs::remove_file(&path).unwrap();
    assert_eq!(
        testing::read(&source, split, 10).unwrap_err().code().id,
        "S3001"
    );
}

#[test]
fn a_file_that_is_not_what_it_was_is_an_error_where_a_reader_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let path = file(&root, "a", "one\ntwo\nthree\n");
    let source = source(&path, serde_json::json!({}));
    let split = &splits(&source)[0];
    let mut reader = source.open(split, None).unwrap();
    testing::poll(&mut *reader, 2, &mut Found::default()).unwrap();
    let position = reader.position();
    let check = |text: Option<&str>, code: &str, expected: &str| {
        match text {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let error = source.open(split, Some(&position)).err().unwrap();
        assert_eq!(
            (error.code().id, error.message()),
            (code, format!("{} {expected}", path.display()).as_str())
        );
    };
    check(
        Some("one\n"),
        "S3012",
        "has 4 bytes, but had 14 when it was read up to byte 8: put it back as it was",
    );
    check(
        Some("one\ntwo\nthr\n"),
        "S3012",
        "has 12 bytes, but had 14 when it was read up to byte 8: put it back as it was",
    );
    check(
        Some("another file\n\n"),
        "S3012",
        "is not the file that was read up to byte 8, for no line ends there: put it back as it was",
    );
    check(None, "S3001", "does not exist");
    let error = source.open(split, Some("{}")).err().unwrap();
    assert_eq!(
        (
            error.code().id,
            error.message().contains("the snapshot holds `{}`")
        ),
        ("S7001", true)
    );
}

#[test]
fn only_bad_lines_still_end() {
    let root = tempfile::tempdir().unwrap();
    let check = |text: &str, header: bool, poison: Vec<u64>| {
        let source = source(
            &file(&root, "a", text),
            serde_json::json!({ "format": "csv", "header": header }),
        );
        assert_eq!(
            testing::read(&source, &splits(&source)[0], 2)
                .unwrap()
                .lines(),
            (vec![], poison)
        );
    };
    check("x\ny\nz\n", false, vec![1, 2, 3]);
    check("n,name\nx,y", true, vec![2]);
    check("n,name", true, vec![]);
    check("", true, vec![]);
}

#[test]
fn a_header_that_was_read_without_its_line_end_stays_what_it_was() {
    let root = tempfile::tempdir().unwrap();
    let path = file(&root, "a", "n,name");
    let source = source(
        &path,
        serde_json::json!({ "format": "csv", "header": true }),
    );
    let split = &splits(&source)[0];
    let position = source.open(split, None).unwrap().position();
    fs::write(&path, "n,namely\n1,a\n").unwrap();
    let found = testing::drain(&mut *source.open(split, Some(&position)).unwrap(), 10).unwrap();
    assert_eq!(found, Found::default());
}

/// Text that is hard on every format: quotes, line ends of both kinds, blank lines, rows and
/// poison, with and without a last line end.
fn text() -> impl Strategy<Value = String> {
    let pieces = [
        "a,1\n",
        "b,2\r\n",
        "bad,x\n",
        "\"q\nq\",3\n",
        "\"\"\"\n\",4\r\n",
        "{\"name\":\"j\",\"n\":5}\n",
        "\n",
        " \r\n",
        "\"open,6\n",
    ];
    let piece = prop_oneof![3 => prop::sample::select(pieces.to_vec()).prop_map(str::to_owned), 1 => "[ab1,\"\n\r]{0,6}"];
    (prop::collection::vec(piece, 0..12), 0usize..4).prop_map(|(pieces, n_bytes)| {
        let text = pieces.concat();
        text[..text.len().saturating_sub(n_bytes)].to_owned()
    })
}

/// The source over `path` for a format of the properties.
fn source_of(path: &Path, format: &str, split_bytes: u64) -> FileSource {
    let header = format == "csv with header";
    source(
        path,
        serde_json::json!({ "format": format.split(' ').next(), "header": header, "split-bytes": split_bytes }),
    )
}

const FORMATS: [&str; 4] = ["lines", "json", "csv", "csv with header"];

/// As an empty field is among others: `a,` and `1,`.
#[test]
fn an_empty_line_of_a_csv_file_with_one_column_is_an_empty_field() {
    let root = tempfile::tempdir().unwrap();
    let check = |text: &str, header: bool, field: Field, expected: (&[&str], &[u64])| {
        let options = serde_json::json!({ "path": file(&root, "one", text), "format": "csv", "header": header });
        let options: FileOptions = serde_json::from_value(options).unwrap();
        let source = FileSource::new(options, FormatName::Csv, arrow_schema(&vec![field])).unwrap();
        let found = testing::read(&source, &splits(&source)[0], 10).unwrap();
        assert_eq!(
            (found.texts().as_slice(), found.lines().1.as_slice()),
            expected,
            "{text:?}"
        );
    };
    let (string, number) = (
        Field::new("v", DataType::String),
        Field::new("v", DataType::I64),
    );
    check(
        "a\n\nb\n",
        false,
        string.clone(),
        (&[r#"{"v":"a"}"#, r#"{"v":""}"#, r#"{"v":"b"}"#], &[]),
    );
    check(
        "\nv\n\r\n\n",
        true,
        string,
        (&[r#"{"v":""}"#, r#"{"v":""}"#], &[]),
    );
    check(
        "1\n\n2\n\n",
        false,
        number.clone(),
        (&[r#"{"v":1}"#, r#"{"v":2}"#], &[2, 4]),
    );
    check(
        "1\n\n",
        false,
        Field {
            nullable: true,
            ..number
        },
        (&[r#"{"v":1}"#, r#"{"v":null}"#], &[]),
    );
}

#[test]
fn a_mark_that_is_larger_than_a_split_takes_no_line_with_it() {
    let root = tempfile::tempdir().unwrap();
    let path = file(&root, "a", "\u{feff}n,name\n1,a\n2,b\n");
    for split_bytes in 1..12 {
        let csv = source_of(&path, "csv with header", split_bytes);
        let rows: Vec<Found> = splits(&csv)
            .iter()
            .map(|split| testing::read(&csv, split, 10).unwrap())
            .collect();
        let texts: Vec<&str> = rows.iter().flat_map(Found::texts).collect();
        assert_eq!(
            texts,
            [r#"{"name":"a","n":1}"#, r#"{"name":"b","n":2}"#],
            "{split_bytes} bytes a split"
        );
        let lines = source_of(&path, "lines", split_bytes);
        let n_lines: usize = splits(&lines)
            .iter()
            .map(|split| testing::read(&lines, split, 10).unwrap().rows.len())
            .sum();
        assert_eq!(n_lines, 3, "{split_bytes} bytes a split");
    }
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
                lines.extend(testing::read(&source, &split, rows).unwrap().rows.into_iter().map(|(_, row)| row));
            }
            lines
        };
        prop_assert_eq!(all(split_bytes, rows), all(1000, 1000));
    }

    #[test]
    fn readers_opened_at_positions_find_what_one_does(
        text in text(), mark: bool, split_bytes in prop_oneof![Just(1000u64), 1u64..60], rows in 1usize..5,
        cuts in prop::collection::vec(0usize..4, 0..5),
    ) {
        let root = tempfile::tempdir().unwrap();
        for format in FORMATS {
            let header = if format.ends_with("header") { "n,name\n" } else { "" };
            let path = file(&root, "a", &format!("{}{header}{text}", if mark { "\u{feff}" } else { "" }));
            let source = source_of(&path, format, split_bytes);
            for split in splits(&source) {
                let expected = testing::read(&source, &split, 1000).unwrap();
                prop_assert_eq!(testing::read_in_pieces(&source, &split, rows, &cuts).unwrap(), expected, "{} {}", format, split.name);
            }
        }
    }

    #[test]
    fn a_file_that_grows_shows_the_same_to_both_readers(
        text in text(), more in text(), more_later in text(), split_bytes in prop_oneof![Just(1000u64), 1u64..60], rows in 1usize..5,
        n_polls in 0usize..8,
    ) {
        let root = tempfile::tempdir().unwrap();
        let append = |path: &Path, text: &str| OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
        for format in FORMATS {
            let path = file(&root, "a", &format!("{}{text}", if format.ends_with("header") { "n,name\n" } else { "" }));
            let source = source_of(&path, format, split_bytes);
            for split in splits(&source) {
                let mut old = source.open(&split, None).unwrap();
                for _ in 0..n_polls {
                    testing::poll(&mut *old, rows, &mut Found::default()).unwrap();
                }
                append(&path, &more);
                let mut new = source.open(&split, Some(&old.position())).unwrap();
                append(&path, &more_later);
                let (old, new) = (testing::drain(&mut *old, rows).unwrap(), testing::drain(&mut *new, rows + 1).unwrap());
                prop_assert_eq!(old, new, "{} {}", format, split.name);
            }
        }
    }
}
