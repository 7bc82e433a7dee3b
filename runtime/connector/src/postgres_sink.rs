//! The sink `postgres`: the rows that a subtask writes between two checkpoints are one transaction
//! of the server.
//!
//! 1. The transaction begins with its first rows, which go into the table by COPY, one batch of
//!    text at a time.
//! 2. `pre_commit` records the transaction's name in the table `streamrt_transactions`, within the
//!    transaction, and prepares it: from then on it outlives connection, process and server.
//! 3. `commit` is COMMIT PREPARED. If the server does not know the transaction, it was committed
//!    before, and then its name is in that table; or somebody has rolled it back, and its rows are
//!    lost, which is reported with their range.
//! 4. What no promise names is rolled back by `abort_unlisted`; a transaction that was not prepared
//!    ends with its connection.
//!
//! Names of transactions are kept for [`REMEMBERED`], so a job can start from a savepoint with
//! promises for that long.
//!
//! No request waits for its answer for ever (`connection.rs`): a server that hangs costs the
//! attempt, and the next one first ends the connections that the previous one left there.
//!
//! A row that the table refuses is subject to the job's poison policy: it is found (`rows.rs`), and
//! skipped or named. To continue without it, each COPY has a savepoint, but only under the policy
//! `skip`; under the others the transaction is lost anyway, and the row is looked for in another
//! one.
//!
//! A lost connection costs the open transaction, and so the attempt; commits and clean-up are tried
//! again. TLS is as `url` says (`tls.rs`).

mod connection;
mod copy_text;
mod rows;
mod server;
mod table;
mod tls;
mod url;

use crate::{options, position};
use arrow_schema::SchemaRef;
use bytes::Bytes;
use connection::Failure;
use rows::Waiting;
use serde::{Deserialize, Serialize};
pub use server::needs;
use server::{Server, quote};
use std::time::Duration;
use streamrt_operator::{DeadLetter, OperatorContext, Sink, TaskMetrics, json, transaction_prefix};
use streamrt_types::{Batch, Error, PoisonPolicy, Result, code, parse_duration_ms};
use table::Table;
use tokio_postgres::error::SqlState;

/// Options of the sink `postgres`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PostgresOptions {
    /// `postgresql://user@host:5432/database`, or `host=/run/postgresql user=me dbname=database`,
    /// with `sslmode` and `sslrootcert` as libpq has them. The variable `PGPASSWORD` gives the
    /// password if the URL has none.
    pub url: String,
    /// The table, `results` or `schema.results`: the one with exactly this name, otherwise the one
    /// that SQL means by it. It must exist; columns are found by name.
    pub table: String,
    /// How long the server may take for one statement, as in `60s`, which is the default. After
    /// that the transaction is given up, and the job fails or restarts. At least 1 s.
    #[serde(default)]
    pub timeout: Option<String>,
}

/// The limit for one statement, if the options do not set it.
const STATEMENT_TIME: Duration = Duration::from_secs(60);
const STATEMENT_TIMES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// Bytes of text that gather before they are sent.
const COPY_BYTES: usize = 256 << 10;

/// How long names of transactions are kept.
const REMEMBERED: &str = "30 days";

/// The server's limit for names of prepared transactions is 199 bytes; generation, subtask and
/// number need some after the prefix.
const PREFIX_BYTES_MAX: usize = 150;

/// The number of characters of a row that a promise keeps.
const SHOWN_CHARS: usize = 200;

/// The number of prepared transactions that a subtask may have at once: one that waits for its
/// commit, and the next one.
const PREPARED_PER_SUBTASK: u32 = 2;

/// The savepoint around each COPY, if rows may be skipped.
const SAVEPOINT: &str = "SAVEPOINT rows";
const RELEASE: &str = "RELEASE SAVEPOINT rows";
const ROLLBACK_TO: &str = "ROLLBACK TO SAVEPOINT rows";

/// One subtask's writer.
pub struct PostgresSink {
    server: Server,
    options: PostgresOptions,
    schema: SchemaRef,
    /// Known once the sink is open.
    table: Option<Table>,
    /// What was written since `begin`.
    written: Promise,
    waiting: Waiting,
    /// Known once the sink is open.
    context: Option<OperatorContext>,
    /// Whether the transaction is open on the server.
    begun: bool,
}

/// What `pre_commit` promises: that the server holds the prepared transaction, or has committed it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Promise {
    transaction: String,
    rows: u64,
    /// The first and the last row, their columns separated by tabs, by which to find them if the
    /// transaction is lost.
    first: String,
    last: String,
}

fn is_refusal(failure: &Failure) -> bool {
    server::code_of(failure) == code::ROW_REFUSED
}

/// Whether a transaction is one that a sink of this uid began, for whichever job:
/// `UID-JOB-GENERATION-SUBTASK-NUMBER`.
fn is_of(transaction: &str, uid: &str) -> bool {
    let parts: Vec<&str> = transaction.split('-').collect();
    let [_, job, numbers @ ..] = &parts[..] else {
        return false;
    };
    let is_number =
        |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = job.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_plain
        && transaction.starts_with(&transaction_prefix(job, uid))
        && numbers.len() == 3
        && numbers.iter().all(is_number)
}

impl PostgresOptions {
    fn statement_limit(&self) -> Result<Duration> {
        let Some(text) = &self.timeout else {
            return Ok(STATEMENT_TIME);
        };
        let limit = Duration::from_millis(
            parse_duration_ms("timeout", text)
                .map_err(|e| options::refuse("postgres", e.message()))?,
        );
        if STATEMENT_TIMES.contains(&limit) {
            Ok(limit)
        } else {
            Err(options::refuse(
                "postgres",
                "`timeout` must be from 1s to 24h",
            ))
        }
    }
}

impl PostgresSink {
    /// # Errors
    /// `Invalid` if the URL cannot be read.
    pub fn new(options: PostgresOptions, schema: SchemaRef) -> Result<PostgresSink> {
        if options.table.is_empty() {
            return Err(options::refuse(
                "postgres",
                "`table` is empty, but it must name a table",
            ));
        }
        let server = Server::new(&options.url, options.statement_limit()?)?;
        Ok(PostgresSink {
            server,
            options,
            schema,
            table: None,
            written: Promise::default(),
            waiting: Waiting::default(),
            context: None,
            begun: false,
        })
    }

    fn table(&self) -> Result<&Table> {
        self.table
            .as_ref()
            .ok_or_else(|| Error::internal("a sink is opened before it is used"))
    }

    fn context(&self) -> Result<&OperatorContext> {
        self.context
            .as_ref()
            .ok_or_else(|| Error::internal("a sink is opened before it is used"))
    }

    fn skips(&self) -> bool {
        self.context
            .as_ref()
            .is_some_and(|context| context.configuration.poison_policy == PoisonPolicy::Skip)
    }

    /// Sends the rows that have gathered.
    fn copy(&mut self) -> Result<()> {
        let (sql, skips) = (self.table()?.copy.clone(), self.skips());
        let mut waiting = std::mem::take(&mut self.waiting);
        let text = Bytes::from(std::mem::take(&mut waiting.text));
        let connection = self.server.connection()?;
        let begun = std::mem::replace(&mut self.begun, true);
        let begin = [(!begun, "BEGIN; "), (skips, SAVEPOINT)];
        let begin: String = begin
            .into_iter()
            .filter_map(|(is_due, sql)| is_due.then_some(sql))
            .collect();
        let is_ready = if begin.is_empty() {
            Ok(())
        } else {
            connection.batch_execute(&begin)
        };
        let copied = is_ready.and_then(|()| connection.copy(&sql, text.clone()));
        match copied {
            Ok(()) if skips => connection
                .batch_execute(RELEASE)
                .map_err(|e| self.failed(&e)),
            Ok(()) => Ok(()),
            Err(failure) if is_refusal(&failure) => self.isolate(&waiting, &text, failure),
            Err(failure) => Err(self.failed(&failure)),
        }
    }

    fn failed(&mut self, failure: &Failure) -> Error {
        self.server
            .failed(&format!("writing to table {}", self.options.table), failure)
    }

    /// Finds the rows that the server refuses, and sends the others. Under a policy other than
    /// `skip` the first of them ends the job.
    fn isolate(&mut self, waiting: &Waiting, text: &Bytes, failure: Failure) -> Result<()> {
        // What came before is kept if possible; otherwise the rows are looked for in a transaction
        // that is rolled back.
        let again = if self.skips() {
            ROLLBACK_TO
        } else {
            "ROLLBACK; BEGIN; SAVEPOINT rows"
        };
        let first = self.failed_words(&failure);
        self.execute(again)?;
        let starts = rows::line_starts(text);
        let mut work = vec![(0..starts.len() - 1, Some(failure))];
        while let Some((lines, failure)) = work.pop() {
            let part = rows::lines(text, &starts, &lines);
            let refused = match failure {
                Some(failure) => Err(failure),
                None => self.try_copy(part)?,
            };
            match refused {
                Ok(()) => {}
                Err(failure) if lines.len() == 1 => {
                    self.refuse_line(waiting, lines.start, &failure)?
                }
                Err(failure) => work.extend(
                    rows::cut(&lines, failure.line())
                        .into_iter()
                        .rev()
                        .map(|part| (part, None)),
                ),
            }
        }
        // Each row alone is accepted: the problem is in their combination, or with those before
        // them, and then the server's own message counts.
        if self.skips() {
            Ok(())
        } else {
            Err(Error::new(code::ROW_REFUSED, first))
        }
    }

    fn failed_words(&self, failure: &Failure) -> String {
        format!("writing to table {} failed: {failure}", self.options.table)
    }

    fn execute(&mut self, sql: &str) -> Result<()> {
        let done = self.server.connection()?.batch_execute(sql);
        done.map_err(|e| self.failed(&e))
    }

    /// The inner error is the server's refusal; the transaction is as it was then.
    fn try_copy(&mut self, text: Bytes) -> Result<Result<(), Failure>> {
        let sql = self.table()?.copy.clone();
        let copied = self.server.connection()?.copy(&sql, text);
        match copied {
            Ok(()) => self
                .execute("RELEASE SAVEPOINT rows; SAVEPOINT rows")
                .map(Ok),
            Err(failure) if is_refusal(&failure) => {
                self.execute(ROLLBACK_TO).map(|()| Err(failure))
            }
            Err(failure) => Err(self.failed(&failure)),
        }
    }

    fn refuse_line(&mut self, waiting: &Waiting, line: usize, failure: &Failure) -> Result<()> {
        let (batch, row) = waiting
            .row(line)
            .ok_or_else(|| Error::internal("a line of a COPY has no row"))?;
        self.written.rows = self.written.rows.saturating_sub(1);
        self.refuse(batch, row, &failure.to_string())
    }

    /// Applies the job's policy to a row that cannot be written.
    fn refuse(&self, batch: &Batch, row: usize, reason: &str) -> Result<()> {
        let context = self.context()?;
        let position = batch.origin.as_ref().map_or(String::new(), |origin| {
            format!("{} line {}", origin.split, origin.position(row))
        });
        let (record, table) = (json::row(&batch.columns, row), &self.options.table);
        let message = format!("table {table} does not take the row: {reason}");
        if !self.skips() {
            let place = if position.is_empty() {
                String::new()
            } else {
                format!(" ({position})")
            };
            return Err(Error::new(
                code::ROW_REFUSED,
                format!("{message}: {record}{place}"),
            ));
        }
        TaskMetrics::add(&context.metrics.dead_letters, 1);
        let (uid, time_ms) = (
            context.uid.to_string(),
            batch.times().map(|times| times[row]),
        );
        (context.dead_letters)(DeadLetter {
            uid,
            code: code::ROW_REFUSED.id,
            message,
            position,
            record,
            time_ms,
            ..DeadLetter::default()
        })
    }

    /// The transaction is neither prepared nor committed.
    fn lost(&self, promise: &Promise) -> Error {
        let Promise {
            transaction,
            rows,
            first,
            last,
        } = promise;
        let message = format!(
            "the prepared transaction `{transaction}` was rolled back outside of streamrt: {rows} rows are missing in table {}, from \
             `{first}` to `{last}`; start from a savepoint or checkpoint before them, with `--from`, into a table without the later rows",
            self.options.table
        );
        Error::new(code::COMMIT_LOST, message)
    }

    /// # Errors
    /// `Data` (S7001) if it promises a transaction that no sink with this uid can have begun: it
    /// would be somebody else's.
    fn read(&self, committable: &[u8]) -> Result<Promise> {
        let text = String::from_utf8_lossy(committable);
        let promise: Promise = position::read("sink `postgres`", &text)?;
        let is_ours = self
            .context
            .as_ref()
            .is_none_or(|context| is_of(&promise.transaction, &context.uid));
        if is_ours {
            Ok(promise)
        } else {
            Err(position::damaged("sink `postgres`", &text))
        }
    }

    /// Ends a prepared transaction; false if the server does not know it.
    fn end(&mut self, how: &str, transaction: &str) -> Result<bool> {
        let sql = format!("{how} PREPARED {}", quote(transaction));
        self.server
            .retry(&sql, |connection| match connection.batch_execute(&sql) {
                Err(e) if e.state() == Some(&SqlState::UNDEFINED_OBJECT) => Ok(false),
                ended => ended.map(|()| true),
            })
    }

    /// Refuses a server that has no room for the transactions of this sink. What the job itself has
    /// prepared does not count: it is about to end, or belongs to sinks that are open already.
    fn check_room(&mut self, context: &OperatorContext) -> Result<()> {
        let of_job = format!("-{}-", context.job);
        let sql = "SELECT current_setting('max_prepared_transactions')::bigint, count(*) FROM pg_prepared_xacts WHERE position($1 IN gid) = 0";
        let (most, others) =
            self.server
                .retry("looking at max_prepared_transactions", |connection| {
                    connection
                        .query_one(sql, &[&of_job])
                        .map(|row| (row.get::<_, i64>(0), row.get::<_, i64>(1)))
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
            let message = format!(
                "the uid is too long for the name of a transaction, which begins with `{prefix}`"
            );
            return Err(Error::new(code::INVALID_JOB, message));
        }
        self.server.begin(&prefix, &context.cancel);
        self.check_room(context)?;
        let table = Table::find(&mut self.server, &self.options.table, &self.schema)?;
        table.forget(&mut self.server, &prefix, REMEMBERED)?;
        (self.table, self.context) = (Some(table), Some(context.clone()));
        Ok(())
    }

    fn begin(&mut self, transaction: &str) -> Result<()> {
        assert!(
            !self.begun && self.waiting.text.is_empty(),
            "rows of two transactions would be in one"
        );
        self.written = Promise {
            transaction: transaction.to_owned(),
            ..Promise::default()
        };
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        let from = self.waiting.text.len();
        let table = self
            .table
            .as_ref()
            .ok_or_else(|| Error::internal("a sink is opened before it is used"))?;
        let refused = self.waiting.add(batch, &table.columns)?;
        let text = String::from_utf8_lossy(&self.waiting.text[from..]);
        let mut lines = text
            .lines()
            .map(|line| line.chars().take(SHOWN_CHARS).collect::<String>());
        if self.written.rows == 0 {
            self.written.first = lines.clone().next().unwrap_or_default();
        }
        self.written.last = lines.next_back().unwrap_or_default();
        self.written.rows += (batch.n_rows() - refused.len()) as u64;
        for refused in refused {
            let column = batch
                .columns
                .schema_ref()
                .field(refused.column)
                .name()
                .clone();
            self.refuse(
                batch,
                refused.row,
                &format!("column `{column}` {}", refused.why),
            )?;
        }
        if self.waiting.text.len() < COPY_BYTES {
            Ok(())
        } else {
            self.copy()
        }
    }

    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
        if !self.waiting.text.is_empty() {
            self.copy()?;
        }
        // None of the rows that came may be left.
        if self.written.rows == 0 {
            return self.abort().map(|()| None);
        }
        let (name, note) = (self.written.transaction.clone(), self.table()?.note.clone());
        let connection = self.server.connection()?;
        let prepare = format!("PREPARE TRANSACTION {}", quote(&name));
        let prepared = connection
            .execute(&note, &[&name])
            .and_then(|_| connection.batch_execute(&prepare));
        prepared.map_err(|e| {
            self.server
                .failed(&format!("preparing transaction `{name}`"), &e)
        })?;
        self.begun = false;
        Ok(Some(
            position::write(&std::mem::take(&mut self.written)).into_bytes(),
        ))
    }

    fn commit(&mut self, committable: &[u8]) -> Result<()> {
        let promise = self.read(committable)?;
        if self.end("COMMIT", &promise.transaction)? {
            return Ok(());
        }
        let sql = self.table()?.is_noted.clone();
        let is_noted = self
            .server
            .retry("looking for a transaction", |connection| {
                connection.query_opt(&sql, &[&promise.transaction])
            })?
            .is_some();
        if is_noted {
            Ok(())
        } else {
            Err(self.lost(&promise))
        }
    }

    /// If the connection is gone, so is the transaction.
    fn abort(&mut self) -> Result<()> {
        self.waiting.clear();
        self.written = Promise::default();
        if std::mem::take(&mut self.begun) {
            self.server.disconnect();
        }
        Ok(())
    }

    fn abort_unlisted(&mut self, prefix: &str, keep: &[Vec<u8>]) -> Result<()> {
        let keep = keep
            .iter()
            .map(|promise| Ok(self.read(promise)?.transaction))
            .collect::<Result<Vec<String>>>()?;
        self.server.end_others()?;
        let sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, $1)";
        let found = self
            .server
            .retry("listing prepared transactions", |connection| {
                connection.query(sql, &[&prefix])
            })?;
        for transaction in found
            .iter()
            .map(|row| row.get::<_, String>(0))
            .filter(|name| !keep.contains(name))
        {
            self.end("ROLLBACK", &transaction)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_names_transactions_of_its_sink_alone() {
        assert!(is_of("out-1a2b3c4d-1-0-17", "out") && is_of("my%20out-x-1-0-0", "my out"));
        for foreign in [
            "",
            "theirs",
            "out",
            "out-1a2b3c4d",
            "out-x-1-0",
            "out-x-1-0-a",
            "out-x-1-0-1-1",
            "other-x-1-0-0",
            "out-x'; DROP-1-0-0",
        ] {
            assert!(!is_of(foreign, "out"), "{foreign}");
        }
    }
}
