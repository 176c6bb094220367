//! Proxies in front: whose word counts, and what the log of requests says.

use std::fs;
use std::process::Stdio;

use hyper::Method;

use crate::support::eventually;
use crate::support::house::{House, refusal, up};

/// Asks with the headers by which a proxy names its client, and gives the line of it in the log.
async fn logged(house: &House, id: &str) -> String {
    let headers = [
        ("x-forwarded-for", "6.6.6.6, 203.0.113.7"),
        ("forwarded", "for=203.0.113.8"),
        ("x-request-id", id),
    ];
    let asked = house.http("alice");
    assert_eq!(asked.call(Method::GET, "/v1/me", &headers, "".into()).await.status, 200);
    eventually("the request is logged", async || {
        let log = fs::read_to_string(house.log_file()).unwrap();
        log.lines().find(|line| line.contains(id)).map(str::to_owned)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_trusted_proxy_says_who_asks() {
    let logging = ("NATTERJACK_LOGGING__REQUESTS", "true");
    let house = House::start_with([logging]).await;
    let line = logged(&house, "from-a-stranger").await;
    assert!(line.contains("client=127.0.0.1"), "{line}");
    let trusted = ("NATTERJACK_BRIDGE__TRUSTED_PROXIES", "[\"127.0.0.0/8\"]");
    let house = House::start_with([logging, trusted]).await;
    let line = logged(&house, "from-a-proxy").await;
    assert!(line.contains("client=203.0.113.7"), "{line}");
    let header = ("NATTERJACK_BRIDGE__FORWARDED_HEADER", "forwarded");
    let house = House::start_with([logging, trusted, header]).await;
    let line = logged(&house, "by-the-other-header").await;
    assert!(line.contains("client=203.0.113.8"), "{line}");
}

#[test]
fn what_is_no_network_is_refused_before_anything_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in [
        ("NATTERJACK_BRIDGE__TRUSTED_PROXIES", "[\"10.0.0.0/99\"]"),
        ("NATTERJACK_BRIDGE__FORWARDED_HEADER", "via"),
    ] {
        let output = up(&dir.path().join("data"))
            .env(name, value)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = refusal(&output);
        assert!(
            said.contains("10.0.0.0/99") || said.contains("forwarded_header"),
            "{said}"
        );
        assert!(!dir.path().join("data/endpoints.json").exists());
    }
}
