use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long a request may take unless it says otherwise: a bridge tries for 10 s to bring a send to the writer.
const LIMIT: Duration = Duration::from_secs(13);
const CONNECT: Duration = Duration::from_secs(3);

/// A user who speaks HTTP to one bridge over one connection, which is kept while it works.
pub(crate) struct Http {
    address: SocketAddr,
    token: String,
    limit: Duration,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

/// No answer came.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// Nothing was sent: there was no connection.
    NotSent,
    /// It may have been received.
    Unknown,
}

impl Http {
    pub(crate) fn new(address: SocketAddr, token: String) -> Self {
        Self {
            address,
            token,
            limit: LIMIT,
            connection: None,
        }
    }

    /// The same for who waits longer than usual for an answer: a poll.
    pub(crate) fn patient(self, more: Duration) -> Self {
        Self {
            limit: self.limit + more,
            ..self
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer, NoAnswer> {
        self.call(Method::GET, path, "").await
    }

    pub(crate) async fn call(&mut self, method: Method, path: &str, body: &str) -> Result<Answer, NoAnswer> {
        self.call_with_key(method, path, body, None).await
    }

    /// Sends a request and waits for its answer. The connection is given up when that fails.
    pub(crate) async fn call_with_key(
        &mut self,
        method: Method,
        path: &str,
        body: &str,
        key: Option<&str>,
    ) -> Result<Answer, NoAnswer> {
        let request = self.request(method, path, body, key).map_err(|_| NoAnswer::NotSent)?;
        let mut connection = match self.connection.take().filter(|kept| !kept.is_closed()) {
            Some(kept) => kept,
            None => match tokio::time::timeout(CONNECT, connect(self.address)).await {
                Ok(Ok(new)) => new,
                Ok(Err(_)) | Err(_) => return Err(NoAnswer::NotSent),
            },
        };
        let exchange = async {
            let response = connection.send_request(request).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<Answer, hyper::Error>(Answer { status, body })
        };
        let Ok(Ok(answer)) = tokio::time::timeout(self.limit, exchange).await else {
            return Err(NoAnswer::Unknown);
        };
        self.connection = Some(connection);
        Ok(answer)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: &str,
        key: Option<&str>,
    ) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        request
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .context("the request is not of the right form")
    }
}

async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an HTTP connection ended");
        }
    });
    sender.ready().await?;
    Ok(sender)
}
