//! The source `socket`: a TCP client that reads lines from a server, such as `nc -lk 7777`.
//!
//! There is one split, the connection. A batch is closed when the input runs dry, so that a row
//! never waits for the next one. The source ends when the server closes the connection; a last line
//! without line end counts as one, as in a file. A connection that breaks is an error. Positions
//! are line numbers of the connection.
//!
//! Nothing can be read twice: a reader that resumes at a position connects anew, takes what the
//! server sends then, and continues counting. What the previous connection had brought after the
//! position is lost.

use crate::format::{BlockDecoder, FormatName, FormatSpec};
use crate::record_buffer::RecordBuffer;
use crate::{once, position};
use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};
use streamrt_operator::{PoisonLine, ReaderPoll, Source, Split, SplitEnumerator, SplitReader};
use streamrt_types::{Error, Result, code};

/// How long a call of the reader waits for bytes from a server that has just sent some, and from
/// one that has long been silent. A barrier waits as long.
const READ_TIMEOUT: Duration = Duration::from_millis(10);
const READ_TIMEOUT_MAX: Duration = Duration::from_millis(80);

/// How long a server may take to accept: longer than any reachable one needs, shorter than a user's
/// patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Options of the source `socket`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SocketOptions {
    /// Name or address of the server. Default `localhost`.
    #[serde(default = "localhost")]
    pub host: String,
    pub port: u16,
    /// `csv`, `json` or `lines`. Default `lines`.
    #[serde(default)]
    pub format: FormatName,
    /// CSV: the character between two fields. Default `,`.
    #[serde(default)]
    pub delimiter: Option<String>,
}

fn localhost() -> String {
    "localhost".to_owned()
}

pub struct SocketSource {
    address: Arc<str>,
    options: SocketOptions,
    format: FormatSpec,
}

impl SocketSource {
    /// # Errors
    /// `Invalid` if options contradict one another, or the format cannot give the schema.
    pub fn new(options: SocketOptions, schema: SchemaRef) -> Result<SocketSource> {
        let format = FormatSpec::new(
            "socket",
            options.format,
            options.delimiter.as_deref(),
            schema,
        )?;
        Ok(SocketSource {
            address: format!("{}:{}", options.host, options.port).into(),
            options,
            format,
        })
    }

    /// Tries the addresses of the host in order, as most names have one of each protocol.
    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
        for address in (self.options.host.as_str(), self.options.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => return Ok(stream),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

impl Source for SocketSource {
    fn bounded(&self) -> bool {
        false
    }

    fn stays_open(&self) -> bool {
        true
    }

    fn enumerator(&self, restored: Option<&str>) -> Result<Box<dyn SplitEnumerator>> {
        let name = self.address.clone();
        once::enumerator("socket", restored, move |_| {
            vec![Split {
                number: 0,
                name: name.clone(),
                detail: "{}".to_owned(),
            }]
        })
    }

    fn open(&self, split: &Split, position: Option<&str>) -> Result<Box<dyn SplitReader>> {
        let position: Option<SocketPosition> = position
            .map(|text| position::read(&split.name, text))
            .transpose()?;
        let refused = |e: io::Error| {
            Error::new(
                code::CONNECT,
                format!("{} cannot be reached: {e}", self.address),
            )
            .with_source(e)
        };
        let stream = self.connect().map_err(refused)?;
        stream
            .set_read_timeout(Some(READ_TIMEOUT))
            .map_err(refused)?;
        let decoder = self
            .format
            .decoder(None, split.name.clone(), split.number)?;
        let n_lines = position.map_or(Ok(0), |position| {
            position::count(&split.name, position.lines)
        })?;
        let records = RecordBuffer::at(self.format.framing(), 0, n_lines.saturating_add(1));
        Ok(Box::new(SocketReader {
            address: self.address.clone(),
            stream,
            wait: READ_TIMEOUT,
            records,
            decoder,
            closed: None,
        }))
    }
}

/// Where a reader continues counting.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SocketPosition {
    /// The lines of all connections so far.
    lines: u64,
}

/// How a connection ended.
enum Closed {
    ByServer,
    Broken(io::Error),
}

struct SocketReader {
    address: Arc<str>,
    stream: TcpStream,
    /// How long a read waits.
    wait: Duration,
    records: RecordBuffer,
    decoder: BlockDecoder,
    /// What was read before comes out first.
    closed: Option<Closed>,
}

impl SocketReader {
    /// Reads once; false if there is nothing now. Waits a little if `wait` is set: the longer the
    /// server has been silent, the longer.
    fn read(&mut self, wait: bool) -> Result<bool> {
        let filled = if wait {
            self.records.fill(&mut self.stream)
        } else {
            self.read_at_once()
        };
        match filled {
            Ok(0) => self.end_input(),
            Ok(_) => {
                self.wait_for(READ_TIMEOUT);
                return Ok(true);
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && wait => {
                self.wait_for((self.wait * 2).min(READ_TIMEOUT_MAX));
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(e) => self.closed = Some(Closed::Broken(e)),
        }
        Ok(false)
    }

    /// A time that cannot be set leaves the one before.
    fn wait_for(&mut self, wait: Duration) {
        if wait != self.wait && self.stream.set_read_timeout(Some(wait)).is_ok() {
            self.wait = wait;
        }
    }

    fn end_input(&mut self) {
        self.closed = Some(Closed::ByServer);
        self.records.end_input();
    }

    fn read_at_once(&mut self) -> io::Result<usize> {
        self.stream.set_nonblocking(true)?;
        let filled = self.records.fill(&mut self.stream);
        self.stream.set_nonblocking(false)?;
        filled
    }

    /// Collects records until there are `rows`, the input is dry, or the first one is as old as
    /// `timeout`. Only the first read may wait, and only if nothing is there yet: a server that
    /// trickles must not hold the task.
    fn collect(&mut self, rows: usize, timeout: Duration) -> Result<()> {
        let mut full = self.records.frame(rows)?;
        let mut wait = self.records.block().records.is_empty();
        let mut start = None;
        while !full
            && self.closed.is_none()
            && start.is_none_or(|start: Instant| start.elapsed() < timeout)
            && self.read(wait)?
        {
            start.get_or_insert_with(Instant::now);
            full = self.records.frame(rows)?;
            wait = false;
        }
        if !full && self.closed.is_some() {
            // The end completes a last line without line end.
            self.records.frame(rows)?;
        }
        Ok(())
    }

    /// What follows when no record is left.
    fn end(&mut self) -> Result<ReaderPoll> {
        let line = self.records.line();
        match self.closed.take() {
            None => Ok(ReaderPoll::Pending { ms: 0 }),
            Some(Closed::ByServer) => {
                self.closed = Some(Closed::ByServer);
                Ok(ReaderPoll::Finished)
            }
            Some(Closed::Broken(e)) => {
                let message = format!("{} broke the connection at line {line}: {e}", self.address);
                Err(Error::new(code::CONNECTION_LOST, message).with_source(e))
            }
        }
    }
}

impl SplitReader for SocketReader {
    fn poll(&mut self, rows: usize, timeout: Duration) -> Result<ReaderPoll> {
        self.collect(rows, timeout)?;
        let dry = self.records.block().records.is_empty();
        let batch = self.decoder.decode(self.records.block());
        self.records.consume();
        match batch? {
            Some(batch) => Ok(ReaderPoll::Batch(batch)),
            None if dry => self.end(),
            None => Ok(ReaderPoll::Pending { ms: 0 }),
        }
    }

    fn position(&self) -> String {
        let (_, line) = self.records.position();
        position::write(&SocketPosition { lines: line - 1 })
    }

    fn limit_bytes(&mut self, batch_bytes: usize) {
        self.records.limit_bytes(batch_bytes);
    }

    fn skip_long_records(&mut self) {
        self.records.skip_long_records();
    }

    fn take_poison(&mut self) -> Vec<PoisonLine> {
        self.decoder.take_poison(self.records.take_skipped())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Found};
    use arrow_array::cast::AsArray;
    use proptest::prelude::*;
    use std::io::Write;
    use std::net::TcpListener;
    use streamrt_operator::Enumeration;
    use streamrt_types::arrow_schema;
    use streamrt_wit::{DataType, Field};

    fn open(port: u16, format: &str, position: Option<&str>) -> Result<Box<dyn SplitReader>> {
        let options = serde_json::json!({ "host": "127.0.0.1", "port": port, "format": format });
        let name = Field::new("value", DataType::String);
        let schema = if format == "csv" {
            vec![name, Field::new("n", DataType::I64)]
        } else {
            vec![name]
        };
        let source = SocketSource::new(
            serde_json::from_value(options).unwrap(),
            arrow_schema(&schema),
        )
        .unwrap();
        let Enumeration::Splits(splits) = source.enumerator(None).unwrap().poll(1).unwrap() else {
            panic!("there is one split")
        };
        source.open(&splits[0], position)
    }

    fn connect() -> (Box<dyn SplitReader>, TcpStream) {
        connect_for("lines", None)
    }

    fn connect_for(format: &str, position: Option<&str>) -> (Box<dyn SplitReader>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let reader = open(listener.local_addr().unwrap().port(), format, position).unwrap();
        (reader, listener.accept().unwrap().0)
    }

    /// Reads what one connection brings; returns where it ended.
    fn bring(
        format: &str,
        text: &str,
        rows: usize,
        position: Option<&str>,
        found: &mut Found,
    ) -> String {
        let (mut reader, mut server) = connect_for(format, position);
        server.write_all(text.as_bytes()).unwrap();
        drop(server);
        while testing::poll(&mut *reader, rows, found).unwrap() {}
        reader.position()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn lines_are_counted_over_connections(
            lines in prop::collection::vec("(\"a\n\",|bad,|b,)[1x]\r?\n|\r?\n", 0..8), last in "(b,1)?", cut in 0usize..8, rows in 1usize..5,
        ) {
            for format in ["lines", "csv"] {
                let (mut expected, mut found) = (Found::default(), Found::default());
                let end = bring(format, &(lines.concat() + &last), 100, None, &mut expected);
                let (before, after) = lines.split_at(cut.min(lines.len()));
                let position = bring(format, &before.concat(), rows, None, &mut found);
                prop_assert_eq!(bring(format, &(after.concat() + &last), rows, Some(&position), &mut found), end);
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn what_was_brought_but_not_taken_is_not_counted() {
        let (mut reader, mut server) = connect();
        server.write_all(b"a\nb\nc\nd").unwrap();
        assert_eq!(next(&mut *reader, 2).unwrap(), ["a", "b"]);
        assert_eq!(reader.position(), r#"{"lines":2}"#);
    }

    /// Polls until there is something.
    fn next(reader: &mut dyn SplitReader, rows: usize) -> Result<Vec<String>> {
        loop {
            match reader.poll(rows, Duration::MAX)? {
                ReaderPoll::Pending { ms: 0 } => {}
                ReaderPoll::Pending { .. } => panic!("a socket waits by itself"),
                ReaderPoll::Finished => return Ok(vec!["finished".to_owned()]),
                ReaderPoll::Batch(batch) => {
                    return Ok(batch
                        .columns
                        .column(0)
                        .as_string::<i32>()
                        .iter()
                        .flatten()
                        .map(str::to_owned)
                        .collect());
                }
            }
        }
    }

    #[test]
    fn a_batch_closes_when_the_input_runs_dry() {
        let (mut reader, mut server) = connect();
        assert!(matches!(
            reader.poll(10, Duration::MAX).unwrap(),
            ReaderPoll::Pending { .. }
        ));
        server.write_all(b"a\r\nb\nc").unwrap();
        assert_eq!(next(&mut *reader, 10).unwrap(), ["a", "b"]);
        server.write_all(b"d\ne\nf\n").unwrap();
        assert_eq!(next(&mut *reader, 2).unwrap(), ["cd", "e"]);
        drop(server);
        assert_eq!(next(&mut *reader, 2).unwrap(), ["f"]);
        assert_eq!(next(&mut *reader, 2).unwrap(), ["finished"]);
        assert_eq!(next(&mut *reader, 2).unwrap(), ["finished"]);
    }

    #[test]
    fn a_last_line_without_line_end_counts_as_one() {
        for rows in [1, 10] {
            let mut found = Found::default();
            assert_eq!(
                bring("lines", "a\nb\nc d", rows, None, &mut found),
                r#"{"lines":3}"#
            );
            assert_eq!(
                found.texts(),
                [r#"{"value":"a"}"#, r#"{"value":"b"}"#, r#"{"value":"c d"}"#]
            );
        }
    }

    #[test]
    fn a_refused_connection_names_host_and_port() {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let error = open(port, "lines", None).err().unwrap();
        assert_eq!(error.code().id, "S3004");
        assert!(
            error
                .message()
                .starts_with(&format!("127.0.0.1:{port} cannot be reached: ")),
            "{error}"
        );
    }
}
