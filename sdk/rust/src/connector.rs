//! Sources and sinks of the host, as options in the plan. The host's connector of that name
//! documents what each option means.

use crate::record::Record;
use serde_json::{Value, json};
use std::marker::PhantomData;
use streamrt_wit::Options;

/// A source of the host.
pub trait Source {
    /// What its rows are.
    type Record: Record;
    /// The host's name for it.
    const CONNECTOR: &'static str;
    /// Its options.
    fn options(self) -> Options;
}

/// A sink of the host that takes records of type `T`.
pub trait Sink<T> {
    /// The host's name for it.
    const CONNECTOR: &'static str;
    /// Its options.
    fn options(self) -> Options;
}

/// Files: see [`File::csv`], [`File::json`] and [`File::lines`].
pub struct File;

/// A file, a folder, a glob or `-`, standard input, as a source; a folder as a sink. Files that end
/// in `.gz`, `.zst` or `.bz2` are read as what they hold.
pub struct FileConnector<T> {
    options: Options,
    record: PhantomData<fn() -> T>,
}

impl File {
    fn of<T>(path: impl Into<String>, format: &str) -> FileConnector<T> {
        let mut options = Options::new();
        options.insert("path".to_owned(), Value::String(path.into()));
        options.insert("format".to_owned(), json!(format));
        FileConnector {
            options,
            record: PhantomData,
        }
    }

    /// Comma-separated values without a header: columns in the order of the record's fields.
    pub fn csv<T: Record>(path: impl Into<String>) -> FileConnector<T> {
        File::of(path, "csv")
    }

    /// Comma-separated values under a header line: columns are found by name.
    pub fn csv_with_header<T: Record>(path: impl Into<String>) -> FileConnector<T> {
        File::of(path, "csv").option("header", json!(true))
    }

    /// JSON, one object per line.
    pub fn json<T: Record>(path: impl Into<String>) -> FileConnector<T> {
        File::of(path, "json")
    }

    /// Raw lines without their ends.
    pub fn lines(path: impl Into<String>) -> FileConnector<String> {
        File::of(path, "lines")
    }

    /// Parquet: columns are found by name.
    pub fn parquet<T: Record>(path: impl Into<String>) -> FileConnector<T> {
        File::of(path, "parquet")
    }
}

impl<T> FileConnector<T> {
    /// Sets an option by its name in the host.
    pub fn option(mut self, name: &str, value: Value) -> Self {
        self.options.insert(name.to_owned(), value);
        self
    }

    /// Separates the values of a line by this ASCII character instead of a comma.
    pub fn delimiter(self, delimiter: char) -> Self {
        self.option("delimiter", json!(delimiter.to_string()))
    }

    /// Goes on looking for new files, so that the stream never ends. A file is read when it has not
    /// changed for a second; see [`FileConnector::settle`].
    pub fn watch(self) -> Self {
        self.option("watch", json!(true))
    }

    /// With [`FileConnector::watch`]: reads a file when it has not changed for this long, such as
    /// `10s`.
    pub fn settle(self, age: &str) -> Self {
        self.option("settle", json!(age))
    }

    /// Leaves out names with one of these ends, such as `.tmp`: files that are still being written.
    pub fn ignore<const N: usize>(self, ends: [&str; N]) -> Self {
        self.option("ignore", json!(ends.as_slice()))
    }

    /// Takes files for logs that grow: their whole lines are read as they come, and the stream
    /// never ends.
    pub fn follow(self) -> Self {
        self.option("follow", json!(true))
    }

    /// Reports a file that is gone when its turn comes, and passes over it; else the job fails.
    pub fn skip_missing(self) -> Self {
        self.option("missing", json!("skip"))
    }

    /// As a sink of Parquet: writes these columns of times in ms as timestamps.
    pub fn timestamps<const N: usize>(self, columns: [&str; N]) -> Self {
        self.option("timestamps", json!(columns.as_slice()))
    }

    /// As a sink: begins another file when one reaches this size, such as `128MiB`.
    pub fn rolling_size(self, size: &str) -> Self {
        self.rolling("size", json!(size))
    }

    /// As a sink: begins another file when one reaches this age, such as `15min`. A checkpoint ends
    /// files in any case.
    pub fn rolling_interval(self, interval: &str) -> Self {
        self.rolling("interval", json!(interval))
    }

    /// As a sink: begins another file when one reaches this number of rows.
    pub fn rolling_rows(self, rows: u64) -> Self {
        self.rolling("rows", json!(rows))
    }

    fn rolling(mut self, name: &str, value: Value) -> Self {
        let mut rolling = self
            .options
            .remove("rolling")
            .and_then(|rolling| rolling.as_object().cloned())
            .unwrap_or_default();
        rolling.insert(name.to_owned(), value);
        self.option("rolling", Value::Object(rolling))
    }
}

impl<T: Record> Source for FileConnector<T> {
    type Record = T;
    const CONNECTOR: &'static str = "file";
    fn options(self) -> Options {
        self.options
    }
}

impl<T: Record> Sink<T> for FileConnector<T> {
    const CONNECTOR: &'static str = "file";
    fn options(self) -> Options {
        self.options
    }
}

/// TCP connections: see [`Socket::lines`], [`Socket::csv`] and [`Socket::json`].
pub struct Socket;

/// Text from a TCP server.
pub struct SocketConnector<T> {
    options: Options,
    record: PhantomData<fn() -> T>,
}

impl Socket {
    fn of<T>(host: impl Into<String>, port: u16, format: &str) -> SocketConnector<T> {
        let connector = SocketConnector {
            options: Options::new(),
            record: PhantomData,
        };
        connector
            .option("host", Value::String(host.into()))
            .option("port", json!(port))
            .option("format", json!(format))
    }

    /// Raw lines without their ends.
    pub fn lines(host: impl Into<String>, port: u16) -> SocketConnector<String> {
        Socket::of(host, port, "lines")
    }

    /// Comma-separated values, one row per line: columns in the order of the record's fields.
    pub fn csv<T: Record>(host: impl Into<String>, port: u16) -> SocketConnector<T> {
        Socket::of(host, port, "csv")
    }

    /// JSON, one object per line.
    pub fn json<T: Record>(host: impl Into<String>, port: u16) -> SocketConnector<T> {
        Socket::of(host, port, "json")
    }
}

impl<T> SocketConnector<T> {
    /// Sets an option by its name in the host.
    pub fn option(mut self, name: &str, value: Value) -> Self {
        self.options.insert(name.to_owned(), value);
        self
    }

    /// Separates the values of a line by this ASCII character instead of a comma.
    pub fn delimiter(self, delimiter: char) -> Self {
        self.option("delimiter", json!(delimiter.to_string()))
    }
}

impl<T: Record> Source for SocketConnector<T> {
    type Record = T;
    const CONNECTOR: &'static str = "socket";
    fn options(self) -> Options {
        self.options
    }
}

/// Rows generated from a seed: the same seed, the same rows.
pub struct Datagen<T> {
    options: Options,
    record: PhantomData<fn() -> T>,
}

impl<T: Record> Datagen<T> {
    /// Rows of the record's schema, for ever and as fast as they are taken.
    #[expect(
        clippy::new_without_default,
        reason = "a source is made where it is used, with its options"
    )]
    pub fn new() -> Self {
        Datagen {
            options: Options::new(),
            record: PhantomData,
        }
    }

    /// Ends after this number of rows.
    pub fn rows(self, rows: u64) -> Self {
        self.option("rows", json!(rows))
    }

    /// Makes at most this many rows per second.
    pub fn rate(self, rows_per_second: u64) -> Self {
        self.option("rate", json!(rows_per_second))
    }

    /// Sets the seed; 0 by default.
    pub fn seed(self, seed: u64) -> Self {
        self.option("seed", json!(seed))
    }

    /// Sets an option by its name in the host.
    pub fn option(mut self, name: &str, value: Value) -> Self {
        self.options.insert(name.to_owned(), value);
        self
    }
}

impl<T: Record> Source for Datagen<T> {
    type Record = T;
    const CONNECTOR: &'static str = "datagen";
    fn options(self) -> Options {
        self.options
    }
}

/// A table of a PostgreSQL server: see [`Postgres::table`].
pub struct Postgres {
    options: Options,
}

impl Postgres {
    /// The rows of each checkpoint become one transaction of the table, which must be there;
    /// columns are found by name. The URL is as in `postgresql://user@host:5432/database`, and the
    /// host reads the password from its variable `PGPASSWORD`.
    pub fn table(url: impl Into<String>, table: impl Into<String>) -> Postgres {
        let options = [
            ("url".to_owned(), Value::String(url.into())),
            ("table".to_owned(), Value::String(table.into())),
        ];
        Postgres {
            options: options.into_iter().collect(),
        }
    }
}

impl<T: Record> Sink<T> for Postgres {
    const CONNECTOR: &'static str = "postgres";
    fn options(self) -> Options {
        self.options
    }
}

/// Writes rows to standard output.
pub struct Print;

impl<T: Record> Sink<T> for Print {
    const CONNECTOR: &'static str = "print";
    fn options(self) -> Options {
        Options::new()
    }
}

/// Counts rows and forgets them.
pub struct Blackhole;

impl<T: Record> Sink<T> for Blackhole {
    const CONNECTOR: &'static str = "blackhole";
    fn options(self) -> Options {
        Options::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_files_is_said_by_options() {
        let source = File::lines("logs")
            .watch()
            .settle("5s")
            .ignore([".tmp"])
            .follow()
            .skip_missing();
        let expected = json!({
            "path": "logs", "format": "lines", "watch": true, "settle": "5s", "ignore": [".tmp"], "follow": true, "missing": "skip"
        });
        assert_eq!(Value::Object(source.options), expected);
    }

    #[test]
    fn limits_of_files_are_one_option() {
        let sink = File::parquet::<String>("out")
            .timestamps(["time"])
            .rolling_size("128MiB")
            .rolling_rows(5)
            .rolling_interval("1h");
        let expected = json!({
            "path": "out", "format": "parquet", "timestamps": ["time"], "rolling": { "size": "128MiB", "rows": 5, "interval": "1h" }
        });
        assert_eq!(Value::Object(sink.options), expected);
    }
}
