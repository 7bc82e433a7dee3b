//! The client of the paths under `/v1`: over TCP, or over the socket of a `streamrt run`.
//!
//! A connection is one conversation: requests follow each other on it, so that the answer to the
//! last one still comes when nobody else is let in any more. A server that says nothing for as long
//! as the caller grants does not answer.

use crate::v1::{Accepted, Begun, Checkpoints, ClusterStatus, Jobs, Logs};
use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use streamrt_jobmanager::{Failure, Outcome, Specification, Trigger};
use streamrt_types::{Error, Result, code};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;

/// An answer of more bytes is none of ours.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How long the server may wait before it says that a command is still being carried out.
const WAIT: Duration = Duration::from_secs(1);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Host and port.
    Tcp(String),
    Unix(PathBuf),
}

impl Place {
    /// Reads a URL such as `http://127.0.0.1:8081`; the scheme may be left out.
    ///
    /// # Errors
    /// S6004 if it is none.
    pub fn parse(url: &str) -> Result<Place> {
        let address = url.strip_prefix("http://").unwrap_or(url);
        let address = address.trim_end_matches('/');
        let port = address
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_some() && !address.contains('/') {
            return Ok(Place::Tcp(address.to_owned()));
        }
        let message = format!("`{url}` is no address of a cluster; as in http://127.0.0.1:8081");
        Err(Error::new(code::WRONG_USE, message))
    }

    /// For messages.
    pub fn shown(&self) -> String {
        match self {
            Place::Tcp(address) => format!("http://{address}"),
            Place::Unix(path) => path.display().to_string(),
        }
    }
}

/// One connection to a server. It blocks.
pub struct Client {
    place: Place,
    /// What a page of this host would say.
    host: String,
    runtime: Runtime,
    connection: SendRequest<Full<Bytes>>,
    silence: Duration,
}

/// What was answered.
struct Answered {
    status: StatusCode,
    body: Vec<u8>,
}

impl Client {
    /// Connects. `silence` is how long the server may say nothing.
    ///
    /// # Errors
    /// S3015 if nobody listens there, S3014 if nobody answers in time.
    pub fn connect(place: Place, silence: Duration) -> Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::internal("no connection can be made").with_source(e))?;
        let connecting = async { tokio::time::timeout(silence, connect(&place)).await };
        let connection = runtime
            .block_on(connecting)
            .map_err(|_| no_answer(silence))?
            .map_err(|e| no_cluster(&place).with_source(e))?;
        let host = match &place {
            Place::Tcp(address) => address.clone(),
            Place::Unix(_) => "localhost".to_owned(),
        };
        Ok(Client {
            place,
            host,
            runtime,
            connection,
            silence,
        })
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What the cluster is and has.
    ///
    /// # Errors
    /// S3014 or S3005 if it does not answer, as for all that follow.
    pub fn cluster(&mut self) -> Result<ClusterStatus> {
        self.get("/v1/cluster")
    }

    /// All jobs.
    ///
    /// # Errors
    /// As [`Client::cluster`].
    pub fn jobs(&mut self) -> Result<Jobs> {
        self.get("/v1/jobs")
    }

    /// A job by its id.
    ///
    /// # Errors
    /// S6005 if there is none.
    pub fn job(&mut self, id: &str) -> Result<crate::JobStatus> {
        self.get(&format!("/v1/jobs/{id}"))
    }

    /// What its last checkpoints cost.
    ///
    /// # Errors
    /// S6005 if there is no such job.
    pub fn checkpoints(&mut self, id: &str, last: usize) -> Result<Checkpoints> {
        self.get(&format!("/v1/jobs/{id}/checkpoints?last={last}"))
    }

    /// The last lines that it has said.
    ///
    /// # Errors
    /// S6005 if there is no such job.
    pub fn logs(&mut self, id: &str, last: usize) -> Result<Logs> {
        self.get(&format!("/v1/jobs/{id}/logs?last={last}"))
    }

    /// Uploads a component unless it is there; true if it was not.
    ///
    /// # Errors
    /// S1020 if it is too large.
    pub fn put_component(&mut self, digest: &str, bytes: &[u8]) -> Result<bool> {
        let path = format!("/v1/components/{digest}");
        if self.ask(Method::HEAD, &path, None)?.status == StatusCode::OK {
            return Ok(false);
        }
        let body = Some(("application/wasm", bytes.to_vec()));
        let answered = self.ask(Method::PUT, &path, body)?;
        if answered.status.is_success() {
            return Ok(answered.status == StatusCode::CREATED);
        }
        Err(self.refused(&answered))
    }

    /// Submits a job, and returns its id.
    ///
    /// # Errors
    /// What the cluster says against it.
    pub fn submit(&mut self, specification: &Specification) -> Result<String> {
        let Accepted { id } = self.post("/v1/jobs", specification)?;
        Ok(id)
    }

    /// Gives a command to a job, and waits until it is carried out. `what` is the last part of the
    /// path.
    ///
    /// # Errors
    /// What the cluster says against it, or what became of it.
    pub fn command(&mut self, id: &str, what: &str, body: &impl Serialize) -> Result<Outcome> {
        let Begun { trigger } = self.post(&format!("/v1/jobs/{id}/{what}"), body)?;
        let path = format!(
            "/v1/jobs/{id}/triggers/{trigger}?wait_ms={}",
            WAIT.as_millis()
        );
        loop {
            match self.get(&path)? {
                Trigger::InProgress => {}
                Trigger::Completed(outcome) => return Ok(outcome),
                Trigger::Failed(failure) => return Err(failure.into()),
            }
        }
    }

    fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        let answered = self.ask(Method::GET, path, None)?;
        self.parse(&answered)
    }

    fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T> {
        let json = serde_json::to_vec(body)
            .map_err(|e| Error::internal("a request has no JSON").with_source(e))?;
        let answered = self.ask(Method::POST, path, Some(("application/json", json)))?;
        self.parse(&answered)
    }

    fn parse<T: DeserializeOwned>(&self, answered: &Answered) -> Result<T> {
        if !answered.status.is_success() {
            return Err(self.refused(answered));
        }
        serde_json::from_slice(&answered.body).map_err(|e| self.foreign().with_source(e))
    }

    /// What a server said that is none of ours.
    fn foreign(&self) -> Error {
        let message = format!(
            "what listens at {} is no JobManager of this version of streamrt",
            self.place.shown()
        );
        Error::new(code::NO_CLUSTER, message)
    }

    fn refused(&self, answered: &Answered) -> Error {
        serde_json::from_slice::<Failure>(&answered.body)
            .map_or_else(|_| self.foreign(), Error::from)
    }

    fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<Answered> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host);
        let bytes = match body {
            Some((kind, bytes)) => {
                request = request.header(header::CONTENT_TYPE, kind);
                bytes
            }
            None => Vec::new(),
        };
        let wrong = |e| Error::new(code::WRONG_USE, format!("`{path}` is no path")).with_source(e);
        // A megabyte has a second more.
        let limit = self.silence + Duration::from_secs(bytes.len() as u64 >> 20);
        let request = request.body(Full::new(Bytes::from(bytes))).map_err(wrong)?;
        let asking = exchange(&mut self.connection, request);
        let asking = async { tokio::time::timeout(limit, asking).await };
        match self.runtime.block_on(asking) {
            Ok(Ok(answered)) => Ok(answered),
            Ok(Err(e)) => Err(Error::new(
                code::CONNECTION_LOST,
                "the job or its cluster has ended before it answered",
            )
            .with_source(e)),
            Err(_) => Err(no_answer(limit)),
        }
    }
}

fn no_answer(silence: Duration) -> Error {
    let message = format!(
        "the job has not answered for {} s; what was asked may be done when it goes on",
        silence.as_secs_f64()
    );
    Error::new(code::NO_ANSWER, message)
}

fn no_cluster(place: &Place) -> Error {
    let message = match place {
        Place::Tcp(_) => format!(
            "no JobManager listens at {}: `streamrt jobmanager --embedded --dir DIR` starts one",
            place.shown()
        ),
        Place::Unix(_) => "the job has ended before it answered".to_owned(),
    };
    let code = match place {
        Place::Tcp(_) => code::NO_CLUSTER,
        Place::Unix(_) => code::CONNECTION_LOST,
    };
    Error::new(code, message)
}

async fn connect(place: &Place) -> io::Result<SendRequest<Full<Bytes>>> {
    match place {
        Place::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            talk(stream).await
        }
        Place::Unix(path) => talk(UnixStream::connect(path).await?).await,
    }
}

async fn talk<S>(stream: S) -> io::Result<SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let shaken = handshake(TokioIo::new(stream)).await;
    let (connection, work) = shaken.map_err(io::Error::other)?;
    // It ends with the connection; what it says is said to who asks.
    drop(tokio::spawn(work));
    Ok(connection)
}

async fn exchange(
    connection: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> std::result::Result<Answered, Box<dyn std::error::Error + Send + Sync>> {
    connection.ready().await?;
    let answer = connection.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await?.to_bytes().to_vec();
    Ok(Answered { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_urls() {
        for (url, expected) in [
            ("http://127.0.0.1:8081", Some("127.0.0.1:8081")),
            ("localhost:1/", Some("localhost:1")),
            ("http://[::1]:8081/", Some("[::1]:8081")),
            ("https://127.0.0.1:8081", None),
            ("127.0.0.1", None),
            ("http://h:1/x", None),
        ] {
            let place = Place::parse(url).ok();
            assert_eq!(
                place,
                expected.map(|address| Place::Tcp(address.into())),
                "{url}"
            );
        }
    }
}
