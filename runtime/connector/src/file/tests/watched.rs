//! Folders and logs that are watched.

use super::*;

/// What the next poll of an enumerator restored from `snapshot` finds; the snapshot moves on.
fn enumerate(source: &FileSource, snapshot: &mut String, root: &Path) -> Vec<String> {
    let mut enumerator = source.enumerator(Some(snapshot)).unwrap();
    let found = match enumerator.poll(1).unwrap() {
        Enumeration::Splits(splits) => names(&splits, root),
        Enumeration::Idle { ms } => vec![format!("idle {ms}")],
        Enumeration::Finished => vec!["finished".to_owned()],
    };
    *snapshot = enumerator.snapshot();
    found
}

#[test]
fn a_watched_folder_gives_each_file_once_over_restarts() {
    let root = tempfile::tempdir().unwrap();
    let source = source(
        root.path(),
        serde_json::json!({ "watch": true, "watch-ms": 5, "settle": "0ms" }),
    );
    assert!(!source.bounded());
    let mut snapshot = source.enumerator(None).unwrap().snapshot();
    let mut poll = || enumerate(&source, &mut snapshot, root.path());
    assert_eq!(poll(), ["idle 5"]);
    file(&root, "b", "1\n");
    file(&root, "a", "1\n");
    assert_eq!(
        (poll(), poll()),
        (
            vec!["a".to_owned(), "b".to_owned()],
            vec!["idle 5".to_owned()]
        )
    );
    file(&root, "0", "1\n");
    assert_eq!(
        (poll(), poll()),
        (vec!["0".to_owned()], vec!["idle 5".to_owned()])
    );
    fs::remove_file(root.path().join("a")).unwrap();
    assert_eq!(poll(), ["idle 5"]);
    file(&root, "a", "2\n");
    assert_eq!(poll(), ["idle 5"]);
    let numbers = |snapshot: &str| {
        serde_json::from_str::<serde_json::Value>(snapshot).unwrap()["n-splits"].clone()
    };
    assert_eq!(numbers(&snapshot), 3);
}

#[test]
fn a_watched_file_that_has_changed_is_reported_once() {
    let root = tempfile::tempdir().unwrap();
    let source = source(
        root.path(),
        serde_json::json!({ "watch": true, "settle": "0ms" }),
    );
    let mut enumerator = source.enumerator(None).unwrap();
    let mut poll = || match enumerator.poll(1).unwrap() {
        Enumeration::Splits(splits) => {
            let snapshot = enumerator.snapshot();
            enumerator = source.enumerator(Some(&snapshot)).unwrap();
            splits
                .iter()
                .map(|split| testing::read(&source, split, 10).unwrap())
                .collect::<Vec<_>>()
        }
        Enumeration::Idle { .. } => Vec::new(),
        Enumeration::Finished => panic!("a watched folder has no end"),
    };
    let reports = |found: Vec<Found>| {
        let reports = found
            .into_iter()
            .flat_map(|found| found.poison)
            .map(|line| (line.code.id, line.reason));
        reports
            .map(|(code, reason)| (code, reason.replace(root.path().to_str().unwrap(), "ROOT")))
            .collect::<Vec<_>>()
    };
    let path = file(&root, "a", "1\n");
    assert_eq!(
        (poll()[0].texts(), poll().len()),
        (vec![r#"{"value":"1"}"#], 0)
    );
    fs::write(&path, "1\n2\n").unwrap();
    let grown = "ROOT/a has grown by 2 bytes since it was found, which are not read; `follow` reads a log that grows".to_owned();
    assert_eq!((reports(poll()), poll().len()), (vec![("S3031", grown)], 0));
    fs::write(&path, "").unwrap();
    let shrunk =
        "ROOT/a had 4 bytes when it was found and has 0 now, and is not read again".to_owned();
    assert_eq!(
        (reports(poll()), poll().len()),
        (vec![("S3031", shrunk)], 0)
    );
}

#[test]
fn a_watched_file_is_found_when_it_has_not_changed_for_a_while() {
    let root = tempfile::tempdir().unwrap();
    let watched = source(
        root.path(),
        serde_json::json!({ "watch": true, "settle": "1h" }),
    );
    let path = file(&root, "a", "hal");
    let age = |seconds: i64| {
        let now = std::time::SystemTime::now();
        let time = if seconds < 0 {
            now + Duration::from_secs(-seconds as u64)
        } else {
            now - Duration::from_secs(seconds as u64)
        };
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    let mut enumerator = watched.enumerator(None).unwrap();
    let mut is_found =
        || matches!(enumerator.poll(1).unwrap(), Enumeration::Splits(splits) if splits.len() == 1);
    let mut found = Vec::new();
    for seconds in [0, 3590, -3600, 3610] {
        age(seconds);
        found.push(is_found());
    }
    assert_eq!(found, [false, false, false, true]);
    // Without `watch` nobody comes back for it.
    age(0);
    assert_eq!(
        splits(&source(root.path(), serde_json::json!({ "settle": "1h" }))).len(),
        1
    );
}

#[test]
fn a_file_that_goes_before_its_turn_meets_its_policy() {
    let root = tempfile::tempdir().unwrap();
    let path = file(&root, "a", "1\n");
    let open = |missing: &str| {
        let source = source(root.path(), serde_json::json!({ "missing": missing }));
        let split = splits(&source).remove(0);
        fs::remove_file(&path).unwrap();
        let read = testing::read(&source, &split, 10);
        let position = source
            .open(&split, None)
            .ok()
            .map(|reader| reader.position());
        let again = position.map(|position| {
            testing::drain(&mut *source.open(&split, Some(&position)).unwrap(), 10).unwrap()
        });
        fs::write(&path, "1\n").unwrap();
        (read, again)
    };
    let (found, again) = open("skip");
    let reason = format!(
        "{} was found, and was gone before it was read",
        path.display()
    );
    assert_eq!(
        found.unwrap().poison,
        [PoisonLine::passed_over(reason.as_str())]
    );
    assert_eq!(again, Some(Found::default()), "it is reported once");
    let (error, _) = open("fail");
    let error = error.unwrap_err();
    let expected =
        format!("{reason}: put it back, or let such files be passed over by `missing = \"skip\"`");
    assert_eq!(
        (error.code().id, error.message()),
        ("S3001", expected.as_str())
    );
}

#[test]
fn a_log_is_read_by_whole_lines_as_it_grows() {
    let root = tempfile::tempdir().unwrap();
    let path = file(&root, "a.log", "one\ntw");
    let append = |text: &str| {
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap()
    };
    let source = source(
        &path,
        serde_json::json!({ "follow": true, "watch-ms": 7, "split-bytes": 2 }),
    );
    assert!(!source.bounded());
    let split = splits(&source).remove(0);
    let mut reader = source.open(&split, None).unwrap();
    let mut found = Found::default();
    let mut poll = |reader: &mut dyn SplitReader| {
        testing::poll(reader, 10, &mut found).unwrap();
        assert!(
            matches!(
                reader.poll(10, Duration::ZERO).unwrap(),
                ReaderPoll::Pending { ms: 7 }
            ),
            "a log has no end"
        );
        std::mem::take(&mut found).rows
    };
    let row = |line, text: &str| (line, format!("{{\"value\":\"{text}\"}}"));
    assert_eq!(poll(&mut *reader), [row(1, "one")]);
    append("o\nthree");
    assert_eq!(poll(&mut *reader), [row(2, "two")]);
    assert_eq!(reader.position(), r#"{"byte":8,"line":3,"end":null}"#);
    let mut reader = source.open(&split, Some(&reader.position())).unwrap();
    append("\n");
    assert_eq!(poll(&mut *reader), [row(3, "three")]);
    fs::write(&path, "new\n").unwrap();
    let error = reader.poll(10, Duration::ZERO).unwrap_err();
    let expected = format!(
        "{} was cut to 4 bytes, after 14 bytes of it were read: a log that is followed may only grow",
        path.display()
    );
    assert_eq!(
        (error.code().id, error.message()),
        ("S3012", expected.as_str())
    );
}

#[test]
fn a_log_waits_for_its_header() {
    let root = tempfile::tempdir().unwrap();
    let path = file(&root, "a.csv", "n,na");
    let append = |text: &str| {
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap()
    };
    let source = source(
        &path,
        serde_json::json!({ "follow": true, "format": "csv", "header": true }),
    );
    let split = splits(&source).remove(0);
    let mut reader = source.open(&split, None).unwrap();
    assert!(matches!(
        reader.poll(10, Duration::ZERO).unwrap(),
        ReaderPoll::Pending { ms: 1000 }
    ));
    let mut reader = source.open(&split, Some(&reader.position())).unwrap();
    append("me\n1,a\n2");
    let mut found = Found::default();
    testing::poll(&mut *reader, 10, &mut found).unwrap();
    assert_eq!(found.rows, [(2, r#"{"name":"a","n":1}"#.to_owned())]);
    let mut reader = source.open(&split, Some(&reader.position())).unwrap();
    append(",b\n");
    testing::poll(&mut *reader, 10, &mut found).unwrap();
    assert_eq!(
        found.rows.last().unwrap(),
        &(3, r#"{"name":"b","n":2}"#.to_owned())
    );
}

#[test]
fn a_folder_that_is_not_watched_is_listed_once_over_restarts() {
    let root = tempfile::tempdir().unwrap();
    file(&root, "a", "1\n");
    let source = source(root.path(), serde_json::json!({}));
    let mut snapshot = source.enumerator(None).unwrap().snapshot();
    assert_eq!(enumerate(&source, &mut snapshot, root.path()), ["a"]);
    file(&root, "b", "1\n");
    assert_eq!(enumerate(&source, &mut snapshot, root.path()), ["finished"]);
    assert_eq!(
        source.enumerator(Some("[]")).err().unwrap().code().id,
        "S7001"
    );
}
