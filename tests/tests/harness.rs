//! The SDK's harness for whole jobs against the host: the same rows through the same job natively
//! and as a component, and the same lines come out. Natively both with the code that began and with
//! other code before each row, so that nothing but state lasts.

use scenarios::{Row, SCENARIOS, job};
use std::path::Path;
use streamrt_sdk::testing;
use streamrt_tests::binary::{component, run};
use tempfile::TempDir;

/// Rows of a few keys, whose times wander up, from before 1970 on, and now and then fall back by
/// more than the watermark allows.
fn rows(seed: u64, n: usize) -> Vec<Row> {
    let mut state = seed | 1;
    let mut below = |limit: i64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % limit as u64) as i64
    };
    let mut now = -150;
    let row = |_| {
        now += below(9);
        let back = if below(12) == 0 { below(70) } else { below(15) };
        let price = (below(4) != 0).then(|| below(1000) as f64 / 8.0 - 20.0);
        Row {
            key: ["anna", "ben", "carla", "dora"][below(4) as usize].into(),
            value: below(20),
            price,
            time: now - back,
        }
    };
    (0..n).map(row).collect()
}

fn csv(rows: &[Row]) -> String {
    let price = |row: &Row| row.price.map_or(String::new(), |price| price.to_string());
    rows.iter()
        .map(|row| format!("{},{},{},{}\n", row.key, row.value, price(row), row.time))
        .collect()
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_unstable();
    lines
}

/// What comes out natively.
fn natively(scenario: &str, sources: &[(&str, Vec<Row>)], kills: bool) -> [Vec<String>; 2] {
    let plan = testing::plan(job, ["--scenario", scenario]).unwrap();
    let has = |uid: &str| plan.nodes.iter().any(|node| node.uid == uid);
    let mut job = testing::job(job, ["--scenario", scenario]);
    if kills {
        job.kill_always();
    }
    // A row of each in turn, as the host might read them.
    let n_rows = sources
        .iter()
        .map(|(_, rows)| rows.len())
        .max()
        .unwrap_or(0);
    for i in 0..n_rows {
        for (uid, rows) in sources.iter().filter(|(uid, _)| has(uid)) {
            job.push(uid, rows.get(i).cloned());
        }
    }
    job.finish();
    ["out", "late"].map(|uid| {
        if has(uid) {
            sorted(job.output::<String>(uid))
        } else {
            Vec::new()
        }
    })
}

/// What comes out of the host.
fn hosted(scenario: &str, folder: &Path, settings: &[&str]) -> [Vec<String>; 2] {
    let output = folder.join(format!("{scenario}-{}", settings.concat()));
    let wasm = component("scenarios");
    let mut args = vec!["run", wasm.to_str().unwrap()];
    args.extend(settings);
    args.extend([
        "--",
        "--scenario",
        scenario,
        "--input",
        folder.to_str().unwrap(),
        "--output",
        output.to_str().unwrap(),
    ]);
    run(args).succeeded();
    ["out", "late"].map(|sink| {
        let files = std::fs::read_dir(output.join(sink))
            .map(|files| files.map(|file| file.unwrap().path()).collect::<Vec<_>>());
        let text: String = files
            .unwrap_or_default()
            .iter()
            .map(|file| std::fs::read_to_string(file).unwrap())
            .collect();
        let value = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["value"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        sorted(text.lines().map(value).collect())
    })
}

/// The first line that only one side has, so that a failure can be read.
fn compare(what: &str, native: &[Vec<String>; 2], hosted: &[Vec<String>; 2]) {
    for (sink, (native, hosted)) in ["out", "late"].iter().zip(native.iter().zip(hosted)) {
        let differs = native
            .iter()
            .zip(hosted)
            .find(|(native, hosted)| native != hosted);
        assert!(
            native == hosted,
            "{what}, sink {sink}: {} and {} lines; {differs:#?}",
            native.len(),
            hosted.len()
        );
    }
}

#[test]
fn the_harness_and_the_host_say_the_same() {
    let folder = TempDir::new().unwrap();
    let sources = ["a", "b", "p"].map(|uid| (uid, rows(if uid == "b" { 77 } else { 4711 }, 400)));
    for (uid, rows) in &sources {
        std::fs::write(folder.path().join(format!("{uid}.csv")), csv(rows)).unwrap();
    }
    let mut n_late = 0;
    for scenario in SCENARIOS {
        let native = natively(scenario, &sources, false);
        assert!(native[0].len() > 3, "{scenario}: {native:?}");
        n_late += native[1].len();
        compare(
            &format!("{scenario} with kills"),
            &native,
            &natively(scenario, &sources, true),
        );
        compare(
            scenario,
            &native,
            &hosted(scenario, folder.path(), &["-D", "batch.rows=7"]),
        );
    }
    // Otherwise nothing would have been tested about late rows.
    assert!(n_late > 50, "{n_late}");
}

#[test]
fn the_order_of_a_single_key_is_the_same() {
    let folder = TempDir::new().unwrap();
    let one = rows(99, 200)
        .into_iter()
        .map(|row| Row {
            key: "only".into(),
            ..row
        })
        .collect::<Vec<_>>();
    std::fs::write(folder.path().join("a.csv"), csv(&one)).unwrap();
    let mut native = testing::job(job, ["--scenario", "timers"]);
    native.push("a", one);
    native.finish();
    let output = folder.path().join("out");
    let wasm = component("scenarios");
    run([
        "run",
        wasm.to_str().unwrap(),
        "--",
        "--scenario",
        "timers",
        "--input",
        folder.path().to_str().unwrap(),
        "--output",
        output.to_str().unwrap(),
    ])
    .succeeded();
    let file = std::fs::read_dir(output.join("out"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let text = std::fs::read_to_string(file).unwrap();
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["value"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(native.output::<String>("out"), lines);
}
