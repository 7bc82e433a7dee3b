//! The sink `file`: each subtask writes `part-<subtask>-<n>.jsonl` (or `.csv`) directly into a folder.
//!
//! A file that is written has the name `.part-<subtask>-<n>.jsonl.inprogress`, which sources and shells leave out, and gets its own
//! name in `finish`, synced to the disk. `n` is the next free number: nothing that is there is overwritten. The folder is made when
//! the sink opens, a file with its first row, so a run without results leaves an empty folder.

use crate::encoder::{RowEncoder, RowFormat};
use crate::options;
use serde::Deserialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use streamrt_operator::{OperatorContext, Sink};
use streamrt_types::{Batch, Error, Result, code};

/// Options of the sink `file`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileSinkOptions {
    /// The folder; made, with its parents, if it is not there.
    pub path: String,
    /// `json` (default) or `csv`.
    #[serde(default)]
    pub format: RowFormat,
    /// Whether a CSV file begins with a line of the column names. Default false.
    #[serde(default)]
    pub header: bool,
    /// CSV: the character between two fields. Default `,`.
    #[serde(default)]
    pub delimiter: Option<String>,
}

/// One subtask's writer.
pub struct FileSink {
    folder: PathBuf,
    encoder: RowEncoder,
    header: bool,
    subtask: u32,
    part: Option<Part>,
}

/// Bytes that gather before they are written: nobody sees them before `finish`, so small batches need no system call each.
const WRITE_BYTES: usize = 256 << 10;

/// The file that is open.
struct Part {
    file: File,
    text: Vec<u8>,
    in_progress: PathBuf,
    complete: PathBuf,
}

impl FileSink {
    pub fn new(options: FileSinkOptions) -> Result<FileSink> {
        let is_csv = options.format == RowFormat::Csv;
        if options.path.is_empty() {
            return Err(options::refuse("file", "`path` is empty, but it must name a folder"));
        }
        if let (false, Some(name)) = (is_csv, options.header.then_some("header").or(options.delimiter.as_ref().map(|_| "delimiter"))) {
            return Err(options::refuse("file", &format!("`{name}` is for csv")));
        }
        let delimiter = options::delimiter("file", options.delimiter.as_deref().unwrap_or(","))?;
        let encoder = RowEncoder { format: options.format, delimiter };
        Ok(FileSink { folder: PathBuf::from(&options.path), encoder, header: options.header, subtask: 0, part: None })
    }

    fn extension(&self) -> &'static str {
        match self.encoder.format {
            RowFormat::Json => "jsonl",
            RowFormat::Csv => "csv",
        }
    }

    /// Opens the file with the lowest number that nobody has.
    fn open_part(&self) -> Result<Part> {
        for n in 0u32.. {
            let name = format!("part-{}-{n}.{}", self.subtask, self.extension());
            let (complete, in_progress) = (self.folder.join(&name), self.folder.join(format!(".{name}.inprogress")));
            match reserve(&in_progress, &complete) {
                Ok(Some(file)) => return Ok(Part { file, text: Vec::new(), in_progress, complete }),
                Ok(None) => {}
                Err(e) => return Err(file_error(&in_progress, "cannot be created", e)),
            }
        }
        Err(Error::new(code::FILE_IO, format!("{} has no free part number", self.folder.display())))
    }
}

impl Part {
    fn write_text(&mut self) -> Result<()> {
        let written = self.file.write_all(&self.text).map_err(|e| file_error(&self.in_progress, "cannot be written", e));
        self.text.clear();
        written
    }
}

/// Makes the in-progress file unless the number is taken. The complete name is looked at while the in-progress one is held, so two
/// sinks on one folder never get the same number.
fn reserve(in_progress: &Path, complete: &Path) -> io::Result<Option<File>> {
    let file = match OpenOptions::new().write(true).create_new(true).open(in_progress) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        Err(e) => return Err(e),
    };
    if complete.symlink_metadata().is_ok() {
        fs::remove_file(in_progress)?;
        return Ok(None);
    }
    Ok(Some(file))
}

fn file_error(path: &Path, what: &str, error: io::Error) -> Error {
    Error::new(code::FILE_IO, format!("{} {what}", path.display())).with_source(error)
}

impl Sink for FileSink {
    fn open(&mut self, context: &OperatorContext) -> Result<()> {
        self.subtask = context.subtask;
        fs::create_dir_all(&self.folder).map_err(|e| file_error(&self.folder, "cannot be made a folder", e))
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        let first = self.part.is_none();
        if first {
            self.part = Some(self.open_part()?);
        }
        let Some(part) = &mut self.part else { return Ok(()) };
        self.encoder.encode(&batch.columns, first && self.header, &mut part.text)?;
        if part.text.len() < WRITE_BYTES { Ok(()) } else { part.write_text() }
    }

    fn finish(&mut self) -> Result<()> {
        let Some(part) = &mut self.part else { return Ok(()) };
        part.write_text()?;
        part.file.sync_all().map_err(|e| file_error(&part.in_progress, "cannot be synced", e))?;
        fs::rename(&part.in_progress, &part.complete).map_err(|e| file_error(&part.complete, "cannot be completed", e))?;
        self.part = None;
        // The name is on the disk only after its folder is.
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(|e| file_error(&self.folder, "cannot be synced", e))
    }

    fn abort(&mut self) -> Result<()> {
        let Some(part) = self.part.take() else { return Ok(()) };
        fs::remove_file(&part.in_progress).map_err(|e| file_error(&part.in_progress, "cannot be removed", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Int64Array, RecordBatch};
    use std::sync::Arc;
    use streamrt_operator::TaskMetrics;
    use streamrt_types::{Configuration, KeyGroupRange, ManualClock};

    fn sink(folder: &Path, format: RowFormat, header: bool) -> FileSink {
        let mut sink =
            FileSink::new(FileSinkOptions { path: folder.to_string_lossy().into_owned(), format, header, delimiter: None }).unwrap();
        sink.open(&context(0)).unwrap();
        sink
    }

    fn context(subtask: u32) -> OperatorContext {
        OperatorContext {
            uid: Arc::from("sink"),
            subtask,
            parallelism: 2,
            max_parallelism: 128,
            key_groups: KeyGroupRange::all(128),
            clock: Arc::new(ManualClock::default()),
            configuration: Arc::new(Configuration::default()),
            metrics: Arc::new(TaskMetrics::default()),
            dead_letters: Arc::new(|_| Ok(())),
        }
    }

    fn rows(numbers: Vec<i64>) -> Batch {
        let numbers: ArrayRef = Arc::new(Int64Array::from(numbers));
        Batch::new(RecordBatch::try_from_iter([("n", numbers)]).unwrap())
    }

    fn listing(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_part_is_visible_only_when_finished() {
        let root = tempfile::tempdir().unwrap();
        let mut sink = sink(&root.path().join("out"), RowFormat::Json, false);
        sink.write(&rows(vec![1])).unwrap();
        sink.write(&rows(vec![2])).unwrap();
        assert_eq!(listing(&sink.folder), [".part-0-0.jsonl.inprogress"]);
        sink.finish().unwrap();
        assert_eq!(listing(&sink.folder), ["part-0-0.jsonl"]);
        assert_eq!(fs::read_to_string(sink.folder.join("part-0-0.jsonl")).unwrap(), "{\"n\":1}\n{\"n\":2}\n");
    }

    #[test]
    fn nothing_is_overwritten() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("part-0-0.jsonl"), "old").unwrap();
        fs::write(root.path().join(".part-0-1.jsonl.inprogress"), "crashed").unwrap();
        let mut sink = sink(root.path(), RowFormat::Json, false);
        sink.write(&rows(vec![1])).unwrap();
        sink.finish().unwrap();
        assert_eq!(listing(root.path()), [".part-0-1.jsonl.inprogress", "part-0-0.jsonl", "part-0-2.jsonl"]);
        assert_eq!(fs::read_to_string(root.path().join("part-0-0.jsonl")).unwrap(), "old");
    }

    #[test]
    fn abort_leaves_nothing_and_no_rows_make_no_file() {
        let root = tempfile::tempdir().unwrap();
        let mut sink = sink(root.path(), RowFormat::Csv, true);
        sink.finish().unwrap();
        sink.write(&rows(vec![1])).unwrap();
        sink.abort().unwrap();
        assert_eq!(listing(root.path()), [""; 0]);
    }

    #[test]
    fn csv_has_its_header_once() {
        let root = tempfile::tempdir().unwrap();
        let mut sink = sink(root.path(), RowFormat::Csv, true);
        sink.write(&rows(vec![1])).unwrap();
        sink.write(&rows(vec![2])).unwrap();
        sink.finish().unwrap();
        assert_eq!(fs::read_to_string(root.path().join("part-0-0.csv")).unwrap(), "n\n1\n2\n");
    }

    #[test]
    fn many_rows_are_written_on_the_way() {
        let root = tempfile::tempdir().unwrap();
        let mut sink = sink(root.path(), RowFormat::Json, false);
        (0..100).for_each(|_| sink.write(&rows((0..1024).collect())).unwrap());
        assert!(fs::metadata(root.path().join(".part-0-0.jsonl.inprogress")).unwrap().len() > 0);
        sink.finish().unwrap();
        assert_eq!(fs::read_to_string(root.path().join("part-0-0.jsonl")).unwrap().lines().count(), 102_400);
    }

    #[test]
    fn a_full_disk_is_an_error_with_the_path() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", root.path().join("full")).unwrap();
        let mut sink = sink(root.path(), RowFormat::Json, false);
        let file = OpenOptions::new().write(true).open(root.path().join("full")).unwrap();
        let path = root.path().join("full");
        sink.part = Some(Part { file, text: Vec::new(), in_progress: path.clone(), complete: root.path().join("part-0-0.jsonl") });
        sink.write(&rows(vec![1])).unwrap();
        let error = sink.finish().unwrap_err();
        assert_eq!((error.code().id, error.message()), ("S3002", format!("{} cannot be written", path.display()).as_str()));
        sink.abort().unwrap();
        assert_eq!(listing(root.path()), [""; 0]);
    }

    #[test]
    fn each_subtask_has_its_own_parts() {
        let root = tempfile::tempdir().unwrap();
        let mut sink = sink(root.path(), RowFormat::Json, false);
        for subtask in [1, 0, 1] {
            sink.open(&context(subtask)).unwrap();
            sink.write(&rows(vec![1])).unwrap();
            sink.finish().unwrap();
        }
        assert_eq!(listing(root.path()), ["part-0-0.jsonl", "part-1-0.jsonl", "part-1-1.jsonl"]);
    }

    #[test]
    fn a_path_that_is_a_file_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("out");
        fs::write(&path, "").unwrap();
        let options =
            FileSinkOptions { path: path.to_string_lossy().into_owned(), format: RowFormat::Json, header: false, delimiter: None };
        let error = FileSink::new(options).unwrap().open(&context(0)).unwrap_err();
        assert_eq!((error.code().id, error.message()), ("S3002", format!("{} cannot be made a folder", path.display()).as_str()));
    }

    #[test]
    fn a_folder_that_vanished_is_an_error_with_its_path() {
        let root = tempfile::tempdir().unwrap();
        let mut sink = sink(&root.path().join("out"), RowFormat::Json, false);
        fs::remove_dir(&sink.folder).unwrap();
        let error = sink.write(&rows(vec![1])).unwrap_err();
        assert_eq!(error.code().id, "S3002");
        assert!(error.message().contains("out/.part-0-0.jsonl.inprogress cannot be created"), "{error}");
    }
}
