use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use natterjack_nats_config::contract::{Problem, ProblemCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{Front, HttpDoor};
use crate::metrics::UnderWay;

/// How long a client has for a request's head, from the moment it connects or the answer before it.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may take to read on when it has not read what was sent: then it is cut off, and resumes by its
/// cursor. Without this, each of them could hold a page's bytes for ever.
const READ_ON_WITHIN: Duration = Duration::from_secs(30);
/// How long requests under way have when the bridge stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// The largest head of a request: a token of some KiB, and room.
const MAX_HEAD_BYTES: u32 = 64 * 1024;
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// What one of them may have waiting for a client that does not read, in bytes; the default is 400 KB.
const STREAM_BUFFER: usize = 64 * 1024;
/// Waiting when no connection can be accepted, for example because the process has no file descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a connection keeps that becomes a WebSocket: its place among the connections, and a mark by which a stop waits for
/// it. It is with every request.
#[derive(Clone)]
pub(super) struct Stay(Arc<Held>);

struct Held {
    _place: OwnedSemaphorePermit,
    _counted: UnderWay,
    _mark: TaskTrackerToken,
    kill: CancellationToken,
}

/// What the tasks of the connections share.
struct Shared {
    front: Front,
    builder: Builder<TokioExecutor>,
    /// Finish what is under way, take nothing new.
    drain: CancellationToken,
    /// Stop at once.
    kill: CancellationToken,
}

impl HttpDoor {
    /// Accepts connections until `stop`, then lets what is under way finish within ten seconds.
    pub(crate) async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(self.max_connections));
        let shared = Arc::new(Shared {
            front: self.front,
            builder: builder(),
            drain: stop.clone(),
            kill: CancellationToken::new(),
        });
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                        let stay = Stay(Arc::new(Held {
                            _place: place,
                            _counted: shared.front.metrics.connected(),
                            _mark: connections.token(),
                            kill: shared.kill.clone(),
                        }));
                        connections.spawn(Arc::clone(&shared).connection(stream, stay));
                    } else {
                        shared.front.metrics.turned_away.inc();
                        turn_away(&stream);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
        drop(listener);
        connections.close();
        if tokio::time::timeout(DRAIN_WITHIN, connections.wait()).await.is_err() {
            tracing::warn!(
                connections = connections.len(),
                "closing connections that did not finish in time"
            );
        }
        shared.kill.cancel();
        connections.wait().await;
    }
}

impl Stay {
    /// Does something for as long as there is time for it when the bridge stops.
    pub(super) async fn during(self, work: impl Future<Output = ()>) {
        tokio::select! {
            () = work => {}
            () = self.0.kill.cancelled() => {}
        }
    }
}

impl Shared {
    async fn connection(self: Arc<Self>, stream: TcpStream, stay: Stay) {
        // Answers are small and somebody waits for each.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "nodelay");
        }
        let spoke = Arc::new(AtomicBool::new(false));
        let service = {
            let (front, spoke) = (self.front.clone(), Arc::clone(&spoke));
            service_fn(move |mut request: Request<Incoming>| {
                spoke.store(true, Ordering::Relaxed);
                request.extensions_mut().insert(stay.clone());
                let front = front.clone();
                async move { Ok::<_, Infallible>(front.handle(request.map(Body::new)).await) }
            })
        };
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(READ_ON_WITHIN));
        let io = TokioIo::new(Box::pin(stream));
        let connection = self.builder.serve_connection_with_upgrades(io, service);
        tokio::pin!(connection);
        // The header timeout begins when it is known whether this is HTTP/1 or 2; until then this one counts.
        let silence = tokio::time::sleep(HEAD_WITHIN);
        tokio::pin!(silence);
        let (mut is_silent, mut is_draining) = (true, false);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(error, "a connection broke");
                    }
                    return;
                }
                () = silence.as_mut(), if is_silent => {
                    if !spoke.load(Ordering::Relaxed) {
                        return;
                    }
                    is_silent = false;
                }
                () = self.drain.cancelled(), if !is_draining => {
                    is_draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.kill.cancelled() => return,
            }
        }
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD_BYTES as usize)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(STREAM_BUFFER)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(HEAD_WITHIN);
    builder
}

/// Tells a client for which there is no place to come back later; as far as that goes without waiting for it.
fn turn_away(stream: &TcpStream) {
    let problem = Problem::new(
        ProblemCode::Overloaded,
        "too many connections; come back in a few seconds",
    )
    .to_json();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 3\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        problem.len()
    );
    let answer = [head.as_bytes(), problem.as_slice()].concat();
    if let Err(error) = stream.try_write(&answer) {
        tracing::debug!(%error, "a client was turned away without a word");
    }
}
