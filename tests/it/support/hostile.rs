//! Clients that want a bridge to keep something for them for ever. Each returns when it has been cut.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::crowd::metric;
use super::http::Http;

/// How often those who are slow send a byte.
const DRIP: Duration = Duration::from_millis(500);
/// Requests that are answered with more than all buffers between hold.
const MANY: usize = 400;
/// HTTP/2 streams of one connection.
const STREAMS: usize = 20;
/// The smallest window that a connection can have, in bytes (RFC 9113 §6.9.2).
const SMALLEST: u32 = 65_535;
/// The largest answer that needs no token: tens of KiB.
const LARGE: &str = "/openapi.json";

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hostile {
    /// Says nothing.
    Silent,
    /// A header without an end.
    SlowHead,
    /// A body, byte by byte.
    SlowBody,
    /// Asks, and does not read.
    NonReader,
    /// HTTP/2 with windows that are shut from the beginning, and pings that are answered.
    ShutWindow,
    /// HTTP/2 with windows that are opened by a little and never again.
    NarrowWindow,
    /// HTTP/2 without reading on, until the whole connection's window is used up.
    UsedUpWindow,
}

/// All of them.
pub(crate) const HOSTILE: [Hostile; 7] = [
    Hostile::Silent,
    Hostile::SlowHead,
    Hostile::SlowBody,
    Hostile::NonReader,
    Hostile::ShutWindow,
    Hostile::NarrowWindow,
    Hostile::UsedUpWindow,
];

impl Hostile {
    /// The HTTP/2 streams that are cut at least; the first may be answered before the window is used up.
    pub(crate) fn cut(self) -> usize {
        match self {
            Self::ShutWindow | Self::NarrowWindow => STREAMS,
            Self::UsedUpWindow => STREAMS / 2,
            Self::Silent | Self::SlowHead | Self::SlowBody | Self::NonReader => 0,
        }
    }

    /// Does it, until it is cut; `all` are the streams that are cut of everybody.
    pub(crate) async fn attack(self, address: &str, token: &str, all: usize) {
        let post = "POST /v1/rooms/lobby/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n";
        match self {
            Self::Silent => drip(address, "", "").await,
            Self::SlowHead => drip(address, "GET /livez HTTP/1.1\r\nHost: x\r\n", "X: y\r\n").await,
            Self::SlowBody => drip(address, &format!("{post}Authorization: Bearer {token}\r\n\r\n"), " ").await,
            Self::NonReader => ask_and_not_read(address).await,
            Self::ShutWindow => shut(address, 0, all).await,
            Self::NarrowWindow => shut(address, 1000, all).await,
            Self::UsedUpWindow => shut(address, 1 << 20, all).await,
        }
    }
}

/// Sends a little again and again; whatever comes back is read.
async fn drip(address: &str, first: &str, again: &str) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(first.as_bytes()).await.unwrap();
    let (mut reads, mut writes) = stream.split();
    let reading = async {
        let mut some = [0; 4096];
        while matches!(reads.read(&mut some).await, Ok(count) if count > 0) {}
    };
    let writing = async {
        while writes.write_all(again.as_bytes()).await.is_ok() {
            tokio::time::sleep(DRIP).await;
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

async fn ask_and_not_read(address: &str) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let requests = format!("GET {LARGE} HTTP/1.1\r\nHost: x\r\n\r\n").repeat(MANY);
    // The other side takes in no more when it cannot get rid of its answers, and then it is gone.
    while stream.write_all(requests.as_bytes()).await.is_ok() {}
}

/// Opens as many streams as it may and reads nothing of them, until enough of them are reset; each by itself.
async fn shut(address: &str, window: u32, all: usize) {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(window)
        .initial_connection_window_size(SMALLEST);
    let (mut client, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut bodies = Vec::new();
    for _ in 0..STREAMS {
        let request = Request::get(format!("http://{address}{LARGE}"));
        client.ready().await.unwrap();
        let answer = client.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await;
        bodies.push(answer.unwrap().into_body());
    }
    // Looking at a body would give it room: what hyper's client reads, it asks more for.
    streams_are_cut(address, all).await;
    let mut reset = 0;
    for body in bodies {
        reset += usize::from(body.collect().await.is_err());
    }
    assert!(reset >= STREAMS / 2, "{reset} of {STREAMS} streams were reset");
    client.ready().await.expect("the connection is still there");
}

/// Waits until the bridge has cut so many streams.
async fn streams_are_cut(address: &str, count: usize) {
    let http = Http::new(&format!("http://{address}"), None);
    let cut = async || metric(&http.get("/metrics").await.body, "natterjack_http_streams_cut_total");
    while cut().await < count as u64 {
        tokio::time::sleep(DRIP).await;
    }
}
