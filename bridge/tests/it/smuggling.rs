//! Requests of which a proxy in front could think that they end elsewhere: whatever it passes on behind them is never taken
//! for a request of its own.

use futures_util::future::join_all;
use natterjack_bridge::Caps;

use super::door::raw;
use super::support::{Book, Bridge, Nats};

/// What a proxy could pass on as part of the first request, and what would be answered if it were a request.
const SMUGGLED: &str = "GET /v1/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

/// Heads of a `POST` whose body is not clear, what follows the head, and whether it must be refused outright.
const UNCLEAR: &[(&str, &str, bool)] = &[
    // CL.TE, TE.CL: the body by the one ends before what is smuggled, by the other behind it.
    (
        "Content-Length: 45\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
        false,
    ),
    (
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "0\r\n\r\n",
        false,
    ),
    (
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "1\r\nx\r\n0\r\n\r\n",
        false,
    ),
    // Codings that one side may not know for `chunked`.
    ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", true),
    ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n", true),
    (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "0\r\n\r\n",
        true,
    ),
    ("Transfer-Encoding: identity\r\nContent-Length: 0\r\n", "", true),
    ("Transfer-Encoding:\r\nContent-Length: 0\r\n", "", true),
    ("Transfer-Encoding: \u{b}chunked\r\nContent-Length: 0\r\n", "", true),
    ("Transfer-Encoding: \"chunked\"\r\nContent-Length: 0\r\n", "", true),
    // Lengths.
    ("Content-Length: 0\r\nContent-Length: 45\r\n", "", true),
    ("Content-Length: 45\r\nContent-Length: 0\r\n", "", true),
    ("Content-Length: 0, 45\r\n", "", true),
    ("Content-Length: +0\r\n", "", true),
    ("Content-Length: -0\r\n", "", true),
    ("Content-Length: 0x0\r\n", "", true),
    ("Content-Length: 0 0\r\n", "", true),
    ("Content-Length: 18446744073709551616\r\n", "", true),
    ("Content-Length:\r\n", "", true),
    // Names and lines.
    ("Content-Length : 0\r\n", "", true),
    ("X: y\r\n Content-Length: 45\r\n", "", true),
    (" Content-Length: 45\r\n", "", true),
    ("X: y\rContent-Length: 45\r\n", "", true),
    ("X: \0\r\n", "", true),
    ("Content-Length\r\n", "", true),
    (": 45\r\n", "", true),
    ("Content\u{a0}Length: 0\r\n", "", true),
    // Sizes of chunks.
    ("Transfer-Encoding: chunked\r\n", "0x0\r\n\r\n", true),
    ("Transfer-Encoding: chunked\r\n", "-1\r\n\r\n", true),
    ("Transfer-Encoding: chunked\r\n", "+0\r\n\r\n", true),
    ("Transfer-Encoding: chunked\r\n", "\r\n0\r\n\r\n", true),
    ("Transfer-Encoding: chunked\r\n", "g\r\n\r\n", true),
    ("Transfer-Encoding: chunked\r\n", "10000000000000000\r\n\r\n", true),
    ("Transfer-Encoding: chunked\r\n", "1\r\nxy0\r\n\r\n", true),
    ("Transfer-Encoding: chunked\r\n", "1\nx\n0\n\n", true),
    ("Transfer-Encoding: chunked\r\n", "1;a\nb\r\nx\r\n0\r\n\r\n", true),
    // Hosts.
    ("Content-Length: 0\r\nHost: y\r\n", "", true),
];

/// The statuses of the answers in what came back.
fn statuses(answers: &str) -> Vec<&str> {
    let mut parts = answers.split("HTTP/1.1 ");
    parts.next();
    parts.map(|answer| &answer[..3]).collect()
}

#[tokio::test]
async fn what_follows_an_unclear_request_is_never_one_of_its_own() {
    let nats = Nats::start().await;
    let _book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let token = bridge.token("alice");
    let start = format!("POST /v1/rooms/lobby/typing HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n");
    let asked = UNCLEAR.iter().map(async |(unclear, body, must_be_refused)| {
        let answers = raw(&bridge, &format!("{start}{unclear}\r\n{body}{SMUGGLED}")).await;
        let statuses = statuses(&answers);
        assert!(statuses.len() <= 1, "{unclear:?} {body:?}: two answers: {answers}");
        assert!(!answers.contains("404 Not Found"), "{unclear:?} {body:?}: {answers}");
        if *must_be_refused {
            assert_ne!(
                statuses.first().copied(),
                Some("200"),
                "{unclear:?} {body:?}: {answers}"
            );
        }
    });
    // At once: some are bodies that do not end, which are waited for.
    join_all(asked).await;
    // What is clear is served on one connection, also behind chunks whose trailer looks like a length: the second answer is
    // the one of nowhere.
    let chunks = "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\nContent-Length: 45\r\n\r\n";
    let clear = format!("{start}{chunks}{SMUGGLED}GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answers = raw(&bridge, &clear).await;
    assert_eq!(statuses(&answers)[1..], ["404", "200"], "{answers}");
    bridge.shutdown().await;
}

/// First lines that are none, or not of a version that is spoken here.
const FIRST_LINES: &[&str] = &[
    "GET  /livez HTTP/1.1",
    "GET /livez  HTTP/1.1",
    "GET /livez HTTP/1.2",
    "GET /livez HTTP/11",
    "GET /livez http/1.1",
    "GET /li vez HTTP/1.1",
    "GET /livez\tHTTP/1.1",
    "GET /livez",
    "G\0T /livez HTTP/1.1",
    "\u{feff}GET /livez HTTP/1.1",
];

#[tokio::test]
async fn a_first_line_that_is_none_ends_the_connection() {
    let nats = Nats::start().await;
    let bridge = Bridge::start_unready(&nats, Caps::default()).await;
    for line in FIRST_LINES {
        let answers = raw(&bridge, &format!("{line}\r\nHost: x\r\n\r\n{SMUGGLED}")).await;
        assert!(
            !answers.contains("200 OK") && statuses(&answers).len() <= 1,
            "{line:?}: {answers}"
        );
    }
    for hosts in ["", "Host: x\r\nHost: x\r\n"] {
        let answers = raw(
            &bridge,
            &format!("GET /livez HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n"),
        )
        .await;
        assert_eq!(statuses(&answers), ["400"], "{hosts:?}: {answers}");
    }
    bridge.shutdown().await;
}
