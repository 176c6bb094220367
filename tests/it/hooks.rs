//! Incoming webhooks: who may make them, what is posted to them, and their end.

use std::fs;

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};

use crate::support::events::parse;
use crate::support::house::House;
use crate::support::http::{Answer, Http};
use crate::support::tools::python_with_packages;

/// Makes a hook of the lobby: its member's id, and its path.
async fn made(house: &House, name: &str) -> (String, String) {
    let made = house
        .http("alice")
        .post("/v1/rooms/lobby/hooks", &json!({"name": name}))
        .await
        .created();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("hook"), text("path"))
}

async fn post(house: &House, path: &str, media: &str, body: &str) -> Answer {
    let nobody = Http::new(&house.endpoints.http, None);
    let headers = [("content-type", media)];
    nobody
        .call(Method::POST, path, &headers, Bytes::copy_from_slice(body.as_bytes()))
        .await
}

/// What is posted by programs that know Slack: media type, body, and the text that people see.
const POSTS: [(&str, &str, &str); 3] = [
    // Grafana
    (
        "application/json",
        r##"{"channel":"","username":"Grafana","attachments":[{"title":"[FIRING:1] cpu","text":"**Firing**","fallback":"[FIRING:1] cpu","color":"#D63232","ts":1764129600}]}"##,
        "[FIRING:1] cpu\n**Firing**",
    ),
    // Alertmanager
    (
        "application/json",
        r##"{"channel":"#alerts","username":"Alertmanager","attachments":[{"title":"[RESOLVED] disk","title_link":"http://am","text":"","fallback":"[RESOLVED] disk","mrkdwn_in":["fallback","text"]}],"link_names":false}"##,
        "[RESOLVED] disk",
    ),
    // Jenkins
    (
        "application/x-www-form-urlencoded",
        "payload=%7B%22text%22%3A%22build+%2342%20failed%22%2C%22channel%22%3A%22%23ci%22%7D",
        "build #42 failed",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_posted_to_a_hook_is_a_message_of_its_own_user() {
    let mut house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (hook, path) = made(&house, "grafana").await;
    assert!(hook.starts_with("hook-grafana-"), "{hook}");
    for (media, body, _) in POSTS {
        let answer = post(&house, &path, media, body).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &b"ok"[..]), "{answer:?}");
    }
    // A client of Slack's own making.
    let script = "import sys; from slack_sdk.webhook import WebhookClient; \
                  print(WebhookClient(sys.argv[1]).send(text='by slack_sdk').body)";
    let url = format!("{}{path}", house.endpoints.http);
    let output = python_with_packages().args(["-c", script, &url]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ok", "{output:?}");
    // The same address after a new start, which is another bridge.
    assert!(house.stop().success());
    house.restart().await;
    assert_eq!(
        post(&house, &path, "application/json", r#"{"text":"again"}"#)
            .await
            .status,
        200
    );

    let page = house
        .http("bob")
        .get("/v1/events?cursor=earliest&rooms=lobby&wait=0")
        .await;
    let events: Vec<Value> = page.lines("events").iter().map(|line| parse(line)).collect();
    let messages: Vec<&Value> = events.iter().filter(|event| event["kind"] == "msg").collect();
    let texts: Vec<&str> = messages
        .iter()
        .map(|event| event["body"]["text"].as_str().unwrap())
        .collect();
    let expected: Vec<&str> = POSTS
        .iter()
        .map(|(_, _, text)| *text)
        .chain(["by slack_sdk", "again"])
        .collect();
    assert_eq!(texts, expected);
    assert!(
        messages.iter().all(|event| event["from"] == hook.as_str()),
        "{messages:#?}"
    );
    assert_eq!(messages[0]["body"]["username"], "Grafana");
    assert_eq!(messages[0]["body"].get("channel"), None);
}

async fn nobody_else_makes_one(house: &House) {
    for (user, status, code) in [
        ("bob", 403, "forbidden"),
        ("mod", 403, "forbidden"),
        ("stranger", 404, "not-found"),
    ] {
        let refused = house.http(user).post("/v1/rooms/lobby/hooks", &json!({})).await;
        refused.is_problem(status, code);
    }
    let nobody = Http::new(&house.endpoints.http, None);
    nobody
        .post("/v1/rooms/lobby/hooks", &json!({}))
        .await
        .is_problem(401, "token-missing");
    let too_long = json!({"name": "x".repeat(47)});
    house
        .http("alice")
        .post("/v1/rooms/lobby/hooks", &too_long)
        .await
        .is_problem(400, "invalid-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_manages_the_room_makes_one_and_it_can_be_revoked_for_good() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("mod", "moderator")]).await;
    house.room("garden", &[]).await;
    nobody_else_makes_one(&house).await;
    let alice = house.http("alice");
    let (hook, path) = made(&house, "ci").await;
    let (_, other) = made(&house, "ci").await;
    let said = r#"{"text":"hi"}"#;
    post(&house, &path, "application/json", "{}")
        .await
        .is_problem(400, "invalid-request");
    let mut altered = path.clone().into_bytes();
    let last = altered.len() - 3;
    altered[last] = if altered[last] == b'A' { b'B' } else { b'A' };
    let altered = String::from_utf8(altered).unwrap();
    for none in [altered.as_str(), "/v1/hooks/x", &path[..path.len() - 4]] {
        post(&house, none, "application/json", said)
            .await
            .is_problem(404, "not-found");
    }
    assert_eq!(post(&house, &path, "application/json", said).await.status, 200);

    let member = format!("/v1/rooms/lobby/members/{hook}");
    assert_eq!(alice.delete(&member).await.ok()["state"], "done");
    post(&house, &path, "application/json", said)
        .await
        .is_problem(404, "not-found");
    // A member of the same name again is another membership.
    alice.put(&member, &json!({"role": "member"})).await.ok();
    post(&house, &path, "application/json", said)
        .await
        .is_problem(404, "not-found");
    assert_eq!(
        post(&house, &other, "application/json", said).await.status,
        200,
        "the other lives on"
    );
    assert_eq!(house.messages().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_address_stands_in_no_log() {
    let settings = [
        ("NATTERJACK_LOGGING__REQUESTS", "true"),
        ("NATTERJACK_LOGGING__FILTER", "debug,natterjack_bridge=trace"),
    ];
    let house = House::start_with(settings).await;
    house.room("lobby", &[]).await;
    let (_, path) = made(&house, "ci").await;
    let secret = path.strip_prefix("/v1/hooks/").unwrap();
    assert_eq!(
        post(&house, &path, "application/json", r#"{"text":"hi"}"#).await.status,
        200
    );
    post(&house, &format!("{path}x"), "application/json", "{}")
        .await
        .is_problem(404, "not-found");
    post(&house, &format!("{path}/x"), "application/json", "{}")
        .await
        .is_problem(404, "not-found");
    let log = fs::read_to_string(house.log_file()).unwrap();
    assert!(log.contains("/v1/hooks/…"), "requests are not logged: {log}");
    assert!(
        !log.contains(secret) && !log.contains(&secret[..secret.len() / 2]),
        "{log}"
    );
    let everything: String = house.log().concat()
        + &house
            .http("alice")
            .get("/metrics")
            .await
            .body
            .escape_ascii()
            .to_string();
    assert!(!everything.contains(secret));
}
