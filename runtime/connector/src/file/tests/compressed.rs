//! Tests of compressed input: members, positions, damage, and what expands without bound.

use super::*;
use bzip2::write::BzEncoder;
use flate2::write::GzEncoder;

const ENDS: [&str; 3] = ["gz", "zst", "bz2"];

/// One member or frame of `text`.
fn compress(end: &str, text: &[u8]) -> Vec<u8> {
    match end {
        "gz" => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        "bz2" => {
            let mut encoder = BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        _ => ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest),
    }
}

fn write(root: &tempfile::TempDir, end: &str, bytes: &[u8]) -> PathBuf {
    let path = root.path().join(format!("a.{end}"));
    fs::write(&path, bytes).unwrap();
    path
}

/// Rows and poison of the one split of a file.
fn read(path: &Path, options: serde_json::Value) -> Found {
    let source = source(path, options);
    let split = splits(&source).remove(0);
    testing::read(&source, &split, 100).unwrap()
}

#[test]
fn members_are_read_one_behind_the_other_and_a_file_is_one_split() {
    let root = tempfile::tempdir().unwrap();
    for end in ENDS {
        let members = [
            compress(end, b"\xEF\xBB\xBFa\nb"),
            compress(end, b""),
            compress(end, b"c\nd"),
        ]
        .concat();
        let source = source(
            &write(&root, end, &members),
            serde_json::json!({ "split-bytes": 4 }),
        );
        let splits = splits(&source);
        assert_eq!(splits.len(), 1);
        let found = testing::read(&source, &splits[0], 2).unwrap();
        assert_eq!(
            found.texts(),
            [r#"{"value":"a"}"#, r#"{"value":"bc"}"#, r#"{"value":"d"}"#],
            "{end}"
        );
        assert_eq!(
            read(
                &write(&root, end, &compress(end, b"")),
                serde_json::json!({})
            ),
            Found::default(),
            "{end}"
        );
    }
}

#[test]
fn a_frame_of_zstd_for_others_is_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let skippable = [&[0x53, 0x2A, 0x4D, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    let bytes = [
        &skippable[..],
        &compress("zst", b"a\n"),
        &skippable,
        &compress("zst", b"b\n"),
    ]
    .concat();
    assert_eq!(
        read(&write(&root, "zst", &bytes), serde_json::json!({})).texts(),
        [r#"{"value":"a"}"#, r#"{"value":"b"}"#]
    );
    let found = read(
        &write(&root, "zst", &bytes[..skippable.len() - 1]),
        serde_json::json!({}),
    );
    assert_eq!((found.rows.len(), found.poison.len()), (0, 1));
}

#[test]
fn what_is_appended_later_is_not_read() {
    let root = tempfile::tempdir().unwrap();
    for end in ENDS {
        let path = write(&root, end, &compress(end, b"a\n"));
        let source = source(&path, serde_json::json!({}));
        let split = splits(&source).remove(0);
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(&compress(end, b"b\n")[..5])
            .unwrap();
        assert_eq!(
            testing::read(&source, &split, 10).unwrap().texts(),
            [r#"{"value":"a"}"#],
            "{end}"
        );
        fs::write(&path, b"x").unwrap();
        assert_eq!(
            testing::read(&source, &split, 10).unwrap().poison[0]
                .code
                .id,
            "S3007",
            "{end}: it is another file, and none that is whole"
        );
    }
}

fn many_lines() -> String {
    (0..3000)
        .map(|n| format!("line {} of many\n", n * 7919 % 3001))
        .collect()
}

#[test]
fn a_file_that_is_cut_off_is_never_only_a_shorter_one() {
    let (root, text) = (tempfile::tempdir().unwrap(), many_lines());
    let n_lines = text.lines().count();
    for end in ENDS {
        let whole = compress(end, text.as_bytes());
        let two = [&whole[..], &whole[..]].concat();
        let cuts = (0..whole.len()).step_by(whole.len() / 37).chain([
            0,
            1,
            5,
            whole.len() - 1,
            whole.len() - 5,
        ]);
        for cut in cuts {
            let found = read(&write(&root, end, &whole[..cut]), serde_json::json!({}));
            assert_eq!(found.poison.len(), 1, "{end} cut at {cut}");
            let report = &found.poison[0];
            assert_eq!(
                (report.code.id, report.position),
                ("S3007", found.rows.len() as u64 + 1),
                "{}",
                report.reason
            );
            assert!(
                report
                    .reason
                    .starts_with("the file is damaged or cut off: it is no "),
                "{}",
                report.reason
            );
            let expected: Vec<String> = text
                .lines()
                .take(found.rows.len())
                .map(|line| format!("{{\"value\":\"{line}\"}}"))
                .collect();
            assert_eq!(found.texts(), expected, "{end} cut at {cut}");
            if cut > 0 {
                let found = read(
                    &write(&root, end, &two[..whole.len() + cut]),
                    serde_json::json!({}),
                );
                assert!(
                    found.rows.len() >= n_lines && found.poison.len() == 1,
                    "{end} cut at {cut} of the second member"
                );
            }
        }
    }
}

#[test]
fn a_file_that_is_damaged_is_never_only_a_shorter_one() {
    let (root, text) = (tempfile::tempdir().unwrap(), many_lines());
    let n_lines = text.lines().count();
    for end in ENDS {
        let whole = compress(end, text.as_bytes());
        for at in (0..whole.len()).step_by(whole.len() / 61) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            let found = read(&write(&root, end, &bytes), serde_json::json!({}));
            // The head of gzip has bytes that mean nothing to its content.
            let is_whole =
                found.rows.len() == n_lines && found.poison.is_empty() && at < 10 && end == "gz";
            assert!(
                found.poison.len() == 1 || is_whole,
                "{end} damaged at {at}: {} rows",
                found.rows.len()
            );
        }
        let found = read(
            &write(&root, end, &[&whole[..], b"garbage"].concat()),
            serde_json::json!({}),
        );
        assert_eq!(
            (found.rows.len(), found.poison.len()),
            (n_lines, 1),
            "{end} with something after it"
        );
    }
}

#[test]
fn a_file_that_was_cut_when_it_was_found_is_read_to_its_end_once_it_is_whole() {
    let root = tempfile::tempdir().unwrap();
    let text: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    for end in ENDS {
        let whole = compress(end, text.as_bytes());
        let path = write(&root, end, &whole[..whole.len() - 9]);
        let source = source(&path, serde_json::json!({}));
        let split = splits(&source).remove(0);
        let mut reader = source.open(&split, None).unwrap();
        let mut found = Found::default();
        while found.rows.len() < 1_000 && found.poison.is_empty() {
            testing::poll(&mut *reader, 1_000, &mut found).unwrap();
        }
        // The one block of zstd is cut, and gives nothing: it is read from its begin.
        let position = found.poison.is_empty().then(|| reader.position());
        fs::write(&path, &whole).unwrap();
        let rest = testing::drain(
            &mut *source.open(&split, position.as_deref()).unwrap(),
            10_000,
        )
        .unwrap();
        assert_eq!(
            (found.rows.len() + rest.rows.len(), rest.poison.len()),
            (20_000, 0),
            "{end}"
        );
    }
}

#[test]
fn zeros_behind_a_gzip_member_mean_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (compress("gz", b"one\n"), compress("gz", b"two\n"));
    for bytes in [
        [&one[..], &[0; 100_000], &two].concat(),
        [&one[..], &two, &[0; 512]].concat(),
    ] {
        let found = read(&write(&root, "gz", &bytes), serde_json::json!({}));
        assert_eq!((found.rows.len(), found.poison.len()), (2, 0));
    }
}

/// Bits of bzip2's codes that fall over make other text, which only the checksum of their block
/// tells.
#[test]
fn rows_of_a_damaged_block_of_bzip2_are_no_rows() {
    let root = tempfile::tempdir().unwrap();
    // Some 1.1 MB, in blocks of 100,000 bytes.
    let text: String = (0..60_000u64)
        .map(|n| format!("line {} of many\n", n * 7919 % 60_013))
        .collect();
    let whole = compress("bz2", text.as_bytes());
    for at in (200..whole.len()).step_by(whole.len() / 23) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let found = read(&write(&root, "bz2", &bytes), serde_json::json!({}));
        assert_eq!(found.poison.len(), 1, "damaged at {at}");
        let expected = text
            .lines()
            .take(found.rows.len())
            .map(|line| format!("{{\"value\":\"{line}\"}}"));
        assert!(
            found.texts().into_iter().eq(expected),
            "damaged at {at}: {} rows, not all of them true",
            found.rows.len()
        );
        assert!(
            at < whole.len() / 2 || found.rows.len() > 10_000,
            "damaged at {at}: the blocks before it are read"
        );
    }
}

/// A gzip file that has the bytes of its text as they are, so that damage makes other rows of it.
fn stored(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::none());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn damage_that_a_checksum_behind_the_rows_tells_names_from_where_on_they_may_be_wrong() {
    let root = tempfile::tempdir().unwrap();
    let wrong = |text: &str, from: &str, to: &str| {
        let mut bytes = stored(text);
        let at = bytes
            .windows(from.len())
            .position(|window| window == from.as_bytes())
            .unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let bytes = [
        compress("gz", b"first\n"),
        wrong("one\ntwo\n", "one", "eno"),
    ]
    .concat();
    let found = read(&write(&root, "gz", &bytes), serde_json::json!({}));
    assert_eq!(
        found.texts(),
        [
            r#"{"value":"first"}"#,
            r#"{"value":"eno"}"#,
            r#"{"value":"two"}"#
        ]
    );
    let reason = &found.poison[0].reason;
    assert!(
        reason.ends_with("what stands after byte 6 was read before the checksum that follows it, and may be wrong as well"),
        "{reason}"
    );
    assert_eq!(found.poison[0].code.id, "S3007");
}

#[test]
fn a_file_that_was_mended_is_read_on_only_if_what_was_read_of_it_was_right() {
    let root = tempfile::tempdir().unwrap();
    let path = write(&root, "gz", &stored("eno\ntwo\nthree\n"));
    let source = source(&path, serde_json::json!({}));
    let split = splits(&source).remove(0);
    let mut reader = source.open(&split, None).unwrap();
    testing::poll(&mut *reader, 2, &mut Found::default()).unwrap();
    let position = reader.position();
    fs::write(&path, stored("eno\ntwo\nthird\n")).unwrap();
    let rest = testing::drain(&mut *source.open(&split, Some(&position)).unwrap(), 10).unwrap();
    assert_eq!(rest.texts(), [r#"{"value":"third"}"#]);
    fs::write(&path, stored("one\ntwo\nthree\n")).unwrap();
    let error = source.open(&split, Some(&position)).err().unwrap();
    assert_eq!(error.code().id, "S3012", "{error}");
    // Positions of versions before say nothing of it.
    assert!(
        source
            .open(&split, Some(r#"{"byte":8,"line":3,"end":null}"#))
            .is_ok()
    );
}

#[test]
fn the_line_before_the_damage_is_in_the_report() {
    let root = tempfile::tempdir().unwrap();
    let bytes = [&compress("gz", b"a\nhalf a li")[..], b"garbage"].concat();
    let found = read(&write(&root, "gz", &bytes), serde_json::json!({}));
    assert_eq!(found.texts(), [r#"{"value":"a"}"#]);
    assert_eq!(
        (found.poison[0].position, found.poison[0].record.as_slice()),
        (2, &b"half a li"[..])
    );
    let source = source(&root.path().join("a.gz"), serde_json::json!({}));
    let split = splits(&source).remove(0);
    let mut reader = source.open(&split, None).unwrap();
    let mut before = Found::default();
    testing::poll(&mut *reader, 10, &mut before).unwrap();
    let after = testing::drain(
        &mut *source.open(&split, Some(&reader.position())).unwrap(),
        10,
    )
    .unwrap();
    assert_eq!(
        (before.poison.len(), after),
        (1, Found::default()),
        "it is reported once"
    );
}

#[test]
fn what_expands_without_bound_is_read_piece_by_piece() {
    let root = tempfile::tempdir().unwrap();
    for end in ENDS {
        // 64 MiB without a line end, from some hundred KiB at most.
        let bytes = compress(end, &vec![b'x'; 64 << 20]);
        assert!(bytes.len() < 400 << 10, "{}", bytes.len());
        let source = source(&write(&root, end, &bytes), serde_json::json!({}));
        let split = splits(&source).remove(0);
        let error = testing::read(&source, &split, 10).unwrap_err();
        assert_eq!(error.message(), "line 1 is longer than 16 MiB", "{end}");
        let mut reader = source.open(&split, None).unwrap();
        reader.skip_long_records();
        let found = testing::drain(&mut *reader, 10).unwrap();
        assert_eq!((found.rows.len(), found.poison.len()), (0, 1), "{end}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn readers_of_compressed_files_go_on_at_their_positions(
        text in text(), mark: bool, cut in 0usize..60, rows in 1usize..5, cuts in prop::collection::vec(0usize..4, 0..5),
    ) {
        let root = tempfile::tempdir().unwrap();
        for format in FORMATS {
            let header = if format.ends_with("header") { "n,name\n" } else { "" };
            let text = format!("{}{header}{text}", if mark { "\u{feff}" } else { "" });
            let expected = {
                let source = source_of(&file(&root, "plain", &text), format, 1000);
                testing::read(&source, &splits(&source)[0], 1000).unwrap()
            };
            for end in ENDS {
                let (first, second) = text.as_bytes().split_at(cut.min(text.len()));
                let path = write(&root, end, &[compress(end, first), compress(end, second)].concat());
                let source = source_of(&path, format, 1000);
                let split = &splits(&source)[0];
                prop_assert_eq!(testing::read(&source, split, rows).unwrap(), expected.clone(), "{} {}", format, end);
                prop_assert_eq!(testing::read_in_pieces(&source, split, rows, &cuts).unwrap(), expected.clone(), "{} {}", format, end);
            }
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), flips in prop::collection::vec((any::<u16>(), any::<u8>()), 1..5)) {
        let root = tempfile::tempdir().unwrap();
        for end in ENDS {
            read(&write(&root, end, &bytes), serde_json::json!({ "format": "csv" }));
            let mut damaged = compress(end, &bytes);
            for (at, with) in &flips {
                let at = usize::from(*at) % damaged.len();
                damaged[at] = *with;
            }
            read(&write(&root, end, &damaged), serde_json::json!({ "format": "lines" }));
        }
    }
}
