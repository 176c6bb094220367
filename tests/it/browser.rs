//! What browsers and whoever watches a bridge need of it: CORS by list, request ids, metrics.

use bytes::Bytes;
use hyper::Method;
use serde_json::json;

use crate::support::eventually;
use crate::support::house::House;
use crate::support::http::{Answer, Http};
use crate::support::poll::Poll;
use crate::support::script::Script;
use crate::support::stream::{Raw, ask};

const LISTED: &str = "https://chat.example";

async fn with_origin(http: &Http, method: Method, path: &str, origin: &str) -> Answer {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    http.call(method, path, &headers, Bytes::new()).await
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_pages_may_read_answers() {
    let house = House::start_with([("NATTERJACK_BRIDGE__ORIGINS", r#"["https://chat.example"]"#)]).await;
    let (bob, nobody) = (house.http("bob"), Http::new(&house.endpoints.http, None));
    let asked = with_origin(&nobody, Method::OPTIONS, "/v1/rooms/lobby", LISTED).await;
    assert_eq!(asked.status, 200, "{asked:?}");
    assert_eq!(header(&asked, "access-control-allow-origin"), Some(LISTED));
    for (name, what) in [
        ("access-control-allow-methods", "PUT"),
        ("access-control-allow-headers", "idempotency-key"),
        ("access-control-max-age", "600"),
    ] {
        assert!(
            header(&asked, name).is_some_and(|value| value.contains(what)),
            "{name}: {asked:?}"
        );
    }
    assert_eq!(header(&asked, "access-control-allow-credentials"), None);
    // Refusals too, so that a page can read why.
    for (http, path, status) in [
        (&bob, "/v1/me", 200),
        (&nobody, "/v1/me", 401),
        (&bob, "/v1/nothing", 404),
    ] {
        let answer = with_origin(http, Method::GET, path, LISTED).await;
        assert_eq!(answer.status, status);
        assert_eq!(
            header(&answer, "access-control-allow-origin"),
            Some(LISTED),
            "{answer:?}"
        );
        assert!(header(&answer, "access-control-expose-headers").is_some_and(|value| value.contains("x-request-id")));
    }
    for origin in ["https://evil.example", "null", "http://chat.example"] {
        for method in [Method::OPTIONS, Method::GET] {
            let answer = with_origin(&bob, method, "/v1/me", origin).await;
            assert_eq!(
                header(&answer, "access-control-allow-origin"),
                None,
                "{origin}: {answer:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_keeps_its_id_if_that_is_plain() {
    let house = House::start().await;
    let nobody = Http::new(&house.endpoints.http, None);
    for (given, is_kept) in [
        ("abc-1.2_3:4", true),
        ("", false),
        ("a b", false),
        ("a\"b", false),
        (&*"x".repeat(65), false),
    ] {
        let answer = nobody
            .call(Method::GET, "/v1/me", &[("x-request-id", given)], Bytes::new())
            .await;
        let id = header(&answer, "x-request-id").unwrap();
        assert_eq!(answer.json()["request_id"], id, "{answer:?}");
        assert_eq!(id == given, is_kept, "{given}: {id}");
        assert!(!id.is_empty());
    }
    // Without a list no page of elsewhere is told anything.
    let asked = with_origin(&nobody, Method::OPTIONS, "/v1/me", LISTED).await;
    assert_eq!(
        (asked.status, header(&asked, "access-control-allow-origin")),
        (405, None)
    );
}

/// Waits until the metrics show a line.
async fn shows(http: &Http, line: &str) {
    eventually(line, async || {
        let answer = http.get("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        assert!(
            !text.contains("lobby") && !text.contains("alice"),
            "it names nobody: {text}"
        );
        text.lines().any(|shown| shown == line).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_show_queues_caps_sizes_and_latencies() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (alice, nobody) = (house.http("alice"), Http::new(&house.endpoints.http, None));
    let poll = Poll::from_now(&house.http("bob")).await;
    let mut stream = Raw::get(&house, "bob", "/v1/events/stream").await;
    assert!(stream.reads("id: ").await);
    let script = Script::events("bob").await;
    script.call("open", ask(&house, "ws", "bob", &json!({}))).await;
    for line in [
        "natterjack_used{queue=\"parked_polls\"} 3",
        "natterjack_http_streams{kind=\"sse\"} 1",
        "natterjack_http_streams{kind=\"websocket\"} 1",
        "natterjack_cap{queue=\"http_connections\"} 10000",
        "natterjack_cap{queue=\"sends\"} 4096",
        "natterjack_used{queue=\"sends\"} 0",
        "natterjack_http_connections 4",
    ] {
        shows(&nobody, line).await;
    }
    alice.say("lobby", "hello").await;
    alice.get("/v1/rooms/nowhere").await.is_problem(404, "not-found");
    for line in [
        "natterjack_http_requests_total{method=\"POST\",route=\"/v1/rooms/{room}/messages\",status=\"201\"} 1",
        "natterjack_http_requests_total{method=\"GET\",route=\"/v1/rooms/{room}\",status=\"404\"} 1",
        "natterjack_http_request_seconds_count{route=\"/v1/rooms/{room}/messages\"} 1",
        "natterjack_bundle_seconds_count 3",
    ] {
        shows(&nobody, line).await;
    }
    drop(stream);
    script.call("close", json!({"name": "ws"})).await;
    drop(poll);
    for line in [
        "natterjack_used{queue=\"parked_polls\"} 0",
        "natterjack_http_streams{kind=\"sse\"} 0",
        "natterjack_http_streams{kind=\"websocket\"} 0",
        "natterjack_http_connections 1",
    ] {
        shows(&nobody, line).await;
    }
}
