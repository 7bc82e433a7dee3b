//! The sink `postgres`: the rows that a subtask writes between two checkpoints are one transaction of the server.
//!
//! 1. The transaction begins with its first rows, which go into the table by COPY, a batch of text at a time.
//! 2. `pre_commit` notes the transaction's name in the table `streamrt_transactions`, within the transaction, and prepares it: from then on
//!    it outlives connection, process and server.
//! 3. `commit` is COMMIT PREPARED. If the server does not know the transaction, it was committed before, and then its name is in that table;
//!    or somebody has rolled it back, and its rows are lost, which is said with their range.
//! 4. What no promise names is rolled back by `abort_unlisted`; a transaction that was not prepared ends with its connection.
//!
//! Names of transactions are kept for [`REMEMBERED`], so a savepoint that holds promises can be started from for so long.
//!
//! No question waits for its answer for ever (`connection.rs`): a server that stands still costs the attempt, and the next one first ends
//! what connections the one before has left there.
//!
//! A lost connection costs the transaction that was open, and so the attempt; commits and clean-up are tried again. There is no TLS: the
//! server is to be on this machine or in a network that is trusted.

mod connection;
mod copy_text;
mod server;
mod table;

use crate::{options, position};
use arrow_schema::SchemaRef;
use copy_text::CopyText;
use serde::{Deserialize, Serialize};
pub use server::needs;
use server::{Server, quote};
use std::time::Duration;
use streamrt_operator::{OperatorContext, Sink, transaction_prefix};
use streamrt_types::{Batch, Error, Result, code, parse_duration_ms};
use table::Table;
use tokio_postgres::error::SqlState;

/// Options of the sink `postgres`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PostgresOptions {
    /// `postgresql://user@host:5432/database`, or `host=/run/postgresql user=me dbname=database`. The variable `PGPASSWORD` gives the
    /// password if the URL has none: options are kept with the checkpoints, and passwords should not be.
    pub url: String,
    /// The table as SQL names it: `results`, or `schema.results`. It must be there; columns are found by name.
    pub table: String,
    /// How long the server may take for one statement, as in `60s`, which is the default. Then the transaction is given up, and the job
    /// fails or starts again. At least 1 s.
    #[serde(default)]
    pub timeout: Option<String>,
}

/// Of one statement, where the options say nothing.
const STATEMENT_TIME: Duration = Duration::from_secs(60);
const STATEMENT_TIMES: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// Text that gathers before it is sent.
const COPY_BYTES: usize = 256 << 10;

/// How long names of transactions are kept.
const REMEMBERED: &str = "30 days";

/// The server's limit for names of prepared transactions is 199 bytes; generation, subtask and number need some behind the prefix.
const PREFIX_BYTES_MAX: usize = 150;

/// Characters of a row that a promise keeps.
const SHOWN_CHARS: usize = 200;

/// Prepared transactions that a subtask may have at once: one that waits for its commit, and the next one.
const PREPARED_PER_SUBTASK: u32 = 2;

/// One subtask's writer.
pub struct PostgresSink {
    server: Server,
    options: PostgresOptions,
    schema: SchemaRef,
    /// Known once the sink is open.
    table: Option<Table>,
    /// What was written since `begin`.
    written: Promise,
    text: Vec<u8>,
    /// The server has the transaction open.
    begun: bool,
}

/// What `pre_commit` promises: that the server holds the prepared transaction, or has committed it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Promise {
    transaction: String,
    rows: u64,
    /// The first row and the last one, their columns divided by tabulators, to find them by if the transaction is lost.
    first: String,
    last: String,
}

impl PostgresOptions {
    fn statement_limit(&self) -> Result<Duration> {
        let Some(text) = &self.timeout else { return Ok(STATEMENT_TIME) };
        let limit = Duration::from_millis(parse_duration_ms("timeout", text).map_err(|e| options::refuse("postgres", e.message()))?);
        if STATEMENT_TIMES.contains(&limit) { Ok(limit) } else { Err(options::refuse("postgres", "`timeout` must be from 1s to 24h")) }
    }
}

impl PostgresSink {
    /// # Errors
    /// `Invalid` if the URL cannot be read.
    pub fn new(options: PostgresOptions, schema: SchemaRef) -> Result<PostgresSink> {
        if options.table.is_empty() {
            return Err(options::refuse("postgres", "`table` is empty, but it must name a table"));
        }
        let server = Server::new(&options.url, options.statement_limit()?)?;
        Ok(PostgresSink { server, options, schema, table: None, written: Promise::default(), text: Vec::new(), begun: false })
    }

    fn table(&self) -> Result<&Table> {
        self.table.as_ref().ok_or_else(|| Error::internal("a sink is opened before it is used"))
    }

    /// Sends the text that has gathered.
    fn copy(&mut self) -> Result<()> {
        let sql = self.table()?.copy.clone();
        let text = std::mem::take(&mut self.text);
        let connection = self.server.connection()?;
        let begun = std::mem::replace(&mut self.begun, true);
        let copied = if begun { Ok(()) } else { connection.batch_execute("BEGIN") }.and_then(|()| connection.copy(&sql, text));
        copied.map_err(|e| self.server.failed(&format!("writing to table {}", self.options.table), &e))
    }

    /// The transaction is neither prepared nor committed.
    fn lost(&self, promise: &Promise) -> Error {
        let Promise { transaction, rows, first, last } = promise;
        let message = format!(
            "the prepared transaction `{transaction}` was rolled back outside of streamrt: {rows} rows are missing in table {}, from \
             `{first}` to `{last}`; start from a savepoint or checkpoint before them, with `--from`, into a table without the later rows",
            self.options.table
        );
        Error::new(code::COMMIT_LOST, message)
    }

    fn read(&self, committable: &[u8]) -> Result<Promise> {
        position::read("sink `postgres`", &String::from_utf8_lossy(committable))
    }

    /// Ends a prepared transaction; false if the server does not know it.
    fn end(&mut self, how: &str, transaction: &str) -> Result<bool> {
        let sql = format!("{how} PREPARED {}", quote(transaction));
        self.server.retry(&sql, |connection| match connection.batch_execute(&sql) {
            Err(e) if e.state() == Some(&SqlState::UNDEFINED_OBJECT) => Ok(false),
            ended => ended.map(|()| true),
        })
    }

    /// Refuses a server that has no room for the transactions of this sink.
    /// What the job itself has prepared does not count: it is about to end, or belongs to sinks that are open already.
    fn check_room(&mut self, context: &OperatorContext) -> Result<()> {
        let of_job = format!("-{}-", context.job);
        let sql =
            "SELECT current_setting('max_prepared_transactions')::bigint, count(*) FROM pg_prepared_xacts WHERE position($1 IN gid) = 0";
        let (most, others) = self.server.retry("looking at max_prepared_transactions", |connection| {
            connection.query_one(sql, &[&of_job]).map(|row| (row.get::<_, i64>(0), row.get::<_, i64>(1)))
        })?;
        let needed = i64::from(context.parallelism * PREPARED_PER_SUBTASK);
        if most - others >= needed {
            return Ok(());
        }
        let message = format!(
            "max_prepared_transactions is {most} on the server, and {others} of them are taken, but this sink needs {needed}: two for each \
             of its subtasks"
        );
        Err(Error::new(code::DATABASE_SETTING, message))
    }
}

impl Sink for PostgresSink {
    fn open(&mut self, context: &OperatorContext) -> Result<()> {
        let prefix = transaction_prefix(&context.job, &context.uid);
        if prefix.len() > PREFIX_BYTES_MAX {
            let message = format!("the uid is too long for the name of a transaction, which begins with `{prefix}`");
            return Err(Error::new(code::INVALID_JOB, message));
        }
        self.server.begin(&prefix, &context.cancel);
        self.check_room(context)?;
        let table = Table::find(&mut self.server, &self.options.table, &self.schema)?;
        table.forget(&mut self.server, &prefix, REMEMBERED)?;
        self.table = Some(table);
        Ok(())
    }

    fn begin(&mut self, transaction: &str) -> Result<()> {
        assert!(!self.begun && self.text.is_empty(), "rows of two transactions would be in one");
        self.written = Promise { transaction: transaction.to_owned(), ..Promise::default() };
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        let from = self.text.len();
        let rows = CopyText::new(&batch.columns, &self.table()?.columns)?;
        rows.write(&mut self.text)?;
        let text = String::from_utf8_lossy(&self.text[from..]);
        let mut lines = text.lines().map(|line| line.chars().take(SHOWN_CHARS).collect::<String>());
        if self.written.rows == 0 {
            self.written.first = lines.clone().next().unwrap_or_default();
        }
        self.written.last = lines.next_back().unwrap_or_default();
        self.written.rows += batch.n_rows() as u64;
        if self.text.len() < COPY_BYTES { Ok(()) } else { self.copy() }
    }

    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
        if self.written.rows == 0 {
            return Ok(None);
        }
        if !self.text.is_empty() {
            self.copy()?;
        }
        let (name, note) = (self.written.transaction.clone(), self.table()?.note.clone());
        let connection = self.server.connection()?;
        let prepare = format!("PREPARE TRANSACTION {}", quote(&name));
        let prepared = connection.execute(&note, &[&name]).and_then(|_| connection.batch_execute(&prepare));
        prepared.map_err(|e| self.server.failed(&format!("preparing transaction `{name}`"), &e))?;
        self.begun = false;
        Ok(Some(position::write(&std::mem::take(&mut self.written)).into_bytes()))
    }

    fn commit(&mut self, committable: &[u8]) -> Result<()> {
        let promise = self.read(committable)?;
        if self.end("COMMIT", &promise.transaction)? {
            return Ok(());
        }
        let sql = self.table()?.is_noted.clone();
        let is_noted =
            self.server.retry("looking for a transaction", |connection| connection.query_opt(&sql, &[&promise.transaction]))?.is_some();
        if is_noted { Ok(()) } else { Err(self.lost(&promise)) }
    }

    /// Where the connection is gone, so is the transaction.
    fn abort(&mut self) -> Result<()> {
        self.text.clear();
        self.written = Promise::default();
        if std::mem::take(&mut self.begun) {
            self.server.disconnect();
        }
        Ok(())
    }

    fn abort_unlisted(&mut self, prefix: &str, keep: &[Vec<u8>]) -> Result<()> {
        let keep = keep.iter().map(|promise| Ok(self.read(promise)?.transaction)).collect::<Result<Vec<String>>>()?;
        self.server.end_others()?;
        let sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, $1)";
        let found = self.server.retry("listing prepared transactions", |connection| connection.query(sql, &[&prefix]))?;
        for transaction in found.iter().map(|row| row.get::<_, String>(0)).filter(|name| !keep.contains(name)) {
            self.end("ROLLBACK", &transaction)?;
        }
        Ok(())
    }
}
