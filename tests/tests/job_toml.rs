//! Jobs wired by a `job.toml` from the ready-made components, without any code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use streamrt_tests::binary::{Finished, LIMIT, Running, component, outputs, run, streamrt};
use streamrt_tests::data;
use streamrt_tests::oracle::Outputs;
use streamrt_tests::server::wait_until;
use tempfile::TempDir;

/// A folder with a job file, its input, and the components that it names.
struct Job {
    folder: TempDir,
}

impl Job {
    fn new(toml: &str) -> Job {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("job.toml"), toml).unwrap();
        for name in ["deduplicate", "regex-extract"] {
            std::fs::copy(component(name), folder.path().join(format!("{name}.wasm"))).unwrap();
        }
        Job { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn input(self, name: &str, lines: &[&str]) -> Job {
        data::write(&self.path(name), lines);
        self
    }

    /// A command in its folder, to which running jobs are its own alone.
    fn command(&self, args: &[&str]) -> Running {
        let mut command = streamrt(args);
        command
            .current_dir(self.folder.path())
            .env("XDG_CACHE_HOME", self.path("cache"));
        Running::start(command)
    }

    /// Runs it in its folder, with more options.
    fn run(&self, options: &[&str]) -> Finished {
        run_in(self.folder.path(), options)
    }

    fn outputs(&self, folder: &str) -> Outputs {
        outputs(&self.path(folder))
    }
}

/// Runs the `job.toml` of a folder, there.
fn run_in(folder: &Path, options: &[&str]) -> Finished {
    let mut command = streamrt(["run", "job.toml"].iter().chain(options));
    command.current_dir(folder);
    Running::start(command).finish(LIMIT)
}

const VISITS: &str = r#"
name = "visits"

[configuration]
"batch.rows" = 2

[[source]]
uid = "log"
connector = "file"
path = "visits.csv"
format = "csv"
columns = [ { name = "user", type = "string" }, { name = "url", type = "string" }, { name = "time", type = "i64" } ]
[source.watermarks]
column = "time"
unit = "seconds"
bound = "2s"

[[operator]]
uid = "unique"
component = "deduplicate.wasm"
function = "deduplicate"
input = "log"
key = ["user", "url"]

[[operator]]
uid = "parts"
component = "regex-extract.wasm"
function = "regex-extract"
input = "unique"
[operator.args]
column = "url"
pattern = "^/(?<section>[a-z]+)(/(?<page>[a-z]+))?"

[[sink]]
uid = "out"
connector = "file"
path = "out"
input = "parts"
"#;

const LINES: [&str; 6] = [
    "anna,/news/today,10",
    "bert,/news/today,11",
    "anna,/news/today,12",
    "anna,/shop,13",
    "bert,42,14",
    "anna,/shop,15",
];

fn expected() -> Outputs {
    let mut outputs = Outputs::default();
    for line in [
        r#"{"user":"anna","url":"/news/today","time":10,"section":"news","page":"today"}"#,
        r#"{"user":"bert","url":"/news/today","time":11,"section":"news","page":"today"}"#,
        r#"{"user":"anna","url":"/shop","time":13,"section":"shop","page":null}"#,
        r#"{"user":"bert","url":"42","time":14,"section":null,"page":null}"#,
    ] {
        outputs.add_line("", line.to_owned());
    }
    outputs.sorted()
}

#[test]
fn two_components_are_wired_without_code() {
    for parallelism in ["1", "2", "7"] {
        let job = Job::new(VISITS).input("visits.csv", &LINES);
        let finished = job.run(&["--parallelism", parallelism]).succeeded();
        assert_eq!(
            (finished.stdout.as_str(), job.outputs("out")),
            ("", expected()),
            "parallelism {parallelism}"
        );
    }
}

#[test]
fn the_command_line_comes_after_the_configuration_of_the_file() {
    let job = Job::new(VISITS).input("visits.csv", &LINES);
    job.run(&["-D", "batch.rows=0"])
        .failed_with("S2007")
        .names("batch.rows");
}

#[test]
fn the_example_beside_the_plugins_runs() {
    let folder = TempDir::new().unwrap();
    let example = data::example("unique-visits");
    for entry in ["job.toml", "visits.csv"] {
        std::fs::copy(example.join(entry), folder.path().join(entry)).unwrap();
    }
    for name in ["deduplicate", "regex-extract"] {
        std::fs::copy(component(name), folder.path().join(format!("{name}.wasm"))).unwrap();
    }
    run_in(folder.path(), &[]).succeeded();
    assert_eq!(
        outputs(&folder.path().join("out")),
        outputs(&example.join("expected"))
    );
}

/// The refusal of a job file in which `from` is replaced.
#[track_caller]
fn check_refused(from: &str, to: &str, code: &str, place: &str) {
    assert!(VISITS.contains(from), "nothing to replace");
    Job::new(&VISITS.replace(from, to))
        .input("visits.csv", &LINES)
        .run(&[])
        .failed_with(code)
        .names(place);
}

#[test]
fn wrong_graphs_are_refused_with_the_place() {
    for (from, to, code, place) in [
        ("input = \"log\"", "input = \"parts\"", "S2001", "unique"),
        ("input = \"log\"", "input = \"logg\"", "S2002", "logg"),
        (
            "input = \"log\"",
            "input = \"log.late\"",
            "S2002",
            "log.late",
        ),
        ("uid = \"out\"", "uid = \"\"", "S2003", "uid"),
        ("uid = \"out\"", "uid = \"unique\"", "S2004", "unique"),
        ("key = [\"user\", \"url\"]", "key = [\"ip\"]", "S2005", "ip"),
        ("column = \"url\"", "column = \"path\"", "S2005", "path"),
        ("column = \"time\"", "column = \"user\"", "S2005", "user"),
        ("column = \"time\"", "column = \"when\"", "S2005", "when"),
        ("type = \"i64\"", "type = \"date\"", "S2006", "date"),
        ("key = [\"user\", \"url\"]\n", "", "S2006", "unique"),
        (
            "function = \"deduplicate\"",
            "function = \"dedupe\"",
            "S2006",
            "dedupe",
        ),
        ("bound = \"2s\"", "bound = \"2\"", "S2007", "bound"),
        (
            "connector = \"file\"\npath = \"visits.csv\"",
            "connector = \"fil\"\npath = \"visits.csv\"",
            "S2007",
            "fil",
        ),
        ("format = \"csv\"", "format = \"csw\"", "S2007", "csw"),
        (
            "\"batch.rows\" = 2",
            "\"batch.row\" = 2",
            "S2007",
            "batch.row",
        ),
        (
            "component = \"deduplicate.wasm\"",
            "component = \"nowhere.wasm\"",
            "S3001",
            "nowhere.wasm",
        ),
        (
            "path = \"visits.csv\"",
            "path = \"nowhere.csv\"",
            "S3001",
            "nowhere.csv",
        ),
        ("pattern = \"^", "pattern = \"(^", "S1008", "pattern"),
        ("name = \"visits\"", "name = ", "S2006", "line 2"),
        ("uid = \"out\"\n", "", "S2003", "uid"),
    ] {
        check_refused(from, to, code, place);
    }
}

/// Rows of the upgrade, each there twice.
const VISITORS: usize = 50_000;

/// What the job extracts: letters, or digits after an upgrade.
fn visits_of(pattern: &str) -> String {
    VISITS.replace(
        "pattern = \"^/(?<section>[a-z]+)(/(?<page>[a-z]+))?\"",
        &format!("pattern = \"{pattern}\""),
    )
}

// Long: the life of one job, before, in and after its upgrade.
#[test]
fn a_running_job_is_upgraded_to_another_job_file() {
    let lines: Vec<String> = (0..2 * VISITORS)
        .map(|n| format!("user,/page/{},{n}", n % VISITORS))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let job = Job::new(&visits_of("^/(?<part>[a-z]+)")).input("visits.csv", &lines);
    let other = |name: &str, toml: String| std::fs::write(job.path(name), toml).unwrap();
    other("digits.toml", visits_of("(?<part>[0-9]+)$"));
    other(
        "renamed.toml",
        visits_of("(?<part>.)").replace("name = \"visits\"", "name = \"others\""),
    );
    other(
        "configured.toml",
        visits_of("(?<part>.)").replace("\"batch.rows\" = 2", "\"batch.rows\" = 3"),
    );

    let run = |file, rate| {
        let options = [
            "-D",
            "checkpoint.dir=checkpoints",
            "-D",
            "checkpoint.interval=50ms",
            "-D",
            "upgrade.probation=0ms",
            "-D",
            rate,
        ];
        job.command(&[&["run", file], &options[..]].concat())
    };
    let running = run("job.toml", "source.rate=2000");
    wait_until("results", || {
        job.path("out").exists() && !job.outputs("out").lines("").is_empty()
    });
    let upgrade = |file| job.command(&["upgrade", "visits", file]).finish(LIMIT);
    upgrade("deduplicate.wasm")
        .failed_with("S2007")
        .names("is upgraded to another job file");
    upgrade("renamed.toml")
        .failed_with("S2007")
        .names("it is the job `others`, and the one that runs is `visits`");
    upgrade("configured.toml")
        .failed_with("S2007")
        .names("its configuration or its grants are others");
    let said = upgrade("digits.toml").succeeded().stdout;
    assert!(said.contains("upgraded at checkpoint"), "{said}");
    job.command(&["stop", "visits"]).finish(LIMIT).succeeded();
    running.finish(LIMIT).succeeded();

    run("job.toml", "source.rate=1000000")
        .finish(LIMIT)
        .failed_with("S7005")
        .names("its arguments are");
    run("digits.toml", "source.rate=1000000")
        .finish(LIMIT)
        .succeeded();
    let rows: Vec<Value> = job
        .outputs("out")
        .lines("")
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let urls: BTreeSet<&str> = rows
        .iter()
        .map(|row| row["url"].as_str().unwrap())
        .collect();
    assert_eq!(
        (rows.len(), urls.len()),
        (VISITORS, VISITORS),
        "a row is missing or there twice"
    );
    let of_old = rows.iter().filter(|row| row["part"] == "page").count();
    let of_new = rows
        .iter()
        .filter(|row| {
            row["url"].as_str()
                == row["part"]
                    .as_str()
                    .map(|part| format!("/page/{part}"))
                    .as_deref()
        })
        .count();
    assert!(
        of_old > 0 && of_new > 0 && of_old + of_new == VISITORS,
        "{of_old} rows of the old version, {of_new} of the new one"
    );
}

#[test]
fn the_command_of_the_file_before_an_upgrade_puts_it_back_while_that_is_in_its_probation() {
    let lines: Vec<String> = (0..VISITORS)
        .map(|n| format!("user,/page/{n},{n}"))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let job = Job::new(&visits_of("^/(?<part>[a-z]+)")).input("visits.csv", &lines);
    std::fs::write(job.path("digits.toml"), visits_of("(?<part>[0-9]+)$")).unwrap();
    let run = |file, rate| {
        let options = [
            "-D",
            "checkpoint.dir=checkpoints",
            "-D",
            "checkpoint.interval=50ms",
            "-D",
            "upgrade.probation=1h",
            "-D",
            rate,
        ];
        job.command(&[&["run", file], &options[..]].concat())
    };
    let of_new = || {
        job.outputs("out")
            .lines("")
            .iter()
            .filter(|line| !line.contains("\"part\":\"page\""))
            .count()
    };
    let mut running = run("job.toml", "source.rate=2000");
    wait_until("results", || {
        job.path("out").exists() && !job.outputs("out").lines("").is_empty()
    });
    job.command(&["upgrade", "visits", "digits.toml"])
        .finish(LIMIT)
        .succeeded();
    wait_until("results of the new version", || of_new() > 0);
    running.kill();
    running.finish(LIMIT);

    // It stays put back, although it has made no checkpoint.
    let put_back = "the upgrade was in its probation, and the version before is put back";
    let mut running = run("job.toml", "source.rate=1");
    running.says(put_back);
    running.says("the job goes on from checkpoint");
    running.kill();
    running.finish(LIMIT);
    run("digits.toml", "source.rate=1")
        .finish(LIMIT)
        .failed_with("S7005")
        .names("its arguments are");
    let before = of_new();
    let finished = run("job.toml", "source.rate=1000000")
        .finish(LIMIT)
        .succeeded();
    assert!(!finished.stderr.contains(put_back), "{}", finished.stderr);
    assert_eq!(
        (job.outputs("out").lines("").len(), of_new()),
        (VISITORS, before),
        "rows are missing or there twice, or the new version ran"
    );
}

#[test]
fn a_file_that_is_no_job_is_refused() {
    let folder = TempDir::new().unwrap();
    let refused =
        |file: &Path, code: &str| run(["run".as_ref(), file.as_os_str()]).failed_with(code);
    std::fs::write(folder.path().join("job.toml"), [0xff, 0xfe, 0x00]).unwrap();
    refused(&folder.path().join("job.toml"), "S2006");
    refused(&folder.path().join("none.toml"), "S3001").names("none.toml");
}

const UNION: &str = r#"
name = "union"

[[source]]
uid = "first"
connector = "file"
path = "first.csv"
format = "csv"
columns = [ { name = "user", type = "string" }, { name = "url", type = "string" } ]

[[source]]
uid = "second"
connector = "file"
path = "second.csv"
format = "csv"
columns = [ { name = "user", type = "string" }, { name = "url", type = "string" } ]

[[operator]]
uid = "unique"
component = "deduplicate.wasm"
function = "deduplicate"
input = ["first", "second"]
key = ["user"]

[[sink]]
uid = "out"
connector = "file"
path = "out"
input = ["unique", "second"]
"#;

#[test]
fn an_operator_reads_the_union_of_several_streams() {
    let job = || {
        Job::new(UNION)
            .input("first.csv", &["anna,/a", "ben,/b", "anna,/c"])
            .input("second.csv", &["carla,/d", "ben,/e"])
    };
    for parallelism in ["1", "2"] {
        let job = job();
        job.run(&["--parallelism", parallelism]).succeeded();
        let mut users: Vec<String> = job
            .outputs("out")
            .lines("")
            .iter()
            .map(|line| user(line))
            .collect();
        users.sort_unstable();
        // Each user once, and the rows of the second source besides.
        assert_eq!(users, ["anna", "ben", "ben", "carla", "carla"]);
    }
}

fn user(line: &str) -> String {
    let row: Value = serde_json::from_str(line).unwrap();
    row["user"].as_str().unwrap().to_owned()
}

#[test]
fn streams_that_do_not_agree_are_not_united() {
    let check = |old: &str, new: &str, code: &str, sentence: &str| {
        let job = Job::new(&UNION.replacen(old, new, 1))
            .input("first.csv", &["1,/a"])
            .input("second.csv", &["1,/a"]);
        job.run(&[]).failed_with(code).names(sentence);
    };
    let columns = r#"name = "user", type = "string""#;
    check(
        columns,
        r#"name = "user", type = "i64""#,
        "S2005",
        "node `unique`: its inputs have different columns: (user: Int64",
    );
    check(
        r#"["first", "second"]"#,
        r#"["first", "first"]"#,
        "S2006",
        "node `unique`: it reads the output of `first` twice",
    );
    check(
        r#"["first", "second"]"#,
        r#"["first", "third"]"#,
        "S2002",
        "its input `third` is no uid of the job",
    );
    check(
        r#"["first", "second"]"#,
        "3",
        "S2006",
        "an input is a uid, or a list of uids",
    );
}
