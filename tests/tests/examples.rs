//! Every example, run by the binary, against the oracle: its shipped input, several files, late
//! records, and all of the real data.
//!
//! Outputs are compared as multisets of exact lines, at each parallelism and batch size: results
//! may depend on neither.

use std::path::Path;

use streamrt_tests::binary::{component, outputs, run};
use streamrt_tests::data;
use streamrt_tests::oracle::{self, EXAMPLES, Outputs};
use tempfile::TempDir;

const PARALLELISM: [u32; 3] = [1, 2, 7];
const BATCH_ROWS: [u32; 4] = [1, 2, 3, 1024];

/// Runs an example over a file or a folder.
fn run_example(example: &str, input: &Path, parallelism: u32, batch_rows: u32) -> Outputs {
    let output = TempDir::new().unwrap();
    let wasm = component(example);
    let mut options = data::options(example, output.path());
    options.extend([
        "--parallelism".to_owned(),
        parallelism.to_string(),
        "-D".to_owned(),
        format!("batch.rows={batch_rows}"),
    ]);
    options.extend([
        "--".to_owned(),
        "--input".to_owned(),
        input.display().to_string(),
    ]);
    options.extend(data::output(example, output.path()));
    let args = ["run".as_ref(), wasm.as_os_str()]
        .into_iter()
        .chain(options.iter().map(AsRef::as_ref));
    let finished = run(args).succeeded();
    assert_eq!(
        finished.stdout, "",
        "results go where the sink says and nowhere else"
    );
    outputs(output.path())
}

/// Panics with the first lines that differ, not with megabytes.
#[track_caller]
fn assert_same(actual: &Outputs, expected: &Outputs, what: &str) {
    let names = |outputs: &Outputs| outputs.0.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(actual),
        names(expected),
        "{what}: other outputs (the empty name is the main one)"
    );
    for (name, expected) in &expected.0 {
        let actual = actual.lines(name);
        let differs = actual.iter().zip(expected).find(|(a, b)| a != b);
        assert!(
            differs.is_none(),
            "{what}, output `{name}`: {} of {} lines, first difference {differs:?}",
            actual.len(),
            expected.len()
        );
        assert_eq!(
            actual.len(),
            expected.len(),
            "{what}, output `{name}`: number of lines"
        );
    }
}

/// One check per parallelism and batch size.
#[track_caller]
fn check(example: &str, input: &Path, lines: &[&str]) {
    let expected = oracle::run(example, lines).unwrap();
    for parallelism in PARALLELISM {
        for batch_rows in BATCH_ROWS {
            let actual = run_example(example, input, parallelism, batch_rows);
            assert_same(
                &actual,
                &expected,
                &format!("{example}, parallelism {parallelism}, batch.rows {batch_rows}"),
            );
        }
    }
}

/// Checks lines as one file.
#[track_caller]
fn check_lines(example: &str, lines: &[&str]) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("input.txt");
    data::write(&file, lines);
    check(example, &file, lines);
}

/// Checks the shipped input, as a folder of several files that are each in time order.
#[track_caller]
fn check_files(example: &str) {
    let text = data::shipped(example);
    let lines = data::in_time_order(example, &text);
    let folder = TempDir::new().unwrap();
    for (i, hand) in data::deal(&lines, 5).iter().enumerate() {
        data::write(&folder.path().join(format!("part-{i}.txt")), hand);
    }
    check(example, folder.path(), &lines);
}

#[track_caller]
fn check_shipped(example: &str) {
    let text = data::shipped(example);
    check(
        example,
        &data::example(example).join("input"),
        &text.lines().collect::<Vec<_>>(),
    );
}

/// Checks with records that come too late for all of their windows.
#[track_caller]
fn check_late(example: &str, text: &str, delay_ms: i64) {
    let lines = data::delay(example, text, 15, delay_ms);
    assert!(
        !oracle::run(example, &lines)
            .unwrap()
            .lines("late")
            .is_empty(),
        "nothing is late"
    );
    check_lines(example, &lines);
}

#[track_caller]
fn check_real(example: &str, file: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = data::unpack(file, folder.path());
    let text = data::read(&path);
    let expected = oracle::run(example, &text.lines().collect::<Vec<_>>()).unwrap();
    for (parallelism, batch_rows) in [(1, 1024), (2, 1024), (7, 1000), (2, 7)] {
        let actual = run_example(example, &path, parallelism, batch_rows);
        assert_same(
            &actual,
            &expected,
            &format!("{example} on {file}, parallelism {parallelism}, batch.rows {batch_rows}"),
        );
    }
}

/// Lines of UserBehavior.csv around the epoch.
fn before_1970(text: &str) -> String {
    let shift = |line: &str| {
        let (front, seconds) = line.rsplit_once(',').unwrap();
        format!(
            "{front},{}\n",
            seconds.parse::<i64>().unwrap() - 1_511_662_000
        )
    };
    text.lines().map(shift).collect()
}

#[test]
fn the_expected_output_is_that_of_the_oracle() {
    for example in EXAMPLES {
        let text = data::shipped(example);
        let expected = oracle::run(example, &text.lines().collect::<Vec<_>>()).unwrap();
        assert_same(
            &outputs(&data::example(example).join("expected")),
            &expected,
            example,
        );
    }
}

#[test]
fn word_count() {
    check_shipped("word-count");
    check_files("word-count");
}

#[test]
fn hot_items() {
    check_shipped("hot-items");
    check_files("hot-items");
}

#[test]
fn hot_items_late_and_before_1970() {
    let text = data::shipped("hot-items");
    check_late("hot-items", &text, 70 * 60_000);
    check_lines("hot-items", &before_1970(&text).lines().collect::<Vec<_>>());
}

#[test]
fn hot_items_on_real_data() {
    check_real("hot-items", "UserBehavior.csv");
}

#[test]
fn hot_pages() {
    check_shipped("hot-pages");
    check_files("hot-pages");
}

#[test]
fn hot_pages_late_and_in_another_zone() {
    let text = data::shipped("hot-pages");
    check_late("hot-pages", &text, 75 * 60_000);
    check_lines(
        "hot-pages",
        &text.replace("+0000", "-0330").lines().collect::<Vec<_>>(),
    );
}

#[test]
fn hot_pages_on_real_data() {
    check_real("hot-pages", "apache.log");
}

#[test]
fn sensor_alerts() {
    check_shipped("sensor-alerts");
    check_files("sensor-alerts");
}

#[test]
fn ride_duration() {
    check_shipped("ride-duration");
    check_files("ride-duration");
}

#[test]
fn audit_log() {
    check_shipped("audit-log");
    check_files("audit-log");
}

#[test]
fn session_clicks() {
    check_shipped("session-clicks");
    check_files("session-clicks");
}

#[test]
fn session_clicks_late_and_before_1970() {
    let text = data::shipped("session-clicks");
    check_late("session-clicks", &text, 33 * 60_000);
    check_lines(
        "session-clicks",
        &before_1970(&text).lines().collect::<Vec<_>>(),
    );
}

#[test]
fn session_clicks_on_real_data() {
    check_real("session-clicks", "UserBehavior.csv");
}
