//! The limit: HTTP bodies into frames, frames into a stream, and nothing else. No rights, no keys, no numbers, no rooms.

use std::time::Duration;

use anyhow::Context;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::http::{self, content_length};
use super::{Measured, SUBJECT};

/// Bodies that may wait.
const WAITING: usize = 16 * 1024;
/// What a frame takes at most, as the writer's do.
const FRAME_EVENTS: usize = 1024;
const FRAME_BYTES: usize = 512 * 1024;
/// What a body takes beside its text.
const ENVELOPE: usize = 64;

/// A body, and where the sequence of its frame goes.
type Job = (Bytes, oneshot::Sender<u64>);

/// Measures it with the same sends as the project. The stream must be new.
pub(super) async fn measure(
    client: &Client,
    connections: usize,
    size: usize,
    length: Duration,
) -> anyhow::Result<Measured> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let (sender, jobs) = mpsc::channel(WAITING);
    let nobody = ["none".to_owned()];
    let mut running = JoinSet::new();
    let most = FRAME_EVENTS.min(FRAME_BYTES / (size + ENVELOPE)).max(1);
    running.spawn(append(client.clone(), jobs, most));
    running.spawn(accept(listener, sender));
    tokio::select! {
        measured = http::measure(&base, &nobody, (connections, size), length) => measured,
        Some(ended) = running.join_next() => Err(match ended? {
            Err(error) => error,
            Ok(()) => anyhow::anyhow!("the bare appender stopped"),
        }),
    }
}

/// One frame in flight; what comes meanwhile is the next.
async fn append(client: Client, mut jobs: mpsc::Receiver<Job>, most: usize) -> anyhow::Result<()> {
    let mut gathered = Vec::with_capacity(most);
    let mut last = 0;
    while jobs.recv_many(&mut gathered, most).await > 0 {
        let mut frame = Vec::new();
        for (body, _) in &gathered {
            frame.extend_from_slice(body);
            frame.push(b'\n');
        }
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("bench-{last}").as_str());
        headers.insert("Nats-Expected-Last-Sequence", last.to_string().as_str());
        let ack = client.request_with_headers(SUBJECT, headers, frame.into()).await?;
        let ack: serde_json::Value = serde_json::from_slice(&ack.payload)?;
        last = ack
            .get("seq")
            .and_then(serde_json::Value::as_u64)
            .filter(|seq| *seq == last + 1)
            .with_context(|| format!("a frame was refused: {ack}"))?;
        for (_, answer) in gathered.drain(..) {
            // Whoever asked may be gone.
            let _ = answer.send(last);
        }
    }
    Ok(())
}

async fn accept(listener: TcpListener, jobs: mpsc::Sender<Job>) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        connections.spawn(serve(socket, jobs.clone()));
    }
}

/// Answers one request after the other, until the client is gone.
async fn serve(mut socket: TcpStream, jobs: mpsc::Sender<Job>) -> Option<()> {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        buffer.clear();
        let body = loop {
            if socket.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
            let request = str::from_utf8(&buffer).ok()?;
            let Some((head, body)) = request.split_once("\r\n\r\n") else {
                continue;
            };
            if body.len() >= content_length(head)? {
                break Bytes::copy_from_slice(body.as_bytes());
            }
        };
        let (answer, seq) = oneshot::channel();
        jobs.send((body, answer)).await.ok()?;
        let text = format!("{{\"seq\":{}}}", seq.await.ok()?);
        let answer = format!("HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        socket.write_all(answer.as_bytes()).await.ok()?;
    }
}
