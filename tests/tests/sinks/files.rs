//! Files that roll, as text and as Parquet.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMillisecondType};
use arrow_array::{Array, RecordBatch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use streamrt_tests::binary::{hidden_files, outputs};
use streamrt_types::FAILPOINTS;

use crate::job::{Job, ROWS};

const PARQUET: &str = "connector = \"file\"\npath = \"out\"\nformat = \"parquet\"\ntimestamps = [\"time\"]\nrolling.rows = 50";
const CSV: &str = "connector = \"file\"\npath = \"out\"\nformat = \"csv\"\ndelimiter = \"|\"\nrolling.size = \"1KiB\"\nrolling.interval = \"1h\"";

/// The visible files of the sink.
fn files(job: &Job) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(job.path("out"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path());
    listed
        .filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.'))
        .collect()
}

/// The rows of the Parquet files, whose times have to be timestamps.
fn parquet(job: &Job) -> Vec<String> {
    files(job).iter().flat_map(|file| rows(file)).collect()
}

fn rows(path: &Path) -> Vec<String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap())
        .unwrap()
        .build()
        .unwrap();
    reader.flat_map(|batch| texts(&batch.unwrap())).collect()
}

fn texts(batch: &RecordBatch) -> Vec<String> {
    let (numbers, texts) = (
        batch.column(0).as_primitive::<Int64Type>(),
        batch.column(1).as_string::<i32>(),
    );
    let times = batch.column(2).as_primitive::<TimestampMillisecondType>();
    let text = |row: usize| {
        if texts.is_null(row) {
            ""
        } else {
            texts.value(row)
        }
    };
    (0..batch.num_rows())
        .map(|row| format!("{}|{}|{}", numbers.value(row), text(row), times.value(row)))
        .collect()
}

fn csv(job: &Job) -> Vec<String> {
    if job.path("out").exists() {
        outputs(&job.path("out")).lines("").to_vec()
    } else {
        Vec::new()
    }
}

#[test]
fn parquet_files_that_roll_survive_kills() {
    let job = Job::new(PARQUET);
    job.survive(2.0, || parquet(&job));
    assert_eq!(
        hidden_files(&job.path("out")),
        Vec::<PathBuf>::new(),
        "uncommitted files are left"
    );
}

#[test]
fn text_files_that_roll_survive_kills() {
    let job = Job::new(CSV);
    job.survive(2.0, || csv(&job));
    assert_eq!(
        hidden_files(&job.path("out")),
        Vec::<PathBuf>::new(),
        "uncommitted files are left"
    );
}

/// Passes each failpoint so that it acts in the middle; the next run finishes.
fn check_failpoints(action: &str) {
    for name in FAILPOINTS {
        let job = Job::new(PARQUET);
        if name.starts_with("recovery.") {
            assert!(!job.run_with("complete.before=crash:2").status.success());
        }
        let once = name.starts_with("recovery.") || name.starts_with("end.");
        let acted = job.run_with(&format!("{name}={action}:{}", if once { 1 } else { 2 }));
        job.assert_part(parquet(&job), name);
        if !acted.status.success() {
            job.run(2, 0.4).succeeded();
        }
        job.assert_whole(parquet(&job), name);
        assert_eq!(
            hidden_files(&job.path("out")),
            Vec::<PathBuf>::new(),
            "{name}={action}: uncommitted files are left"
        );
    }
}

#[test]
fn a_crash_at_any_failpoint_leaves_whole_parquet_files() {
    check_failpoints("crash");
}

#[test]
fn an_error_at_any_failpoint_leaves_whole_parquet_files() {
    check_failpoints("error");
}

/// Several files of one transaction, and the same rows when they are read again by another job.
#[test]
fn what_one_job_writes_as_parquet_another_one_reads() {
    let job = Job::new(PARQUET);
    job.run(2, 0.2).succeeded();
    let rolled = files(&job)
        .iter()
        .filter(|file| file.to_string_lossy().ends_with("-1.parquet"))
        .count();
    assert!(
        rolled > 0,
        "no transaction has a second file: {:?}",
        files(&job)
    );
    let second =
        Job::new("connector = \"file\"\npath = \"out\"\nformat = \"csv\"\ndelimiter = \"|\"");
    let toml = std::fs::read_to_string(second.path("job.toml")).unwrap();
    let input = format!(
        "path = \"{}\"\nformat = \"parquet\"",
        job.path("out").display()
    );
    std::fs::write(
        second.path("job.toml"),
        toml.replace("path = \"input\"\nformat = \"csv\"", &input),
    )
    .unwrap();
    second.survive(2.0, || csv(&second));
    assert_eq!(csv(&second).len(), ROWS);
}
