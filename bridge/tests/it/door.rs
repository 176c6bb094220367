use std::time::Duration;

use http::Method;
use natterjack_bridge::Caps;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::{Ask, Book, Bridge, LIMIT, Nats};

/// Sends bytes, reads until the other side closes.
pub(crate) async fn raw(bridge: &Bridge, request: &str) -> String {
    let mut stream = TcpStream::connect(bridge.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let ended = tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer))
        .await
        .expect("it was not closed");
    // Who closes before everything is read resets the connection.
    if let Err(error) = ended {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    answer
}

#[tokio::test]
async fn it_is_ready_only_when_the_log_and_the_writer_are_there() {
    let nats = Nats::start().await;
    let bridge = Bridge::start_unready(&nats, Caps::default()).await;
    let reply = bridge.get("/readyz", "").await;
    assert_eq!(reply.problem(), "broker-unavailable");
    let token = bridge.token("alice");
    assert_eq!(bridge.get("/v1/rooms", &token).await.problem(), "overloaded");

    let _book = Book::with_lobby(&nats).await;
    bridge.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert_eq!(bridge.get("/readyz", "").await.json()["ready"], true);
    assert_eq!(bridge.get("/v1/rooms", &token).await.json()["rooms"][0]["id"], "lobby");
    bridge.shutdown().await;
}

#[tokio::test]
async fn who_is_not_known_is_refused_everywhere() {
    let nats = Nats::start().await;
    let _book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let expired = bridge.token_for("alice", Duration::ZERO);
    let mut altered = bridge.token("alice");
    altered.truncate(altered.len() - 4);
    let paths = [
        "/v1/events",
        "/v1/rooms",
        "/v1/rooms/lobby",
        "/v1/rooms/lobby/messages",
        "/v1/rooms/lobby/members",
        "/v1/me",
    ];
    for path in paths {
        assert_eq!(bridge.get(path, "").await.problem(), "token-missing", "{path}");
        assert_eq!(bridge.get(path, &expired).await.problem(), "token-expired", "{path}");
        assert_eq!(bridge.get(path, &altered).await.problem(), "token-invalid", "{path}");
    }
    let body = json!({"body": {}});
    assert_eq!(
        bridge.post("/v1/rooms/lobby/messages", "", &body).await.problem(),
        "token-missing"
    );
    bridge.shutdown().await;
}

#[tokio::test]
async fn whoever_is_no_member_learns_nothing() {
    let nats = Nats::start().await;
    let _book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let erin = bridge.token("erin");
    for room in ["lobby", "no-such-room"] {
        for path in ["", "/messages", "/members", "/members/alice"] {
            let reply = bridge.get(&format!("/v1/rooms/{room}{path}"), &erin).await;
            assert_eq!(reply.problem(), "not-found", "{room}{path}");
        }
        for query in ["wait=0&cursor=", "wait=0&cursor=earliest"] {
            let reply = bridge.get(&format!("/v1/events?rooms={room}&{query}"), &erin).await;
            assert_eq!(reply.problem(), "not-found", "{room} {query}");
        }
    }
    assert_eq!(
        bridge.get("/v1/rooms", &erin).await.json(),
        json!({"rooms": [], "next": null})
    );
    let me = bridge.get("/v1/me", &erin).await.json();
    assert_eq!(
        (&me["tenant"], &me["user"], &me["role"]),
        (&"main".into(), &"erin".into(), &"member".into())
    );
    bridge.shutdown().await;
}

/// Method, path, headers, body; code, and what the detail names.
type Bad = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [u8],
    &'static str,
    &'static str,
);

const BAD: &[Bad] = &[
    ("GET", "/nowhere", &[], b"", "not-found", "path"),
    ("GET", "/v1/", &[], b"", "not-found", "path"),
    ("DELETE", "/v1/events", &[], b"", "method-not-allowed", "Allow"),
    ("PATCH", "/v1/rooms/lobby", &[], b"", "method-not-allowed", "Allow"),
    (
        "POST",
        "/v1/me",
        &[("x-http-method-override", "BREW")],
        b"",
        "invalid-request",
        "Override",
    ),
    (
        "POST",
        "/v1/me",
        &[("x-http-method-override", "DELETE")],
        b"",
        "method-not-allowed",
        "Allow",
    ),
    ("POST", "/v1/rooms/lobby/messages", &[], b"{", "invalid-request", "EOF"),
    ("POST", "/v1/rooms/lobby/messages", &[], b"", "invalid-request", "EOF"),
    (
        "POST",
        "/v1/rooms/lobby/messages",
        &[],
        b"\"hello\"",
        "invalid-request",
        "not valid",
    ),
    (
        "POST",
        "/v1/rooms/lobby/messages",
        &[],
        b"{\"body\":\"\xff\"}",
        "invalid-request",
        "unicode",
    ),
    (
        "POST",
        "/v1/rooms/lobby/messages",
        &[("content-type", "image/png")],
        b"x",
        "unsupported-media-type",
        "json",
    ),
    (
        "POST",
        "/v1/rooms/lobby/messages",
        &[("content-type", "text/plain")],
        b"\xff",
        "invalid-request",
        "UTF-8",
    ),
    (
        "POST",
        "/v1/rooms/lobby/messages?ack=disk",
        &[],
        b"{\"body\":1}",
        "invalid-request",
        "ack",
    ),
    (
        "POST",
        "/v1/rooms/a.b/messages",
        &[],
        b"{\"body\":1}",
        "invalid-request",
        "`room`",
    ),
    (
        "POST",
        "/v1/rooms/a%00b/messages",
        &[],
        b"{\"body\":1}",
        "invalid-request",
        "`room`",
    ),
    (
        "POST",
        "/v1/rooms/%3E/messages",
        &[],
        b"{\"body\":1}",
        "invalid-request",
        "`room`",
    ),
    (
        "POST",
        "/v1/rooms/%ff/messages",
        &[],
        b"{\"body\":1}",
        "invalid-request",
        "UTF-8",
    ),
    (
        "PUT",
        "/v1/rooms/lobby/messages/by-key/a",
        &[("idempotency-key", "b")],
        b"{\"body\":1}",
        "invalid-request",
        "keys",
    ),
    (
        "PUT",
        "/v1/rooms/lobby/messages/by-key/a%0Ab",
        &[],
        b"{\"body\":1}",
        "invalid-request",
        "`key`",
    ),
    (
        "GET",
        "/v1/rooms/lobby/messages?limit=0",
        &[],
        b"",
        "invalid-request",
        "`limit`",
    ),
    (
        "GET",
        "/v1/rooms/lobby/messages?limit=99999999",
        &[],
        b"",
        "invalid-request",
        "`limit`",
    ),
    (
        "GET",
        "/v1/rooms/lobby/messages?before=1&after=2",
        &[],
        b"",
        "invalid-request",
        "`before`",
    ),
    (
        "GET",
        "/v1/rooms/lobby/messages?before=x",
        &[],
        b"",
        "invalid-request",
        "`before`",
    ),
    ("GET", "/v1/events?wait=51", &[], b"", "invalid-request", "`wait`"),
    ("GET", "/v1/events?limit=1001", &[], b"", "invalid-request", "`limit`"),
    (
        "GET",
        "/v1/events?max_bytes=0",
        &[],
        b"",
        "invalid-request",
        "`max_bytes`",
    ),
    ("GET", "/v1/events?rooms=a.b", &[], b"", "invalid-request", "`rooms`"),
    ("GET", "/v1/events?cursor=junk", &[], b"", "invalid-cursor", "`cursor`"),
    ("GET", "/v1/events?cursor=%ff", &[], b"", "invalid-request", "UTF-8"),
    (
        "GET",
        "/v1/events?cursor=earliest",
        &[],
        b"",
        "invalid-request",
        "`rooms`",
    ),
    ("GET", "/v1/events?cursr=x", &[], b"", "invalid-request", "cursr"),
    ("GET", "/v1/rooms?limit=201", &[], b"", "invalid-request", "`limit`"),
    ("GET", "/v1/rooms?next=!", &[], b"", "invalid-request", "`next`"),
    ("POST", "/v1/rooms", &[], b"{\"id\":\"a b\"}", "invalid-request", "id"),
    (
        "POST",
        "/v1/rooms",
        &[],
        b"{\"kind\":\"cellar\"}",
        "invalid-request",
        "cellar",
    ),
    (
        "PUT",
        "/v1/rooms/lobby",
        &[],
        b"{\"name\":\"x\"}",
        "invalid-request",
        "name",
    ),
    (
        "PUT",
        "/v1/rooms/lobby",
        &[("content-type", "text/plain")],
        b"{}",
        "unsupported-media-type",
        "json",
    ),
    (
        "PUT",
        "/v1/rooms/lobby/members/bob",
        &[],
        b"{}",
        "invalid-request",
        "role",
    ),
    (
        "PUT",
        "/v1/rooms/lobby/members/bob",
        &[],
        b"{\"role\":null}",
        "invalid-request",
        "null",
    ),
    (
        "PUT",
        "/v1/rooms/lobby/members/b*b",
        &[],
        b"{\"role\":\"member\"}",
        "invalid-request",
        "`user`",
    ),
    ("GET", "/v1/rooms/lobby/members/carol", &[], b"", "not-found", "carol"),
];

#[tokio::test]
async fn bad_input_is_told_what_is_wrong() {
    let nats = Nats::start().await;
    let _book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let token = bridge.token("alice");
    for (method, path, headers, body, code, named) in BAD {
        let method: Method = method.parse().unwrap();
        let token = Some(token.as_str());
        let reply = bridge
            .ask(Ask {
                method,
                path,
                token,
                headers,
                body: body.to_vec(),
            })
            .await;
        assert_eq!(reply.problem(), *code, "{path}: {reply:?}");
        assert!(
            reply.json()["detail"].as_str().unwrap().contains(named),
            "{path}: {named:?} is not in {reply:?}"
        );
        assert_eq!(
            reply.headers.contains_key("allow"),
            *code == "method-not-allowed",
            "{path}: {reply:?}"
        );
    }
    for size in [64 * 1024 + 1, 1 << 20] {
        let body = json!({"body": {"text": "x".repeat(size)}});
        let reply = bridge.post("/v1/rooms/lobby/messages", &token, &body).await;
        assert_eq!(reply.problem(), "too-large");
    }
    bridge.shutdown().await;
}

#[tokio::test]
async fn every_answer_names_its_request_and_is_not_kept() {
    let nats = Nats::start().await;
    let _book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let reply = bridge
        .ask(Ask {
            path: "/livez",
            headers: &[("x-request-id", "my-1")],
            ..Ask::default()
        })
        .await;
    assert_eq!(reply.header("x-request-id"), "my-1");
    let reply = bridge
        .ask(Ask {
            path: "/nowhere",
            headers: &[("x-request-id", "a b\"")],
            ..Ask::default()
        })
        .await;
    assert_eq!(reply.problem(), "not-found");
    assert_eq!(reply.header("x-request-id").len(), 32);
    let reply = bridge.get("/v1/me", &bridge.token("alice")).await;
    assert_eq!(
        (reply.header("cache-control"), reply.header("vary")),
        ("no-store", "Accept, Authorization, Origin")
    );
    assert_eq!(reply.header("content-length"), reply.bytes.len().to_string());
    bridge.shutdown().await;
}

#[tokio::test]
async fn old_and_new_http_are_spoken() {
    let nats = Nats::start().await;
    let _book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let token = bridge.token("alice");
    let old = raw(
        &bridge,
        &format!("GET /v1/me HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n"),
    )
    .await;
    assert!(
        old.starts_with("HTTP/1.0 200 OK\r\n") && old.contains("content-length: "),
        "{old}"
    );

    let overridden = format!(
        "POST /v1/me HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-HTTP-Method-Override: GET\r\n\
         Authorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
    );
    assert!(raw(&bridge, &overridden).await.contains("\"user\":\"alice\""));

    let stream = TcpStream::connect(bridge.address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut h2, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("http://{}/livez", bridge.address));
    let answer = h2
        .send_request(request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap())
        .await
        .unwrap();
    assert_eq!(
        (answer.status(), answer.version()),
        (http::StatusCode::OK, http::Version::HTTP_2)
    );
    bridge.shutdown().await;
}

#[tokio::test]
async fn whoever_never_finishes_a_request_is_cut_off() {
    let nats = Nats::start().await;
    let bridge = Bridge::start_unready(&nats, Caps::default()).await;
    // `P` may still become HTTP/2; the second is HTTP/1 that stops in a header; the third never speaks.
    let cut = tokio::join!(
        raw(&bridge, "P"),
        raw(&bridge, "GET /livez HTTP/1.1\r\nHost: "),
        raw(&bridge, "")
    );
    assert_eq!((cut.0.as_str(), cut.2.as_str()), ("", ""));
    assert!(!cut.1.contains("200 OK"));
    bridge.shutdown().await;
}

#[tokio::test]
async fn beyond_the_connection_cap_clients_are_turned_away() {
    let nats = Nats::start().await;
    let bridge = Bridge::start_unready(
        &nats,
        Caps {
            max_connections: 2,
            ..Caps::default()
        },
    )
    .await;
    // The one that asked whether the bridge serves is one of the two.
    let _second = TcpStream::connect(bridge.address).await.unwrap();
    let answer = raw(&bridge, "").await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"code\":\"overloaded\""),
        "{answer}"
    );
    assert!(bridge.get("/livez", "").await.status.is_success());
    bridge.shutdown().await;
}
