//! The connection: made when it is needed, dropped after an error of its own, and retried where
//! that does no harm.

use super::PostgresOptions;
use super::connection::{Answer, Connection, Failure, Patience};
use super::tls::{SYSTEM, Tls};
use super::url::TlsParameters;
use crate::needs::Need;
use crate::options;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use streamrt_types::{Code, Error, Result, code, murmur3_32, without_passwords};
use tokio_postgres::Config;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;

/// The number of attempts at one request to the server.
const ATTEMPTS: u32 = 5;
/// The delay before the second attempt; doubled before each further one, and up to as much again is
/// added at random.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// The time until a connection is lost whose other side does not acknowledge what was sent.
const SILENCE: Duration = Duration::from_secs(60);
/// The server ends a statement that takes too long, and its report needs a moment. It is awaited
/// this much longer.
const GRACE: Duration = Duration::from_secs(1);

/// The longest name for the connections of a sink; the server truncates longer ones.
const NAME_BYTES_MAX: usize = 63;

pub struct Server {
    config: Config,
    tls: Tls,
    /// A statement that waits longer, for a lock that somebody holds, is given up.
    statement_limit: Duration,
    cancel: Arc<AtomicBool>,
    connection: Option<Connection>,
}

/// The port of servers that name none.
const DEFAULT_PORT: u16 = 5432;

fn parse(url: &str) -> Result<(Config, TlsParameters)> {
    let (parameters, rest) = TlsParameters::take(url);
    let config = rest.parse().map_err(|e: tokio_postgres::Error| {
        let none = options::refuse(
            "postgres",
            "`url` is none, as in postgresql://user@host:5432/database",
        );
        // The library's message may contain a part of the URL.
        if without_passwords(url) == url {
            none.with_source(e)
        } else {
            none
        }
    })?;
    Ok((config, parameters))
}

/// All servers to which a connection may be made and the password may go. If a host has an address
/// in addition to its name, both count.
///
/// # Errors
/// `Invalid` if the URL cannot be read.
pub fn needs(options: &PostgresOptions) -> Result<Vec<Need>> {
    let (config, parameters) = parse(&options.url)?;
    let port = |i: usize| {
        config
            .get_ports()
            .get(i)
            .or_else(|| config.get_ports().first())
            .copied()
            .unwrap_or(DEFAULT_PORT)
    };
    let server = |i: usize, host: String| Need::Server {
        host,
        port: port(i),
        is_default_port: port(i) == DEFAULT_PORT,
        option: options.url.clone(),
    };
    let hosts = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(i, host)| match host {
            Host::Tcp(name) => server(i, name.clone()),
            Host::Unix(folder) => Need::Path(folder.to_string_lossy().into_owned()),
        });
    let addresses = config
        .get_hostaddrs()
        .iter()
        .enumerate()
        .map(|(i, address)| server(i, address.to_string()));
    let roots = parameters
        .roots
        .filter(|roots| roots != SYSTEM)
        .map(Need::Path);
    Ok(hosts.chain(addresses).chain(roots).collect())
}

/// A string in SQL, as long as `standard_conforming_strings` is on: see [`Server::connect`].
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Server {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// `Invalid` if the URL cannot be read; it is not shown, because it may hold a password.
    pub fn new(url: &str, statement_limit: Duration) -> Result<Server> {
        let (mut config, parameters) = parse(url)?;
        let tls = Tls::new(&parameters)?;
        tls.configure(&mut config);
        if let (None, Ok(password)) = (config.get_password(), std::env::var("PGPASSWORD")) {
            config.password(password);
        }
        config
            .connect_timeout(CONNECT_TIME)
            .keepalives(true)
            .keepalives_idle(SILENCE)
            .tcp_user_timeout(SILENCE);
        Ok(Server {
            config,
            tls,
            statement_limit,
            cancel: Arc::default(),
            connection: None,
        })
    }

    /// Names the connections of a sink, and sets when nobody waits for answers any more. `prefix`
    /// is that of its transactions.
    pub fn begin(&mut self, prefix: &str, cancel: &Arc<AtomicBool>) {
        // The hash distinguishes sinks whose names begin alike.
        let name: String = format!("streamrt {:08x} {prefix}", murmur3_32(prefix.as_bytes()))
            .chars()
            .take(NAME_BYTES_MAX)
            .collect();
        self.config.application_name(name);
        self.cancel = cancel.clone();
    }

    /// The connection; a new one if there is none.
    ///
    /// # Errors
    /// `Unavailable` after some attempts, `Invalid` if the server refuses the user.
    pub fn connection(&mut self) -> Result<&Connection> {
        if self.connection.is_none() {
            self.retry("connecting", |_| Ok(()))?;
        }
        self.connection
            .as_ref()
            .ok_or_else(|| Error::internal("a connection was just made"))
    }

    /// A transaction may wait between two batches as long as it likes. A backslash in a string is
    /// literal: a server with another setting would combine it with the quote after it.
    fn connect(&self) -> Answer<Connection> {
        let patience = Patience {
            limit: self.statement_limit + GRACE,
            cancel: self.cancel.clone(),
        };
        let connection = Connection::open(&self.config, &self.tls, patience, CONNECT_TIME)?;
        let limit_ms = self.statement_limit.as_millis();
        connection.batch_execute(&format!(
            "SET standard_conforming_strings = on; SET statement_timeout = {limit_ms}; SET idle_in_transaction_session_timeout = 0"
        ))?;
        Ok(connection)
    }

    /// Does what may be repeated, over a new connection if necessary.
    ///
    /// # Errors
    /// `Unavailable` if the server still does not answer after some attempts, or has hung for too
    /// long; other errors at once.
    pub fn retry<T>(
        &mut self,
        what: &str,
        question: impl Fn(&Connection) -> Answer<T>,
    ) -> Result<T> {
        let mut attempt = 1;
        loop {
            let connection = match self.connection.take() {
                Some(connection) => Ok(connection),
                None => self.connect(),
            };
            let answer =
                connection.and_then(|connection| question(self.connection.insert(connection)));
            match answer {
                Ok(answer) => return Ok(answer),
                Err(e) if attempt == ATTEMPTS || !may_pass(&e) => return Err(self.failed(what, &e)),
                Err(_) => self.connection = None,
            }
            std::thread::sleep(pause_after(attempt));
            attempt += 1;
        }
    }

    /// Ends the connections that earlier attempts at this sink have left behind, and waits until
    /// they are gone. A hanging one may have been sent a PREPARE that it carries out when it
    /// continues, after everybody has looked for such transactions.
    ///
    /// # Errors
    /// `Unavailable` if one of them does not end.
    pub fn end_others(&mut self) -> Result<()> {
        const SQL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = current_user AND \
                           application_name = current_setting('application_name') AND pid <> pg_backend_pid()";
        let began = Instant::now();
        loop {
            let n_others: i64 = self
                .retry("ending connections of before", |connection| {
                    connection.query_one(SQL, &[])
                })?
                .get(0);
            if n_others == 0 {
                return Ok(());
            }
            if began.elapsed() > self.statement_limit {
                let message = format!(
                    "{n_others} connections that this sink had before do not end, and may hold open transactions"
                );
                return Err(Error::new(code::DATABASE, message));
            }
            std::thread::sleep(FIRST_PAUSE / 10);
        }
    }

    /// Drops the connection, and with it the open transaction.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// What failed, where, and in the server's own words.
    pub fn failed(&mut self, what: &str, failure: &Failure) -> Error {
        self.connection = None;
        Error::new(code_of(failure), format!("{what} failed: {failure}"))
    }
}

/// Whether it may help to ask again at once. A request that has used up its time gets no more.
fn may_pass(failure: &Failure) -> bool {
    let is_over =
        matches!(failure, Failure::Silent(_)) || failure.state() == Some(&SqlState::QUERY_CANCELED);
    code_of(failure) == code::DATABASE && !is_over
}

/// With jitter, so that subtasks that failed together do not return together.
fn pause_after(attempt: u32) -> Duration {
    let pause = FIRST_PAUSE * 2u32.pow(attempt - 1);
    pause
        + Duration::from_millis(
            RandomState::new().hash_one(attempt) % pause.as_millis().max(1) as u64,
        )
}

/// What to do about a failure; if the server says why, by the class of its SQLSTATE.
pub fn code_of(failure: &Failure) -> Code {
    if failure.of_tls().is_some() {
        return code::DATABASE_ACCESS;
    }
    let Some(state) = failure.state() else {
        return match failure {
            Failure::Cancelled => code::CANCELLED,
            Failure::System(_) => code::INTERNAL,
            Failure::Refused(_) | Failure::Silent(_) => code::DATABASE,
        };
    };
    if *state == SqlState::INSUFFICIENT_PRIVILEGE {
        return code::DATABASE_ACCESS;
    }
    match state.code().get(..2).unwrap_or_default() {
        "28" | "3D" => code::DATABASE_ACCESS,
        "22" | "23" | "44" => code::ROW_REFUSED,
        "42" => code::SCHEMA_MISMATCH,
        _ => code::DATABASE,
    }
}
