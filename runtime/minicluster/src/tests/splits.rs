//! Jobs with event time over files that are cut in every way: the results are those of one sorted
//! file.

use super::{output, run_plan};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use streamrt_types::{Configuration, Result};

/// Counts per key and window of 100 ms, of a source with the columns `n` and `time`.
pub(super) fn windows(source: &Value, out: &Path) -> Value {
    let column = |name: &str, from: Value| json!({"name": name, "from": from});
    let columns = [
        column("n", json!({"kind": "key", "column": "n"})),
        column("start", json!({"kind": "window-start"})),
        column("count", json!({"kind": "aggregate", "index": 0})),
    ];
    json!({"version": 1, "nodes": [
        {"id": 0, "uid": "numbers", "body": source},
        {"id": 1, "uid": "times", "inputs": [{"node": 0}], "body": {"kind": "timestamps",
            "time": {"kind": "column", "column": "time", "unit": "milliseconds"}, "generator": {"kind": "bounded", "bound-ms": 3}}},
        {"id": 2, "uid": "counts", "inputs": [{"node": 1, "partitioning": {"kind": "hash", "columns": ["n"]}}],
         "body": {"kind": "window", "assigner": {"kind": "tumbling", "size-ms": 100},
                  "contents": {"kind": "builtin", "aggregates": [{"function": "count"}], "columns": columns}}},
        {"id": 3, "uid": "out", "inputs": [{"node": 2}], "body": {"kind": "sink", "connector": "file", "options": {"path": out}}},
    ]})
}

pub(super) fn csv(path: &Path, options: &Value) -> Value {
    let mut all = json!({"path": path, "format": "csv"});
    options
        .as_object()
        .into_iter()
        .flatten()
        .for_each(|(name, value)| all[name] = value.clone());
    let schema = json!([{"name": "n", "type": "i64", "nullable": true}, {"name": "time", "type": "i64", "nullable": true}]);
    json!({"kind": "source", "connector": "file", "options": all, "schema": schema})
}

/// Lines of a number and a time, in time order but for 3 ms.
fn lines() -> Vec<String> {
    let mut seed = 7u64;
    let mut random = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % n
    };
    let mut time = 1_000;
    let mut line = |_| {
        time += random(5);
        format!("{},{}\n", random(6), time - random(4))
    };
    (0..4_000).map(&mut line).collect()
}

/// Writes the lines into `n` files; `of` says which file a line goes to.
fn write(folder: &Path, lines: &[String], n: usize, of: impl Fn(usize) -> usize) {
    let mut files = vec![String::new(); n];
    lines
        .iter()
        .enumerate()
        .for_each(|(i, line)| write!(files[of(i)], "{line}").unwrap());
    std::fs::create_dir_all(folder).unwrap();
    for (i, text) in files.iter().enumerate() {
        // The order of names is not that of times.
        std::fs::write(folder.join(format!("{:04}.csv", i * 7 % n)), text).unwrap();
    }
}

fn run(
    source: &Value,
    parallelism: u32,
    configuration: &Configuration,
) -> Result<(Vec<String>, u64)> {
    let out = tempfile::tempdir().unwrap();
    let summary = run_plan(
        &windows(source, out.path()),
        parallelism,
        configuration.clone(),
    )?
    .wait()?
    .summary;
    Ok((output(out.path()).0, summary.late_records))
}

fn configured(pairs: &[(&str, &str)]) -> Configuration {
    let mut configuration = Configuration::default();
    for (key, value) in pairs {
        configuration.set(key, value).unwrap();
    }
    configuration
}

#[test]
fn however_the_input_is_cut_the_results_are_those_of_one_sorted_file() {
    let folder = tempfile::tempdir().unwrap();
    let (lines, default) = (lines(), Configuration::default());
    let one = folder.path().join("one");
    write(&one, &lines, 1, |_| 0);
    let expected = run(&csv(&one, &json!({})), 1, &default).unwrap();
    assert!(
        expected.0.len() > 400 && expected.1 == 0,
        "{} windows, {} late",
        expected.0.len(),
        expected.1
    );
    let cut = json!({"split-bytes": 1000});
    let check = |name: &str, options: &Value, configuration: &Configuration| {
        for parallelism in [1, 2, 7] {
            let found = run(
                &csv(&folder.path().join(name), options),
                parallelism,
                configuration,
            )
            .unwrap();
            assert_eq!(
                found, expected,
                "{name}, {options}, parallelism {parallelism}"
            );
        }
    };
    check("one", &cut, &default);
    // As many as never are open at once, and one that is empty.
    write(&folder.path().join("in order"), &lines, 401, |i| i / 10);
    check("in order", &json!({}), &default);
    write(&folder.path().join("side by side"), &lines, 50, |i| i % 50);
    check("side by side", &json!({}), &default);
    check(
        "side by side",
        &json!({}),
        &configured(&[("batch.rows", "3"), ("watermark.alignment", "20ms")]),
    );
    write(&folder.path().join("both"), &lines, 60, |i| {
        i / 400 * 6 + i % 6
    });
    check("both", &json!({"split-bytes": 300}), &default);
}

#[test]
fn a_row_without_time_or_key_meets_the_poison_policy_at_any_parallelism() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input.csv");
    let skip = configured(&[("poison.policy", "skip")]);
    for parallelism in [1, 2, 7] {
        for (line, code, what) in [
            ("3,", "S5001", "has no event time"),
            (",7", "S5002", "key column `n` is null"),
        ] {
            std::fs::write(&input, format!("1,5\n{line}\n2,6\n{line}\n1,9\n")).unwrap();
            let error = run(
                &csv(&input, &json!({})),
                parallelism,
                &Configuration::default(),
            )
            .unwrap_err();
            assert!(
                error.code().id == code && error.message().contains(what),
                "{error}"
            );
            assert!(error.message().contains("input.csv line 2"), "{error}");
            let out = tempfile::tempdir().unwrap();
            let plan = windows(&csv(&input, &json!({})), out.path());
            let summary = run_plan(&plan, parallelism, skip.clone())
                .unwrap()
                .wait()
                .unwrap()
                .summary;
            let expected = [
                r#"{"n":1,"start":0,"count":2}"#,
                r#"{"n":2,"start":0,"count":1}"#,
            ];
            assert_eq!(
                (output(out.path()).0.as_slice(), summary.dead_letters),
                (&expected.map(str::to_owned)[..], 2)
            );
        }
    }
}

#[test]
fn a_row_of_another_century_makes_no_other_late() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input.csv");
    std::fs::write(&input, "1,5\n1,9999999999999999\n1,6\n2,250\n").unwrap();
    let source = csv(&input, &json!({}));
    let mut configuration = Configuration::default();
    assert_eq!(
        run(&source, 1, &configuration).unwrap().1,
        2,
        "without the limit, what follows is late"
    );
    configuration.set("watermark.max-ahead", "1h").unwrap();
    for parallelism in [1, 2] {
        let (lines, late) = run(&source, parallelism, &configuration).unwrap();
        let expected = [
            r#"{"n":1,"start":0,"count":2}"#,
            r#"{"n":2,"start":200,"count":1}"#,
        ];
        assert_eq!(
            (lines.as_slice(), late),
            (&expected.map(str::to_owned)[..], 1)
        );
    }
}

/// There the reader cannot be told which split is furthest back, but that one is at its end.
#[test]
fn time_goes_on_where_watermarks_are_made_behind_an_exchange() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("input"), folder.path().join("out"));
    let lines: Vec<String> = (0..20_000).map(|time| format!("0,{time}\n")).collect();
    std::fs::create_dir(&input).unwrap();
    for (i, lines) in lines.chunks(1000).enumerate() {
        std::fs::write(input.join(format!("{i:02}.csv")), lines.concat()).unwrap();
    }
    let mut plan = windows(&csv(&input, &json!({"watch": true, "watch-ms": 5})), &out);
    plan["nodes"][0]["parallelism"] = json!(1);
    let job = run_plan(&plan, 2, Configuration::default()).unwrap();
    // The source goes on for ever; what is due by the files that were read comes out.
    let start = std::time::Instant::now();
    while job.progress().records_out < 185 {
        let progress = job.progress();
        assert!(
            start.elapsed() < std::time::Duration::from_secs(60),
            "{} windows of {} rows",
            progress.records_out,
            progress.records_in
        );
        std::thread::yield_now();
    }
    job.stop();
    assert_eq!(job.wait().unwrap().summary.late_records, 0);
    assert!(
        output(&out)
            .0
            .iter()
            .all(|line| line.ends_with("\"count\":100}"))
    );
}

/// A log that stays open holds the watermark where it is, whatever becomes of the splits of another
/// source.
#[test]
fn two_sources_hold_the_watermark_behind_their_union_each_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("files")).unwrap();
    let mut log = std::fs::File::create(path("log")).unwrap();
    let mut plan = windows(
        &csv(&path("log"), &json!({"follow": true, "watch-ms": 5})),
        &path("out"),
    );
    let nodes = plan["nodes"].as_array_mut().unwrap();
    let files = csv(
        &path("files"),
        &json!({"watch": true, "watch-ms": 5, "settle": "0ms"}),
    );
    nodes[1]["inputs"] = json!([{"node": 0}, {"node": 5}]);
    // What has passed the watermarks is counted there.
    nodes.push(json!({"id": 4, "uid": "seen", "inputs": [{"node": 1}], "body": {"kind": "sink", "connector": "blackhole", "options": {}}}));
    nodes.push(json!({"id": 5, "uid": "files", "body": files}));
    let job = run_plan(&plan, 1, Configuration::default()).unwrap();
    let await_seen = |n| {
        let start = std::time::Instant::now();
        while job.progress().records_out < n {
            assert!(
                start.elapsed() < std::time::Duration::from_secs(60),
                "{:?}",
                job.progress()
            );
            std::thread::yield_now();
        }
    };
    writeln!(log, "1,10").unwrap();
    await_seen(1);
    std::fs::write(path("files/first.csv"), "2,900\n").unwrap();
    await_seen(2);
    // The first file has ended before the second one is found.
    std::fs::write(path("files/second.csv"), "2,950\n").unwrap();
    await_seen(3);
    writeln!(log, "1,11\n1,950").unwrap();
    // Now the first window is due.
    await_seen(6);
    job.remote().drain(None).unwrap();
    let summary = job.wait().unwrap().summary;
    assert_eq!(summary.late_records, 0);
    let window = |n, start, count| json!({"n": n, "start": start, "count": count}).to_string();
    let found: Vec<Value> = output(&path("out"))
        .0
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let found: Vec<String> = found.iter().map(Value::to_string).collect();
    assert_eq!(
        found,
        [window(1, 0, 2), window(1, 900, 1), window(2, 900, 2)]
    );
}
