use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Measured, ROOM, all_at_once};

/// Sends over HTTP, one after the other on each connection, by one of the tokens each. The numbers are the connections and the
/// bytes of text.
pub(super) async fn measure(
    base: &str,
    tokens: &[String],
    (connections, size): (usize, usize),
    length: Duration,
) -> anyhow::Result<Measured> {
    let address = base.strip_prefix("http://").context("the bench speaks plain HTTP")?;
    let requests: Vec<_> = tokens.iter().map(|token| message(address, token, size)).collect();
    send_for(address, &requests, connections, length).await
}

/// A request that sends a message with so many bytes of text.
pub(super) fn message(address: &str, token: &str, size: usize) -> String {
    let body = serde_json::json!({"body": {"text": "x".repeat(size)}}).to_string();
    post(address, &format!("/v1/rooms/{ROOM}/messages"), token, &body)
}

pub(super) fn post(address: &str, path: &str, token: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends one request.
pub(super) async fn send_once(address: &str, request: &str) -> anyhow::Result<()> {
    Connection::open(address).await?.send(request.as_bytes()).await
}

/// Sends for so long, one after the other on each connection and always the same of the requests.
pub(super) async fn send_for(
    address: &str,
    requests: &[String],
    connections: usize,
    length: Duration,
) -> anyhow::Result<Measured> {
    let requests: Arc<[String]> = requests.into();
    all_at_once(connections, |number, start| {
        let (address, requests) = (address.to_owned(), Arc::clone(&requests));
        async move {
            let request = requests
                .get(number % requests.len().max(1))
                .context("nothing to send")?;
            let mut connection = Connection::open(&address).await?;
            let mut times = Vec::new();
            while start.elapsed() < length {
                let asked = Instant::now();
                connection.send(request.as_bytes()).await?;
                times.push(asked.elapsed());
            }
            Ok(times)
        }
    })
    .await
}

/// A connection as cheap as can be, because the client shares the machine with what it measures: one request is always
/// the same bytes, and of an answer only the status and the length are read.
pub(super) struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(address: &str) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(4096),
        })
    }

    pub(super) async fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.socket.write_all(request).await?;
        self.buffer.clear();
        loop {
            ensure!(
                self.socket.read_buf(&mut self.buffer).await? > 0,
                "the bridge closed a connection"
            );
            let answer = String::from_utf8_lossy(&self.buffer);
            let Some((head, body)) = answer.split_once("\r\n\r\n") else {
                continue;
            };
            if body.len() < content_length(head).context("an answer without Content-Length")? {
                continue;
            }
            ensure!(head.starts_with("HTTP/1.1 2"), "a send was refused: {answer}");
            return Ok(());
        }
    }
}

/// The length that a request or an answer says its body has.
pub(super) fn content_length(head: &str) -> Option<usize> {
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let (_, length) = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    length.trim().parse().ok()
}
