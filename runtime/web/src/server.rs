//! Listens, and lets nobody in but programs of this machine.
//!
//! Invariant: the address is one of loopback, or a socket in a folder that its user alone can open;
//! a request names this host (a page whose name was made to lead here does not), and comes from no
//! page of another origin.

use crate::api::ClusterApi;
use crate::failed::Failed;
use crate::rest::{self, ALL_CHECKPOINTS, error};
use crate::{prometheus, v1};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use streamrt_types::{Error, Result, code};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};

/// How long the end waits for answers that are on their way.
const FAREWELL: Duration = Duration::from_secs(2);

/// Connections at the same time, fewer in tests; who comes after them waits until one is closed.
const CONNECTIONS_MAX: usize = if cfg!(test) { 64 } else { 4096 };

/// A connection on which nothing is asked for so long is closed.
const IDLE: Duration = Duration::from_secs(15);

/// How long nobody is let in after the system has refused a connection.
const REFUSED: Duration = Duration::from_millis(100);

/// Requests that wait for a disk or a job at the same time; others wait for one of them.
const WAITING_MAX: usize = 64;

/// A running server; it ends when this is dropped, with the requests that it had begun to answer.
pub struct Server {
    address: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Where it listens, with the port that the system chose if the user left that to it; None for
    /// a socket in a folder.
    pub fn address(&self) -> Option<SocketAddr> {
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

/// What requests may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// And submit jobs and command them.
    Write,
}

/// An address that is taken, and answers nobody yet.
pub struct Bound(Listener);

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// Takes `address`, as in `127.0.0.1:8081`; with port 0 the system chooses one.
    ///
    /// # Errors
    /// `Invalid` if it is no address of loopback, S3006 if the port is taken.
    pub fn new(address: &str) -> Result<Bound> {
        bind(address).map(|listener| Bound(Listener::Tcp(listener)))
    }

    /// A socket in a folder, which has to let in its user alone.
    pub fn unix(listener: UnixListener) -> Bound {
        Bound(Listener::Unix(listener))
    }

    /// Serves the interface of a cluster.
    ///
    /// # Errors
    /// If the system refuses a thread or a socket.
    pub fn serve(self, api: Arc<dyn ClusterApi>, access: Access) -> Result<Server> {
        start(self.0, routes(api, access)).map_err(fault)
    }
}

fn fault(error: std::io::Error) -> Error {
    Error::internal("the REST interface cannot be started").with_source(error)
}

fn start(listener: Listener, routes: axum::Router) -> std::io::Result<Server> {
    let address = match &listener {
        Listener::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            Some(listener.local_addr()?)
        }
        Listener::Unix(listener) => {
            listener.set_nonblocking(true)?;
            None
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(WAITING_MAX)
        .build()?;
    let (stop, stopped) = oneshot::channel();
    let body = move || {
        // That the system refuses a socket which it has made is no case to deal with.
        let _ = runtime.block_on(serve(listener, routes, stopped));
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

/// Answers until it is stopped, and a little longer to those who wait.
async fn serve(
    listener: Listener,
    routes: axum::Router,
    mut stopped: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let listener = Accepting::from_std(listener)?;
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE);
    loop {
        let next = async {
            // Never closed; who finds no room waits in the queue of the system.
            let room = room.clone().acquire_owned().await;
            (room, listener.accept().await)
        };
        let (room, accepted) = tokio::select! {
            next = next => next,
            // An error is the end of the one who would have said it.
            _ = &mut stopped => break,
        };
        let Ok(connection) = accepted else {
            // Too many files are open: others have to be closed first.
            tokio::time::sleep(REFUSED).await;
            continue;
        };
        let service = TowerToHyperService::new(routes.clone());
        let served = graceful.watch(http.serve_connection(connection, service));
        tokio::spawn(async move {
            // A connection that broke concerns nobody else.
            let _ = served.await;
            drop(room);
        });
    }
    let _ = tokio::time::timeout(FAREWELL, graceful.shutdown()).await;
    Ok(())
}

enum Accepting {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Accepting {
    fn from_std(listener: Listener) -> std::io::Result<Accepting> {
        Ok(match listener {
            Listener::Tcp(listener) => Accepting::Tcp(tokio::net::TcpListener::from_std(listener)?),
            Listener::Unix(listener) => {
                Accepting::Unix(tokio::net::UnixListener::from_std(listener)?)
            }
        })
    }

    async fn accept(&self) -> std::io::Result<TokioIo<Box<dyn Connection>>> {
        let connection: Box<dyn Connection> = match self {
            Accepting::Tcp(listener) => {
                let (connection, _) = listener.accept().await?;
                connection.set_nodelay(true)?;
                Box::new(connection)
            }
            Accepting::Unix(listener) => Box::new(listener.accept().await?.0),
        };
        Ok(TokioIo::new(connection))
    }
}

/// What is read and written.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<C: AsyncRead + AsyncWrite + Send + Unpin> Connection for C {}

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

fn routes(api: Arc<dyn ClusterApi>, access: Access) -> axum::Router {
    rest::routes()
        .route("/metrics", get(metrics))
        .merge(v1::routes(access == Access::Write))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn(guard))
        .with_state(api)
}

async fn metrics(State(api): State<Arc<dyn ClusterApi>>) -> Response {
    let with_checkpoints = |job: crate::JobDetails| {
        let checkpoints = api.checkpoints(&job.status.id, ALL_CHECKPOINTS);
        (job, checkpoints)
    };
    // One that has ended does not change any more.
    let lives = |job: &crate::JobDetails| !job.status.state.is_end();
    let jobs = api.jobs().into_iter().filter(lives);
    let jobs: Vec<_> = jobs.map(with_checkpoints).collect();
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
    let message = format!("there is nothing at {}", request.uri().path());
    refuse(request.uri().path(), StatusCode::NOT_FOUND, &message)
}

async fn wrong_method(request: Request) -> Response {
    let message = format!(
        "{} does not take the method {}",
        request.uri().path(),
        request.method()
    );
    refuse(
        request.uri().path(),
        StatusCode::METHOD_NOT_ALLOWED,
        &message,
    )
}

async fn guard(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    if let Some(why) = refusal(request.headers()) {
        return refuse(&path, StatusCode::FORBIDDEN, why);
    }
    let answer = next.run(request).await;
    let kind = answer.headers().get(header::CONTENT_TYPE);
    let is_text = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    match answer.status() {
        // Nobody here says so, but what stands between.
        status if status.is_client_error() && is_text => {
            refuse(&path, status, &format!("{path} cannot be read"))
        }
        _ => answer,
    }
}

/// In the words of those paths to which this one belongs.
fn refuse(path: &str, status: StatusCode, message: &str) -> Response {
    if path.starts_with("/v1/") {
        Failed::with_status(status, &Error::new(code::BAD_REQUEST, message)).into_response()
    } else {
        error(status, message)
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
