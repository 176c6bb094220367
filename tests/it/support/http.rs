use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::time::Duration;

use super::contract;
use tokio::net::TcpStream;

/// The longest a poll is parked, and some more.
const LIMIT: Duration = Duration::from_secs(90);

/// A user who speaks HTTP: a connection for each request, which ends when nobody waits for it any more.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    address: String,
    token: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Http {
    pub(crate) fn new(url: &str, token: Option<&str>) -> Self {
        let address = url.strip_prefix("http://").expect("plain HTTP").to_owned();
        Self {
            address,
            token: token.map(str::to_owned),
        }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], Bytes::new()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, &[], Bytes::new()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path, &[], body.to_string().into()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, &[], body.to_string().into()).await
    }

    /// Sends a text to a room and gives the receipt.
    pub(crate) async fn say(&self, room: &str, text: &str) -> Value {
        let body = serde_json::json!({"body": {"text": text}});
        self.post(&format!("/v1/rooms/{room}/messages"), &body).await.created()
    }

    /// A request that must be answered.
    pub(crate) async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let what = format!("{method} {path}");
        self.try_call(method, path, headers, body)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error:#}"))
    }

    /// A request to a server that may be gone.
    pub(crate) async fn try_call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.address);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if !body.is_empty() && !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        let (method, path) = (asked_for(&request), path.to_owned());
        let answer = tokio::time::timeout(LIMIT, exchange(&self.address, request)).await??;
        // What a browser asks first is no method of the API.
        if method != Method::OPTIONS {
            contract::check(&method, &path, &answer);
        }
        Ok(answer)
    }
}

/// The method that is meant.
fn asked_for(request: &Request<Full<Bytes>>) -> Method {
    let meant = request.headers().get("x-http-method-override");
    meant.map_or(request.method().clone(), |meant| {
        meant.to_str().unwrap().parse().unwrap()
    })
}

async fn exchange(address: &str, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        anyhow::Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = answer.as_mut() => answer,
        ended = connection => {
            // The answer may have come with the end of the connection.
            tokio::time::timeout(Duration::from_secs(1), answer).await.unwrap_or_else(|_| {
                ended?;
                anyhow::bail!("the connection ended without an answer")
            })
        }
    }
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The JSON of an answer that must be 200.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// The JSON of an answer that must be 201.
    pub(crate) fn created(&self) -> Value {
        assert_eq!(self.status, 201, "{self:?}");
        self.json()
    }

    /// Looks that this is a well-formed problem of this status and code.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str) {
        let content_type = self.headers.get("content-type").map(|value| value.to_str().unwrap());
        assert_eq!(content_type, Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(
            (self.status, problem["code"].as_str()),
            (status, Some(code)),
            "{problem}"
        );
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["retryable"], matches!(status, 429 | 503), "{problem}");
        for text in ["type", "title", "detail", "request_id"] {
            assert!(
                problem[text].as_str().is_some_and(|text| !text.is_empty()),
                "{text} is missing: {problem}"
            );
        }
    }

    /// The exact text of each entry of a list in the body.
    pub(crate) fn lines(&self, list: &str) -> Vec<String> {
        #[derive(Deserialize)]
        struct Lists<'a>(#[serde(borrow)] HashMap<&'a str, &'a RawValue>);
        let Lists(lists) = serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let entries: Vec<&RawValue> = serde_json::from_str(lists[list].get()).unwrap();
        entries.into_iter().map(|entry| entry.get().to_owned()).collect()
    }
}
