//! One connection: which HTTP it speaks, and how long it may keep us waiting.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1::UpgradeableConnection;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::Front;
use super::serve::Stay;
use super::stall::{self, Streams};
use crate::metrics::Metrics;
use crate::tls::Tls;

/// How long a client has for a request's head, from the moment it connects or the answer before it.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may take to read on when it has not read what was sent: then it is cut off, and resumes by its
/// cursor. Without this, each of them could hold a page's bytes for ever. With HTTP/2 the same for each stream.
const READ_ON_WITHIN: Duration = Duration::from_secs(30);
/// How often an HTTP/2 client is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(30);
/// The largest head of a request: a token of some KiB, and room.
const MAX_HEAD_BYTES: u32 = 64 * 1024;
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// What one of them may have waiting for a client that does not read, in bytes; the default is 400 KB.
const STREAM_BUFFER: usize = 64 * 1024;
/// When it is looked at again what a client says that has begun with less than a word.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// What an HTTP/2 client says first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the tasks of the connections share.
pub(super) struct Shared {
    pub(super) front: Front,
    pub(super) builders: Builders,
    pub(super) tls: Option<Arc<Tls>>,
    /// Finish what is under way, take nothing new.
    pub(super) drain: CancellationToken,
    /// Stop at once.
    pub(super) kill: CancellationToken,
}

/// How each version of HTTP is spoken.
pub(super) struct Builders {
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

impl Shared {
    pub(super) async fn connection(self: Arc<Self>, stream: TcpStream, stay: Stay) {
        // Answers are small and somebody waits for each.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "nodelay");
        }
        let Some(tls) = &self.tls else {
            if let Some(Some(version)) = self.first_word(spoken(&stream)).await {
                self.serve(cut_if_unread(stream), version, stay).await;
            } else {
                // What is left unread would turn the end into a reset.
                let _ = stream.try_read(&mut [0; PREFACE.len()]);
            }
            return;
        };
        // In a box: without TLS nothing of it is kept for each connection.
        let handshake = Box::pin(tls.acceptor.accept(cut_if_unread(stream)));
        match self.first_word(handshake).await {
            Some(Ok(stream)) => {
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let version = if is_http2 { Version::Http2 } else { Version::Http1 };
                Box::pin(self.serve(stream, version, stay)).await;
            }
            Some(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            None => tracing::debug!("a TLS handshake was not finished in time"),
        }
    }

    /// Waits for a client that has asked nothing yet: for so long, and not while the bridge stops.
    async fn first_word<T>(&self, word: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            word = tokio::time::timeout(HEAD_WITHIN, word) => word.ok(),
            () = self.drain.cancelled() => None,
        }
    }

    async fn serve<S>(&self, stream: S, version: Version, stay: Stay)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let spoke = Arc::new(AtomicBool::new(false));
        let service = {
            let (front, spoke) = (self.front.clone(), Arc::clone(&spoke));
            service_fn(move |mut request: Request<Incoming>| {
                spoke.store(true, Ordering::Relaxed);
                request.extensions_mut().insert(stay.clone());
                let front = front.clone();
                async move { Ok::<_, Infallible>(stall::watched(front.handle(request.map(Body::new)).await)) }
            })
        };
        let io = TokioIo::new(stream);
        // Each in a box of its own: there are many of the first, which must not keep room for the others.
        match version {
            Version::Http1 => {
                let mut connection = Box::pin(self.builders.http1.serve_connection(io, service).with_upgrades());
                let drain = |connection: Pin<&mut UpgradeableConnection<_, _>>| connection.graceful_shutdown();
                self.drive(connection.as_mut(), drain, &spoke).await;
            }
            Version::Http2 => {
                let mut connection = Box::pin(self.builders.http2.serve_connection(io, service));
                let drain = |connection: Pin<&mut http2::Connection<_, _, _>>| connection.graceful_shutdown();
                self.drive(connection.as_mut(), drain, &spoke).await;
            }
        }
    }

    /// Serves a connection to its end: its own, or ours.
    async fn drive<C>(&self, mut connection: Pin<&mut C>, drain: impl FnOnce(Pin<&mut C>), spoke: &AtomicBool)
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let mut drain = Some(drain);
        // HTTP/1 has this limit itself; with HTTP/2 there may be no request for ever.
        let silence = tokio::time::sleep(HEAD_WITHIN);
        tokio::pin!(silence);
        let mut is_silent = true;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection broke");
                    }
                    return;
                }
                () = silence.as_mut(), if is_silent => {
                    if !spoke.load(Ordering::Relaxed) {
                        return;
                    }
                    is_silent = false;
                }
                () = self.drain.cancelled(), if drain.is_some() => {
                    if let Some(drain) = drain.take() {
                        drain(connection.as_mut());
                    }
                }
                () = self.kill.cancelled() => return,
            }
        }
    }
}

/// A connection that breaks when its client takes in nothing for long.
fn cut_if_unread(stream: TcpStream) -> Pin<Box<TimeoutStream<TcpStream>>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(READ_ON_WITHIN));
    Box::pin(stream)
}

/// What a client speaks, by what it says first; `None` if it says nothing and leaves.
async fn spoken(stream: &TcpStream) -> Option<Version> {
    let mut first = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut first).await.ok().filter(|count| *count > 0)?;
        if let Some(version) = version(first.get(..count)?) {
            return Some(version);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// `None` if more has to be said.
fn version(said: &[u8]) -> Option<Version> {
    if said == PREFACE {
        Some(Version::Http2)
    } else if PREFACE.starts_with(said) {
        None
    } else {
        Some(Version::Http1)
    }
}

impl Builders {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let streams = Streams::new(READ_ON_WITHIN, metrics.streams_cut.clone());
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(MAX_HEAD_BYTES as usize)
            .keep_alive(true);
        let mut http2 = http2::Builder::new(streams);
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD_BYTES)
            .max_concurrent_streams(MAX_STREAMS)
            .max_send_buf_size(STREAM_BUFFER)
            .keep_alive_interval(Some(PING_EVERY))
            .keep_alive_timeout(HEAD_WITHIN);
        Self { http1, http2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spoken_shows_by_the_first_bytes() {
        for (said, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Version::Http1)),
            (b"PUT / HTTP/1.1\r\n", Some(Version::Http1)),
            (b"PRI * HTTP/1.1\r\n", Some(Version::Http1)),
            (b"P", None),
            (b"PRI * HTTP/2.0\r\n", None),
            (PREFACE, Some(Version::Http2)),
        ] {
            assert_eq!(version(said), expected, "{said:?}");
        }
    }
}
