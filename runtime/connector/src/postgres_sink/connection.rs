//! One connection to the server, on which every request ends: with an answer, at a time limit, or
//! with the job's attempt.
//!
//! The server's own `statement_timeout` ends what waits for a lock. It does not help if the server
//! itself hangs, or has been cut off in such a way that its machine still acknowledges what is
//! sent; so the limit is watched on this side as well.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Error, Row};

use super::tls::{self, Tls};

/// How often a waiter checks whether it still should wait.
const LOOK: Duration = Duration::from_millis(20);

/// Values of a statement.
type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// How long an answer is awaited.
#[derive(Debug, Clone)]
pub struct Patience {
    pub limit: Duration,
    /// The attempt ends, and nobody wants the answer any more.
    pub cancel: Arc<AtomicBool>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The server has refused, or the connection is lost.
    Refused(Error),
    /// Nothing has come within the limit. The server may still do what it was asked.
    Silent(Duration),
    Cancelled,
    /// This machine is short of something.
    System(std::io::Error),
}

pub type Answer<T> = Result<T, Failure>;

/// A connection; closed when it is dropped, with the runtime that drives it.
pub struct Connection {
    runtime: Runtime,
    client: Client,
    patience: Patience,
}

impl Connection {
    pub fn open(
        config: &Config,
        tls: &Tls,
        patience: Patience,
        connect_limit: Duration,
    ) -> Answer<Connection> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::System)?;
        let for_connecting = Patience {
            limit: connect_limit.min(patience.limit),
            ..patience.clone()
        };
        let connect =
            |config: &Config| wait(&runtime, &for_connecting, config.connect(tls.clone()));
        let connected = match connect(config) {
            Err(Failure::Refused(error)) => tls
                .without(config, &error)
                .map_or_else(|| Err(Failure::Refused(error)), |plain| connect(&plain)),
            connected => connected,
        };
        let (client, driver) = connected?;
        // The client's next request gets its error.
        runtime.spawn(async move { driver.await.unwrap_or(()) });
        Ok(Connection {
            runtime,
            client,
            patience,
        })
    }

    fn wait<T>(&self, question: impl Future<Output = Result<T, Error>>) -> Answer<T> {
        wait(&self.runtime, &self.patience, question)
    }

    pub fn batch_execute(&self, sql: &str) -> Answer<()> {
        self.wait(self.client.batch_execute(sql))
    }

    pub fn execute(&self, sql: &str, values: Values<'_>) -> Answer<u64> {
        self.wait(self.client.execute(sql, values))
    }

    pub fn query(&self, sql: &str, values: Values<'_>) -> Answer<Vec<Row>> {
        self.wait(self.client.query(sql, values))
    }

    pub fn query_one(&self, sql: &str, values: Values<'_>) -> Answer<Row> {
        self.wait(self.client.query_one(sql, values))
    }

    pub fn query_opt(&self, sql: &str, values: Values<'_>) -> Answer<Option<Row>> {
        self.wait(self.client.query_opt(sql, values))
    }

    /// Carries out a COPY from this side.
    pub fn copy(&self, sql: &str, text: Bytes) -> Answer<()> {
        self.wait(async {
            let mut copy = pin!(self.client.copy_in(sql).await?);
            // `finish` reports what the server refuses, and a lost connection as well.
            copy.send(text).await.ok();
            copy.finish().await.map(drop)
        })
    }
}

fn wait<T>(
    runtime: &Runtime,
    patience: &Patience,
    question: impl Future<Output = Result<T, Error>>,
) -> Answer<T> {
    let began = Instant::now();
    runtime.block_on(async {
        let mut question = pin!(question);
        loop {
            match tokio::time::timeout(LOOK, &mut question).await {
                Ok(answer) => return answer.map_err(Failure::Refused),
                Err(_) if patience.cancel.load(Ordering::Relaxed) => {
                    return Err(Failure::Cancelled);
                }
                Err(_) if began.elapsed() >= patience.limit => {
                    return Err(Failure::Silent(patience.limit));
                }
                Err(_) => {}
            }
        }
    })
}

impl Failure {
    /// The server's name for the error.
    pub fn state(&self) -> Option<&SqlState> {
        match self {
            Failure::Refused(error) => error.code(),
            _ => None,
        }
    }

    /// The line of a COPY that the server names, from 1; the server names it in the language to
    /// which it is set.
    pub fn line(&self) -> Option<usize> {
        let Failure::Refused(error) = self else {
            return None;
        };
        let (_, behind) = error.as_db_error()?.where_()?.split_once(", line ")?;
        let digits = behind
            .find(|c: char| !c.is_ascii_digit())
            .map_or(behind, |end| &behind[..end]);
        digits.parse().ok()
    }

    /// Why TLS could not be agreed on, if that is what failed.
    pub fn of_tls(&self) -> Option<String> {
        match self {
            Failure::Refused(error) => tls::cause(error),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(error) => {
                f.write_str(&tls::cause(error).unwrap_or_else(|| words(error)))
            }
            Failure::Silent(limit) => write!(
                f,
                "the server has not answered for {:.1} s",
                limit.as_secs_f64()
            ),
            Failure::Cancelled => f.write_str("the job ends, and waits no longer for the server"),
            Failure::System(error) => write!(f, "no connection can be set up here: {error}"),
        }
    }
}

fn words(error: &Error) -> String {
    let Some(said) = error.as_db_error() else {
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| {
            error.source()
        });
        return causes
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(": ");
    };
    let more = [said.detail(), said.hint(), said.where_()]
        .into_iter()
        .flatten();
    std::iter::once(said.message())
        .chain(more)
        .map(|text| text.replace('\n', ", "))
        .collect::<Vec<_>>()
        .join("; ")
}
