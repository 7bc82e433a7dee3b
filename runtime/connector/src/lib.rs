//! Native sources and sinks, one file per connector and one per format.
//!
//! A connector is found by its name in the plan, and configured by the plan's options: each has a
//! struct `...Options` whose fields are the options, in kebab-case, with unit and default. An
//! option that the struct does not have is refused. Nothing here knows operators, windows or
//! plugins; files, sockets and stdout are touched nowhere else in the engine.
//!
//! ```
//! use streamrt_wit::{DataType, Field};
//! let options = serde_json::json!({ "rows": 10, "seed": 7 });
//! let schema = vec![Field::new("id", DataType::I64)];
//! let source = streamrt_connector::source("datagen", options.as_object().unwrap(), &schema)?;
//! assert!(source.bounded());
//! # Ok::<(), streamrt_types::Error>(())
//! ```

mod blackhole;
mod datagen;
mod encoder;
mod enumerator;
mod file;
mod file_name;
mod file_sink;
mod format;
mod needs;
mod nexmark;
mod once;
mod options;
mod pattern;
mod position;
#[cfg(feature = "postgres")]
mod postgres_sink;
mod print;
mod record_buffer;
mod remarks;
mod socket;
#[cfg(test)]
mod testing;

pub use datagen::{DatagenOptions, DatagenSource, Generator};
pub use file::FileOptions;
#[cfg(feature = "parquet")]
pub use file_sink::ParquetExport;
pub use file_sink::{FileSinkOptions, RollingOptions};
pub use needs::{Need, sink_needs, source_needs};
pub use nexmark::NexmarkOptions;
pub use print::PrintOptions;
pub use remarks::{JobTraits, remarks};
pub use socket::SocketOptions;

use arrow_schema::SchemaRef;
use serde_json::Value;
use std::sync::Arc;
use streamrt_operator::{Sink, Source};
use streamrt_types::{Error, Result, SystemClock, arrow_schema, code};
use streamrt_wit::{Options, Schema};

/// The connectors by name, for messages.
const SOURCES: &str = "file, socket, datagen and nexmark";
const SINKS: &str = "file, postgres, print and blackhole";

/// Makes the source that a plan names: `file`, `socket`, `datagen` or `nexmark`.
///
/// Nothing is opened yet: whether a path exists or a server answers shows when the enumerator or a
/// reader begins.
///
/// # Errors
/// `Invalid` if the connector or an option does not exist, a value does not fit, or the format
/// cannot give the schema.
pub fn source(connector: &str, options: &Options, schema: &Schema) -> Result<Arc<dyn Source>> {
    let schema = arrow_schema(schema);
    match connector {
        "file" => file::source(options::read(connector, options)?, schema),
        "socket" => Ok(Arc::new(socket::SocketSource::new(
            options::read(connector, options)?,
            schema,
        )?)),
        "datagen" => Ok(Arc::new(DatagenSource::new(
            options::read(connector, options)?,
            schema,
            SystemClock::shared(),
        )?)),
        "nexmark" => Ok(Arc::new(nexmark::NexmarkSource::new(
            options::read(connector, options)?,
            schema,
        )?)),
        _ => Err(options::unknown("source", connector, SOURCES)),
    }
}

/// Makes the writer of one subtask for the sink that a plan names: `file`, `postgres`, `print` or
/// `blackhole`.
///
/// # Errors
/// `Invalid` if the connector or an option does not exist, or a value does not fit.
pub fn sink(connector: &str, options: &Options, schema: SchemaRef) -> Result<Box<dyn Sink>> {
    if schema.fields().is_empty() {
        return Err(Error::new(
            code::INVALID_JOB,
            format!("sink `{connector}` gets rows without columns"),
        ));
    }
    match connector {
        "file" => Ok(Box::new(file_sink::FileSink::new(
            options::read(connector, options)?,
            &schema,
        )?)),
        "postgres" => postgres(options, schema),
        "print" => Ok(Box::new(print::PrintSink::new(
            options::read(connector, options)?,
            std::io::stdout(),
        ))),
        "blackhole" => Ok(Box::new(blackhole::BlackholeSink::new(options::read(
            connector, options,
        )?))),
        _ => Err(options::unknown("sink", connector, SINKS)),
    }
}

#[cfg(feature = "postgres")]
fn postgres(options: &Options, schema: SchemaRef) -> Result<Box<dyn Sink>> {
    Ok(Box::new(postgres_sink::PostgresSink::new(
        options::read("postgres", options)?,
        schema,
    )?))
}

#[cfg(feature = "postgres")]
fn postgres_needs(options: &Options) -> Result<Vec<Need>> {
    postgres_sink::needs(&options::read("postgres", options)?)
}

#[cfg(not(feature = "postgres"))]
fn postgres_needs(_options: &Options) -> Result<Vec<Need>> {
    Err(options::left_out("postgres", "the connector", "postgres"))
}

#[cfg(not(feature = "postgres"))]
fn postgres(_options: &Options, _schema: SchemaRef) -> Result<Box<dyn Sink>> {
    Err(options::left_out("postgres", "the connector", "postgres"))
}

/// Where the data of a connector with these options is, for comparisons and messages; `None` if it
/// is in no particular place. It contains no password.
pub fn place(connector: &str, options: &Options) -> Option<String> {
    let text = |name: &str| options.get(name).and_then(Value::as_str);
    match connector {
        "file" => text("path").map(str::to_owned),
        "socket" => Some(format!(
            "{}:{}",
            text("host").unwrap_or("localhost"),
            options.get("port")?
        )),
        // The user and the password come before the last `@`, or after a `?`.
        "postgres" => Some(format!(
            "table {} of {}",
            text("table")?,
            text("url")?.split('?').next()?.rsplit('@').next()?
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use std::collections::{BTreeMap, BTreeSet};
    use streamrt_types::Error;
    use streamrt_wit::{DataType, Field};

    fn refused(kind: &str, connector: &str, options: serde_json::Value) -> Error {
        let schema = vec![Field::new("value", DataType::String)];
        let options = options.as_object().unwrap();
        let result = match kind {
            "source" => super::source(connector, options, &schema).err(),
            _ => super::sink(connector, options, streamrt_types::arrow_schema(&schema)).err(),
        };
        result.expect("the options are wrong")
    }

    fn check(kind: &str, connector: &str, options: serde_json::Value, expected: &str) {
        let error = refused(kind, connector, options);
        assert_eq!(error.code().id, "S2007", "{error}");
        assert!(error.message().contains(expected), "{error}");
    }

    #[test]
    fn places_tell_where_data_is_and_no_password() {
        let place =
            |connector, options: Value| super::place(connector, options.as_object().unwrap());
        assert_eq!(
            place("file", json!({"path": "in/*.csv", "format": "csv"})).unwrap(),
            "in/*.csv"
        );
        assert_eq!(
            place("socket", json!({"port": 7777})).unwrap(),
            "localhost:7777"
        );
        let postgres = json!({"url": "postgresql://me:secret@h:5432/d?password=p", "table": "t"});
        assert_eq!(place("postgres", postgres).unwrap(), "table t of h:5432/d");
        assert_eq!(place("print", json!({})), None);
    }

    // Long: a table.
    #[test]
    fn wrong_options_get_a_sentence_that_names_what_exists() {
        check(
            "source",
            "kafka",
            json!({}),
            "there is no source connector `kafka`; there are file, socket, datagen and nexmark",
        );
        check(
            "sink",
            "kafka",
            json!({}),
            "there is no sink connector `kafka`; there are file, postgres, print and blackhole",
        );
        check(
            "source",
            "file",
            json!({ "pth": "a" }),
            "connector `file`: unknown option `pth`, expected one of `path`",
        );
        check(
            "source",
            "file",
            json!({}),
            "connector `file`: missing option `path`",
        );
        check(
            "source",
            "file",
            json!({ "path": "a", "format": "xml" }),
            "expected one of `csv`, `json`, `lines`, `parquet`",
        );
        check(
            "source",
            "file",
            json!({ "path": "a", "header": "yes" }),
            "expected a boolean",
        );
        check(
            "source",
            "file",
            json!({ "path": "a", "format": "csv", "delimiter": "||" }),
            "`delimiter` is `||`",
        );
        check(
            "source",
            "file",
            json!({ "path": "a", "format": "lines", "delimiter": ";" }),
            "`delimiter` is for csv",
        );
        check(
            "source",
            "file",
            json!({ "path": "a", "split-bytes": 0 }),
            "`split-bytes` is 0",
        );
        check(
            "source",
            "file",
            json!({ "path": "a", "split-bytes": "64kB" }),
            "`the size` is `64kB`, but it must be a size such as 64MiB",
        );
        check(
            "source",
            "file",
            json!({ "path": "a", "split-bytes": [] }),
            "a size must be a number of bytes, or a text such as `64MiB`",
        );
        check(
            "source",
            "file",
            json!({ "path": "" }),
            "`path` is empty, but it must name a file, a folder or a pattern",
        );
        check(
            "source",
            "socket",
            json!({ "host": "h", "port": 70000 }),
            "expected u16",
        );
        check("source", "datagen", json!({ "rate": 0 }), "`rate` is 0");
        check(
            "source",
            "datagen",
            json!({ "fields": { "v": { "kind": "sequence" } } }),
            "names the column `v`",
        );
        check(
            "sink",
            "file",
            json!({ "path": "a", "format": "lines" }),
            "expected one of `json`, `csv`, `parquet`",
        );
        check(
            "sink",
            "file",
            json!({ "path": "a", "delimiter": ";" }),
            "`delimiter` is for csv",
        );
        check(
            "sink",
            "print",
            json!({ "pre": "a" }),
            "unknown option `pre`, expected `prefix`",
        );
        check(
            "sink",
            "blackhole",
            json!({ "pre": "a" }),
            "unknown option `pre`",
        );
    }

    /// Options by connector, as the rows of a table of the README name them.
    fn told(heading: &str) -> BTreeMap<String, BTreeSet<String>> {
        let readme = include_str!("../../../README.md");
        let section = readme
            .split(heading)
            .nth(1)
            .and_then(|rest| rest.split("\n#").next())
            .expect("the README has the section");
        let (mut options, mut connector) =
            (BTreeMap::<String, BTreeSet<String>>::new(), String::new());
        for line in section.lines().filter(|line| line.starts_with('|')).skip(2) {
            let cells: Vec<String> = line
                .split('|')
                .skip(1)
                .map(|cell| cell.trim().replace('`', ""))
                .collect();
            connector = if cells[0].is_empty() {
                connector
            } else {
                cells[0].clone()
            };
            let names = cells[1]
                .split(", ")
                .map(|name| name.split('.').next().unwrap_or_default().to_owned());
            options
                .entry(connector.clone())
                .or_default()
                .extend(names.filter(|name| !name.is_empty()));
        }
        options
    }

    /// The options that a connector says it knows.
    fn known(refused: &Error) -> BTreeSet<String> {
        let names = refused
            .message()
            .split("expected")
            .nth(1)
            .unwrap_or_default();
        names
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_readme_has_every_option_of_every_connector() {
        let is_here = |name: &String| cfg!(feature = "postgres") || name != "postgres";
        for (kind, heading) in [("source", "\n### Sources\n"), ("sink", "\n### Sinks\n")] {
            let told = told(heading);
            assert!(told.len() >= 3, "{told:?}");
            for (name, options) in told.into_iter().filter(|(name, _)| is_here(name)) {
                assert_eq!(
                    options,
                    known(&refused(kind, &name, json!({ "?": 1 }))),
                    "{kind} {name}"
                );
            }
        }
    }
}
