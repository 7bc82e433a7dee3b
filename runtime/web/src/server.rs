//! Listens, and lets nobody in but programs of this machine.
//!
//! Invariant: the address is one of loopback; a request names this host (a page whose name was made
//! to lead here does not), and comes from no page of another origin.

use crate::api::ClusterApi;
use crate::prometheus;
use crate::rest::{self, ALL_CHECKPOINTS, error};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;
use streamrt_types::{Error, Result, code};
use tokio::sync::oneshot;

/// A running server; it ends when this is dropped.
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Where it listens, with the port that the system chose if the user left that to it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to lose: what it was asked is of no use to anybody any more.
            let _ = thread.join();
        }
    }
}

/// An address that is taken, and answers nobody yet.
pub struct Bound(TcpListener);

impl Bound {
    /// Takes `address`, as in `127.0.0.1:8081`; with port 0 the system chooses one.
    ///
    /// # Errors
    /// `Invalid` if it is no address of loopback, S3006 if the port is taken.
    pub fn new(address: &str) -> Result<Bound> {
        bind(address).map(Bound)
    }

    /// Serves the interface of a cluster.
    ///
    /// # Errors
    /// If the system refuses a thread or a socket.
    pub fn serve(self, api: Arc<dyn ClusterApi>) -> Result<Server> {
        self.0
            .set_nonblocking(true)
            .and_then(|()| start(self.0, api))
            .map_err(fault)
    }
}

fn fault(error: std::io::Error) -> Error {
    Error::internal("the REST interface cannot be started").with_source(error)
}

fn start(listener: TcpListener, api: Arc<dyn ClusterApi>) -> std::io::Result<Server> {
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let (stop, stopped) = oneshot::channel();
    let body = move || {
        runtime.block_on(async {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
                return;
            };
            // It ends with the runtime.
            drop(tokio::spawn(async {
                axum::serve(listener, routes(api)).await
            }));
            let _ = stopped.await;
        });
        runtime.shutdown_background();
    };
    let thread = std::thread::Builder::new()
        .name("rest".into())
        .spawn(body)?;
    Ok(Server {
        address,
        stop: Some(stop),
        thread: Some(thread),
    })
}

fn bind(address: &str) -> Result<TcpListener> {
    let refuse = |what: &str| {
        Error::new(
            code::WRONG_USE,
            format!("`{address}` {what}; as in 127.0.0.1:8081"),
        )
    };
    let resolved = address
        .to_socket_addrs()
        .map_err(|_| refuse("is no address and port"))?;
    let resolved = resolved
        .into_iter()
        .next()
        .ok_or_else(|| refuse("is no address"))?;
    if !resolved.ip().is_loopback() {
        return Err(refuse(
            "can be reached from other machines, and the REST interface asks nobody who they are: it listens on loopback alone",
        ));
    }
    TcpListener::bind(resolved).map_err(|e| match e.kind() {
        ErrorKind::AddrInUse => Error::new(
            code::PORT_IN_USE,
            format!("{resolved} is taken by another program; port 0 takes one that is free"),
        )
        .with_source(e),
        _ => Error::new(code::FILE_IO, format!("nothing can listen at {resolved}")).with_source(e),
    })
}

fn routes(api: Arc<dyn ClusterApi>) -> axum::Router {
    rest::routes()
        .route("/metrics", get(metrics))
        .fallback(nothing_here)
        .method_not_allowed_fallback(only_get)
        .layer(from_fn(guard))
        .with_state(api)
}

async fn metrics(State(api): State<Arc<dyn ClusterApi>>) -> Response {
    let with_checkpoints = |job: crate::JobDetails| {
        let checkpoints = api.checkpoints(&job.id, ALL_CHECKPOINTS);
        (job, checkpoints)
    };
    let jobs: Vec<_> = api.jobs().into_iter().map(with_checkpoints).collect();
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        prometheus::text(&jobs),
    )
        .into_response()
}

async fn nothing_here(request: Request) -> Response {
    error(
        StatusCode::NOT_FOUND,
        &format!("there is nothing at {}", request.uri().path()),
    )
}

async fn only_get(request: Request) -> Response {
    error(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("{} can only be read, with GET", request.uri().path()),
    )
}

async fn guard(request: Request, next: Next) -> Response {
    match refusal(request.headers()) {
        Some(why) => error(StatusCode::FORBIDDEN, why),
        None => next.run(request).await,
    }
}

/// Why a request with these headers gets no answer.
fn refusal(headers: &HeaderMap) -> Option<&'static str> {
    let text =
        |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let host = text(header::HOST).unwrap_or("");
    if !is_this_host(host) {
        return Some("the request names another host than this one");
    }
    let is_foreign = |origin: &str| origin.strip_prefix("http://") != Some(host);
    text(header::ORIGIN)
        .filter(|origin| is_foreign(origin))
        .map(|_| "the request comes from a page of another origin")
}

fn is_this_host(host: &str) -> bool {
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|digit| digit.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
