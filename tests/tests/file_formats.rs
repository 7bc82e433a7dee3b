//! What is read from files and written to them, by whole jobs: values that come back, records that
//! do not fit, and files that go, grow, end or are no files.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use streamrt_tests::binary::{Finished, LIMIT, Running, hidden_files, outputs, streamrt};
use streamrt_tests::server::wait_until;
use tempfile::TempDir;

/// A folder with a `job.toml` of one source and one sink, without code.
struct Job {
    folder: TempDir,
}

impl Job {
    /// `columns` as in the job file; more lines of the source's and the sink's tables.
    fn new(source: &str, columns: &str, sink: &str) -> Job {
        let job = Job {
            folder: TempDir::new().unwrap(),
        };
        job.write(source, columns, sink);
        job
    }

    fn write(&self, source: &str, columns: &str, sink: &str) {
        let source = format!(
            "[[source]]\nuid = \"in\"\nconnector = \"file\"\ncolumns = [ {columns} ]\n{source}\n"
        );
        let sink = format!(
            "[[sink]]\nuid = \"out\"\ninput = \"in\"\nconnector = \"file\"\npath = \"out\"\n{sink}\n"
        );
        self.file("job.toml", &format!("name = \"files\"\n{source}{sink}"));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    fn append(&self, name: &str, text: &str) {
        OpenOptions::new()
            .append(true)
            .open(self.path(name))
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = streamrt(["run", "job.toml"].iter().chain(options));
        command
            .current_dir(self.folder.path())
            .env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    fn start(&self, options: &[&str]) -> Running {
        Running::start(self.command(options))
    }

    fn run(&self, options: &[&str]) -> Finished {
        self.start(options).finish(LIMIT)
    }

    /// The lines that a reader of the sink's folder sees, sorted.
    fn lines(&self) -> Vec<String> {
        if !self.path("out").exists() {
            return Vec::new();
        }
        outputs(&self.path("out")).lines("").to_vec()
    }

    /// Runs it, and gives its dead letters.
    fn letters(&self) -> Vec<serde_json::Value> {
        self.run(&[
            "-D",
            "poison.policy=skip",
            "-D",
            "poison.dead-letters=letters",
        ])
        .succeeded();
        if !self.path("letters").exists() {
            return Vec::new();
        }
        outputs(&self.path("letters"))
            .lines("")
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

const VALUE: &str = "{ name = \"value\", type = \"string\" }";
const CHECKPOINTS: [&str; 4] = ["-D", "checkpoint.dir=ck", "-D", "checkpoint.interval=20ms"];

#[test]
fn what_a_job_writes_a_job_reads() {
    let columns = "{ name = \"x\", type = \"f64\" }, { name = \"n\", type = \"i64\", nullable = true }, { name = \"s\", type = \"string\", nullable = true }";
    let rows = [
        r#"{"x":"NaN","n":9007199254740993,"s":""}"#,
        r#"{"x":"-Infinity","n":null,"s":null}"#,
        r#"{"x":0.1,"n":-9223372036854775808,"s":"a \"quoted\",\nline"}"#,
    ];
    let mut sorted = rows.map(str::to_owned).to_vec();
    sorted.sort();
    let first = Job::new(
        "path = \"in.jsonl\"\nformat = \"json\"",
        columns,
        "format = \"csv\"\nheader = true",
    );
    first.file("in.jsonl", rows.join("\n").replace("993", "993.0"));
    first.run(&[]).succeeded();
    let second = Job::new(
        &format!(
            "path = {:?}\nformat = \"csv\"\nheader = true",
            first.path("out")
        ),
        columns,
        "",
    );
    second.run(&[]).succeeded();
    assert_eq!(second.lines(), sorted);
}

#[test]
fn numbers_that_do_not_fit_and_what_is_no_json_are_bad_records() {
    let job = Job::new(
        "path = \"in.jsonl\"\nformat = \"json\"",
        "{ name = \"x\", type = \"f64\" }",
        "",
    );
    job.file("in.jsonl", "{\"x\":1e400}\n{\"x\":1,}\n{\"x\":2}\n");
    job.run(&[])
        .failed_with("S3003")
        .names("in.jsonl line 1: column `x` is `1e400`, which is beyond 1.8e308");
    let reasons: Vec<_> = job
        .letters()
        .iter()
        .map(|letter| (letter["record"].clone(), letter["code"].clone()))
        .collect();
    assert_eq!(
        reasons,
        [
            ("{\"x\":1e400}".into(), "S3003".into()),
            ("{\"x\":1,}".into(), "S3003".into())
        ]
    );
    assert_eq!(job.lines(), [r#"{"x":2.0}"#]);
}

#[test]
fn a_large_quoted_field_is_one_value_and_an_open_quote_makes_no_rows() {
    let columns = "{ name = \"id\", type = \"i64\" }, { name = \"text\", type = \"string\" }";
    let job = Job::new("path = \"in.csv\"\nformat = \"csv\"", columns, "");
    let text = "7,looks like a row\n".repeat(100_000);
    job.file("in.csv", format!("1,\"{text}\"\n2,b\n"));
    assert_eq!(job.letters(), Vec::<serde_json::Value>::new());
    let expected = [
        format!(
            "{{\"id\":1,\"text\":{}}}",
            serde_json::to_string(&text).unwrap()
        ),
        r#"{"id":2,"text":"b"}"#.to_owned(),
    ];
    assert_eq!(job.lines(), expected);
    let job = Job::new("path = \"in.csv\"\nformat = \"csv\"", columns, "");
    job.file("in.csv", format!("1,a\n2,\"{text}"));
    let letters = job.letters();
    let record = format!("2,\"{text}");
    assert_eq!(
        letters
            .iter()
            .map(|letter| letter["record"].as_str().unwrap())
            .collect::<Vec<_>>(),
        [record.trim_end()]
    );
    assert_eq!(
        (&letters[0]["message"], job.lines()),
        (
            &"a quote is not closed".into(),
            vec![r#"{"id":1,"text":"a"}"#.to_owned()]
        )
    );
}

#[test]
fn dead_letters_are_whole_and_exact() {
    let job = Job::new(
        "path = \"in.csv\"\nformat = \"csv\"",
        "{ name = \"n\", type = \"i64\" }",
        "",
    );
    let long = "é".repeat(5000);
    job.file(
        "in.csv",
        [b"1\n", long.as_bytes(), b"\n\xffbad\n2\n"].concat(),
    );
    let letters = job.letters();
    let records: Vec<_> = letters
        .iter()
        .map(|letter| {
            (
                letter["record"].as_str().unwrap(),
                letter["record_encoding"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(records, [(&*long, "utf-8"), ("/2JhZA==", "base64")]);
    assert_eq!(job.lines(), [r#"{"n":1}"#, r#"{"n":2}"#]);
}

#[test]
fn a_file_that_goes_before_its_turn_is_waited_for_or_passed_over() {
    let source = "path = \"in\"";
    let job = Job::new(source, VALUE, "");
    job.file("in/a.txt", "1\n2\n3\n4\n".repeat(500));
    job.file("in/b.txt", "last\n");
    let mut running = job.start(&[&CHECKPOINTS[..], &["-D", "source.rate=100"]].concat());
    wait_until("a checkpoint has committed rows", || {
        !job.lines().is_empty()
    });
    running.kill();
    running.finish(LIMIT);
    fs::rename(job.path("in/b.txt"), job.path("b.txt")).unwrap();
    for _ in 0..2 {
        let choices = "in/b.txt was found, and was gone before it was read: put it back, or let such files be passed over by `missing = \"skip\"`";
        job.run(&CHECKPOINTS).failed_with("S3001").names(choices);
    }
    let copy = Job::new(&format!("{source}\nmissing = \"skip\""), VALUE, "");
    for name in ["in", "out", "ck"] {
        assert!(
            Command::new("cp")
                .arg("-r")
                .args([job.path(name), copy.path(name)])
                .status()
                .unwrap()
                .success()
        );
    }
    let finished = copy
        .run(&CHECKPOINTS)
        .succeeded()
        .names("S3031")
        .names("in/b.txt was found, and was gone before it was read");
    assert!(
        finished.stderr.contains("1 dead letter"),
        "{}",
        finished.stderr
    );
    assert_eq!(copy.lines().len(), 2000);
    fs::rename(job.path("b.txt"), job.path("in/b.txt")).unwrap();
    job.run(&CHECKPOINTS).succeeded();
    assert_eq!(
        (job.lines().len(), job.lines().pop().unwrap()),
        (2001, r#"{"value":"last"}"#.to_owned())
    );
}

#[test]
fn a_log_is_followed_over_restarts_by_whole_lines() {
    let job = Job::new("path = \"a.log\"\nfollow = true\nwatch-ms = 5", VALUE, "");
    job.file("a.log", "one\ntw");
    let sees = |lines: &[&str]| {
        let mut expected: Vec<String> = lines
            .iter()
            .map(|line| format!("{{\"value\":\"{line}\"}}"))
            .collect();
        expected.sort();
        wait_until("the lines are committed", || job.lines() == expected);
    };
    let mut running = job.start(&CHECKPOINTS);
    sees(&["one"]);
    job.append("a.log", "o\nthr");
    sees(&["one", "two"]);
    running.kill();
    running.finish(LIMIT);
    job.append("a.log", "ee\n");
    let running = job.start(&CHECKPOINTS);
    sees(&["one", "two", "three"]);
    running.interrupt();
    running.finish(LIMIT).succeeded();
    sees(&["one", "two", "three"]);
}

#[test]
fn what_is_appended_to_a_watched_file_that_was_read_is_said() {
    let job = Job::new(
        "path = \"in\"\nwatch = true\nwatch-ms = 5\nsettle = \"0ms\"",
        VALUE,
        "rolling = { rows = 1 }",
    );
    job.file("in/a.txt", "one\n");
    let running = job.start(&[]);
    wait_until("a file that rolls is visible without checkpoints", || {
        !job.lines().is_empty()
    });
    job.append("in/a.txt", "more\n");
    running.says("in/a.txt has grown by 5 bytes since it was found, which are not read");
    running.interrupt();
    running.finish(LIMIT).succeeded().names("1 dead letter");
    assert_eq!(job.lines(), [r#"{"value":"one"}"#]);
}

#[test]
fn without_checkpoints_an_endless_job_says_when_its_results_are_seen() {
    let job = Job::new(
        "path = \"in\"\nwatch = true\nwatch-ms = 5\nsettle = \"0ms\"",
        VALUE,
        "",
    );
    job.file("in/a.txt", "one\n");
    let mut running = job.start(&[]);
    running.says("sink `out` shows what it writes when the job ends, and not if it is killed");
    wait_until("a row is written", || {
        job.path("out").exists() && !hidden_files(&job.path("out")).is_empty()
    });
    running.kill();
    running.finish(LIMIT);
    assert_eq!(job.lines(), Vec::<String>::new());
}

#[test]
fn standard_input_is_read_and_said_to_come_once() {
    let job = Job::new(
        "path = \"-\"\nformat = \"csv\"\nheader = true",
        "{ name = \"n\", type = \"i64\" }",
        "",
    );
    let mut command = job.command(&CHECKPOINTS);
    let input = Command::new("printf")
        .arg("\u{feff}m,n\n1,2\n3,4")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    command.stdin(input.stdout.unwrap());
    let finished = Running::start(command).finish(LIMIT).succeeded();
    assert!(
        finished
            .stderr
            .contains("source `in` reads standard input, which cannot be read twice"),
        "{}",
        finished.stderr
    );
    assert_eq!(job.lines(), [r#"{"n":2}"#, r#"{"n":4}"#]);
}

#[test]
fn standard_input_that_says_nothing_hinders_no_checkpoint_and_no_end() {
    let job = Job::new("path = \"-\"", VALUE, "");
    let mut command = job.command(&CHECKPOINTS);
    let mut input = Command::new("sh")
        .args(["-c", "echo one; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    command.stdin(input.stdout.take().unwrap());
    let running = Running::start(command);
    wait_until("a checkpoint passes a silent input", || {
        job.lines() == [r#"{"value":"one"}"#]
    });
    running.interrupt();
    running.finish(LIMIT).succeeded();
    input.kill().unwrap();
    input.wait().unwrap();
}

#[test]
fn compressed_files_are_read_as_what_they_hold_and_never_by_half() {
    let text: String = (0..50_000).map(|n| format!("line {n}\n")).collect();
    let bytes = ruzstd::encoding::compress_to_vec(
        text.as_bytes(),
        ruzstd::encoding::CompressionLevel::Fastest,
    );
    let job = Job::new("path = \"in.zst\"\nsplit-bytes = 1000", VALUE, "");
    job.file("in.zst", &bytes);
    job.run(&["--parallelism", "2"]).succeeded();
    assert_eq!(job.lines().len(), 50_000);
    let job = Job::new("path = \"in.zst\"", VALUE, "");
    job.file("in.zst", &bytes[..bytes.len() / 2]);
    job.run(&[])
        .failed_with("S3007")
        .names("in.zst line")
        .names("the file is damaged or cut off: it is no zstd after byte");
    assert_eq!(job.lines(), Vec::<String>::new());
    let letters = job.letters();
    assert_eq!((letters.len(), &letters[0]["code"]), (1, &"S3007".into()));
}

#[test]
fn a_pipe_is_no_file() {
    let job = Job::new("path = \"pipe\"", VALUE, "");
    assert!(
        Command::new("mkfifo")
            .arg(job.path("pipe"))
            .status()
            .unwrap()
            .success()
    );
    job.run(&[])
        .failed_with("S3030")
        .names("pipe is neither a regular file nor a folder")
        .names("is read as `-`");
}
