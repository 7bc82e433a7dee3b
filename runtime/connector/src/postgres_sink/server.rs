//! The connection: made when it is needed, given up after an error of its own, and tried again where that does no harm.

use crate::options;
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use streamrt_types::{Code, Error, Result, code};

/// Of one question to the server.
const ATTEMPTS: u32 = 5;
/// Before the second attempt; doubled before each further one, and up to as much again is added at random.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Without an answer to what was sent for so long the connection is lost.
const SILENCE: Duration = Duration::from_secs(60);

/// A statement that waits longer, for a lock that somebody holds, is given up. A transaction may wait between two batches as long as it likes.
const SETTINGS: &str = "SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = 0; SET application_name = 'streamrt'";

pub struct Server {
    config: Config,
    client: Option<Client>,
}

/// A string in SQL.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Server {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// `Invalid` if the URL cannot be read; it is not shown, because it may hold a password.
    pub fn new(url: &str) -> Result<Server> {
        let mut config: Config = url.parse().map_err(|e: postgres::Error| {
            options::refuse("postgres", "`url` is none, as in postgresql://user@host:5432/database").with_source(e)
        })?;
        if let (None, Ok(password)) = (config.get_password(), std::env::var("PGPASSWORD")) {
            config.password(password);
        }
        config.connect_timeout(CONNECT_TIME).keepalives(true).keepalives_idle(SILENCE).tcp_user_timeout(SILENCE);
        Ok(Server { config, client: None })
    }

    /// The connection; a new one if there is none.
    ///
    /// # Errors
    /// `Unavailable` after some attempts, `Invalid` if the server refuses the user.
    pub fn client(&mut self) -> Result<&mut Client> {
        if self.client.is_none() {
            self.retry("connecting", |_| Ok(()))?;
        }
        self.client.as_mut().ok_or_else(|| Error::internal("a connection was just made"))
    }

    fn connect(&self) -> Result<Client, postgres::Error> {
        let mut client = self.config.connect(NoTls)?;
        client.batch_execute(SETTINGS)?;
        Ok(client)
    }

    /// Does what may be done again, over a new connection if need be.
    ///
    /// # Errors
    /// `Unavailable` if the server still does not answer after some attempts, else at once.
    pub fn retry<T>(&mut self, what: &str, question: impl Fn(&mut Client) -> Result<T, postgres::Error>) -> Result<T> {
        let mut attempt = 1;
        loop {
            let answer = match self.client.take() {
                Some(client) => Ok(client),
                None => self.connect(),
            };
            let answer = answer.and_then(|client| question(self.client.insert(client)));
            match answer {
                Ok(answer) => return Ok(answer),
                Err(e) if attempt == ATTEMPTS || code_of(&e) != code::DATABASE => return Err(self.failed(what, &e)),
                Err(_) => self.client = None,
            }
            std::thread::sleep(pause_after(attempt));
            attempt += 1;
        }
    }

    /// Gives the connection up, and with it the transaction that is open.
    pub fn disconnect(&mut self) {
        self.client = None;
    }

    /// What failed, where, and in the server's own words.
    pub fn failed(&mut self, what: &str, error: &postgres::Error) -> Error {
        self.client = None;
        Error::new(code_of(error), format!("{what} failed: {}", words(error)))
    }
}

/// With jitter, so that subtasks that failed together do not come back together.
fn pause_after(attempt: u32) -> Duration {
    let pause = FIRST_PAUSE * 2u32.pow(attempt - 1);
    pause + Duration::from_millis(RandomState::new().hash_one(attempt) % pause.as_millis().max(1) as u64)
}

fn words(error: &postgres::Error) -> String {
    let Some(said) = error.as_db_error() else {
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        return causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    };
    let more = [said.detail(), said.hint(), said.where_()].into_iter().flatten();
    std::iter::once(said.message()).chain(more).map(|text| text.replace('\n', ", ")).collect::<Vec<_>>().join("; ")
}

/// What is to be done about an error, by the class of its SQLSTATE.
fn code_of(error: &postgres::Error) -> Code {
    let Some(state) = error.code() else { return code::DATABASE };
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
