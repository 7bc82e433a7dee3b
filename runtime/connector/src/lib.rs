//! Native sources and sinks, one file for each connector and one for each format.
//!
//! A connector is found by the name that the plan gives, and configured by the plan's options: each has a struct `...Options`
//! whose fields are the options, in kebab-case, with unit and default. An option that the struct does not have is refused. Nothing
//! here knows operators, windows or plugins; files, sockets and stdout are touched nowhere else in the engine.
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
mod nexmark;
mod once;
mod options;
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
pub use nexmark::NexmarkOptions;
pub use print::PrintOptions;
pub use remarks::{JobTraits, remarks};
pub use socket::SocketOptions;

use arrow_schema::SchemaRef;
use std::sync::Arc;
use streamrt_operator::{Sink, Source};
use streamrt_types::{Error, Result, SystemClock, arrow_schema, code};
use streamrt_wit::{Options, Schema};

/// Makes the source that a plan names: `file`, `socket`, `datagen` or `nexmark`.
///
/// Nothing is opened yet: that a path is there or a server answers shows when the enumerator or a reader begins.
///
/// # Errors
/// `Invalid` if the connector or an option does not exist, a value does not fit, or the format cannot give the schema.
pub fn source(connector: &str, options: &Options, schema: &Schema) -> Result<Arc<dyn Source>> {
    let schema = arrow_schema(schema);
    match connector {
        "file" => file::source(options::read(connector, options)?, schema),
        "socket" => Ok(Arc::new(socket::SocketSource::new(options::read(connector, options)?, schema)?)),
        "datagen" => Ok(Arc::new(DatagenSource::new(options::read(connector, options)?, schema, SystemClock::shared())?)),
        "nexmark" => Ok(Arc::new(nexmark::NexmarkSource::new(options::read(connector, options)?, schema)?)),
        _ => Err(options::unknown("source", connector, "file, socket, datagen and nexmark")),
    }
}

/// Makes the writer of one subtask for the sink that a plan names: `file`, `postgres`, `print` or `blackhole`.
///
/// # Errors
/// `Invalid` if the connector or an option does not exist, or a value does not fit.
pub fn sink(connector: &str, options: &Options, schema: SchemaRef) -> Result<Box<dyn Sink>> {
    if schema.fields().is_empty() {
        return Err(Error::new(code::INVALID_JOB, format!("sink `{connector}` gets rows without columns")));
    }
    match connector {
        "file" => Ok(Box::new(file_sink::FileSink::new(options::read(connector, options)?, &schema)?)),
        "postgres" => postgres(options, schema),
        "print" => Ok(Box::new(print::PrintSink::new(options::read(connector, options)?, std::io::stdout()))),
        "blackhole" => Ok(Box::new(blackhole::BlackholeSink::new(options::read(connector, options)?))),
        _ => Err(options::unknown("sink", connector, "file, postgres, print and blackhole")),
    }
}

#[cfg(feature = "postgres")]
fn postgres(options: &Options, schema: SchemaRef) -> Result<Box<dyn Sink>> {
    Ok(Box::new(postgres_sink::PostgresSink::new(options::read("postgres", options)?, schema)?))
}

#[cfg(not(feature = "postgres"))]
fn postgres(_options: &Options, _schema: SchemaRef) -> Result<Box<dyn Sink>> {
    Err(options::left_out("postgres", "the connector", "postgres"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use streamrt_wit::{DataType, Field};

    fn check(kind: &str, connector: &str, options: serde_json::Value, expected: &str) {
        let schema = vec![Field::new("value", DataType::String)];
        let options = options.as_object().unwrap();
        let result = match kind {
            "source" => super::source(connector, options, &schema).err(),
            _ => super::sink(connector, options, streamrt_types::arrow_schema(&schema)).err(),
        };
        let error = result.expect("the options are wrong");
        assert_eq!(error.code().id, "S2007", "{error}");
        assert!(error.message().contains(expected), "{error}");
    }

    #[test]
    fn wrong_options_get_a_sentence_that_names_what_exists() {
        check("source", "kafka", json!({}), "there is no source connector `kafka`; there are file, socket, datagen and nexmark");
        check("sink", "kafka", json!({}), "there is no sink connector `kafka`; there are file, postgres, print and blackhole");
        check("source", "file", json!({ "pth": "a" }), "connector `file`: unknown option `pth`, expected one of `path`");
        check("source", "file", json!({}), "connector `file`: missing option `path`");
        check("source", "file", json!({ "path": "a", "format": "xml" }), "expected one of `csv`, `json`, `lines`, `parquet`");
        check("source", "file", json!({ "path": "a", "header": "yes" }), "expected a boolean");
        check("source", "file", json!({ "path": "a", "format": "csv", "delimiter": "||" }), "`delimiter` is `||`");
        check("source", "file", json!({ "path": "a", "format": "lines", "delimiter": ";" }), "`delimiter` is for csv");
        check("source", "file", json!({ "path": "a", "split-bytes": 0 }), "`split-bytes` is 0");
        check("source", "socket", json!({ "host": "h", "port": 70000 }), "expected u16");
        check("source", "datagen", json!({ "rate": 0 }), "`rate` is 0");
        check("source", "datagen", json!({ "fields": { "v": { "kind": "sequence" } } }), "names the column `v`");
        check("sink", "file", json!({ "path": "a", "format": "lines" }), "expected one of `json`, `csv`, `parquet`");
        check("sink", "file", json!({ "path": "a", "delimiter": ";" }), "`delimiter` is for csv");
        check("sink", "print", json!({ "pre": "a" }), "unknown option `pre`, expected `prefix`");
        check("sink", "blackhole", json!({ "pre": "a" }), "unknown option `pre`");
    }
}
