//! Sending over HTTP in every way that clients need: many at once, until the archive has it, in text and forms, with a key
//! wherever it can be put.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use serde_json::{Value, json};

use crate::support::events::{assert_receipt, assert_unbroken, parse, texts};
use crate::support::house::{House, seq};
use crate::support::http::{Answer, Http};

const MESSAGES: &str = "/v1/rooms/lobby/messages";

fn results(answer: &Answer) -> Vec<Value> {
    answer.ok()["results"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_sent_in_its_order_with_a_result_for_each() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("carol", "reader")]).await;
    let (bob, path) = (house.http("bob"), format!("{MESSAGES}:batch"));
    let first = bob.say("lobby", "first").await;
    let long = "k".repeat(129);
    let batch = json!({"messages": [
        {"body": {"text": "a"}, "key": "a"},
        {"body": {"text": "b"}, "key": long},
        {"body": {"text": "c"}, "if_last": first["seq"]},
        {"body": {"text": "a"}, "key": "a"},
        {"body": {"text": "other"}, "key": "a"},
        {"text": "d"},
        {"body": {"text": "x".repeat(70_000)}},
        {"body": {"text": "e"}, "reply_to": first["id"]},
    ]});
    let results = results(&bob.post(&path, &batch).await);
    let statuses: Vec<u64> = results
        .iter()
        .map(|result| result["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [201, 400, 412, 200, 422, 400, 413, 201], "{results:#?}");
    let lines = house.messages();
    assert_eq!(texts(&lines), ["first", "a", "e"]);
    assert_unbroken(&lines);
    assert_receipt(&results[0]["receipt"], &lines[1]);
    assert_receipt(&results[7]["receipt"], &lines[2]);
    assert_eq!(results[3]["receipt"]["duplicate"], true);
    assert_eq!(results[4]["problem"]["code"], "idempotency-mismatch");

    let many = |count: usize| -> Value {
        let messages: Vec<Value> = (0..count)
            .map(|number| json!({"body": {"text": number.to_string()}}))
            .collect();
        json!({ "messages": messages })
    };
    let hundred = self::results(&bob.post(&path, &many(100)).await);
    assert!(hundred.iter().all(|result| result["status"] == 201), "{hundred:#?}");
    let said: Vec<String> = (0..100).map(|number: usize| number.to_string()).collect();
    assert_eq!(texts(&house.messages())[3..], said);
    for count in [0, 101] {
        bob.post(&path, &many(count)).await.is_problem(400, "invalid-request");
    }
    for (user, status) in [("carol", 403), ("erin", 404)] {
        let refused = self::results(&house.http(user).post(&path, &many(2)).await);
        assert!(
            refused.iter().all(|result| result["status"] == status),
            "{user}: {refused:?}"
        );
    }
    assert_eq!(house.messages().len(), 103);
}

/// Somebody who holds the archive's write lock, so that it cannot go on.
struct Lock(Child);

impl Lock {
    fn take(database: &Path) -> Self {
        let hold = "import sqlite3, sys\n\
                    connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)\n\
                    connection.execute('BEGIN IMMEDIATE')\n\
                    print('held', flush=True)\n\
                    sys.stdin.read()";
        let mut child = Command::new("python3")
            .args(["-c", hold])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_archive_finds_the_message_there() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let bob = house.http("bob");
    let path = format!("{MESSAGES}?ack=db");
    for number in 0..20 {
        let text = number.to_string();
        let receipt = bob.post(&path, &json!({"body": {"text": text}})).await.created();
        assert_eq!(receipt["durability"], "db", "{receipt}");
        let page = bob.get(&format!("{MESSAGES}?limit=1")).await;
        assert_receipt(&receipt, &page.lines("messages")[0]);
    }
    let batch = json!({"messages": [{"body": 1}, {"body": 2}]});
    for result in results(&bob.post(&format!("{MESSAGES}:batch?ack=db"), &batch).await) {
        assert_eq!(result["receipt"]["durability"], "db", "{result}");
    }
    for bad in ["disk", "DB"] {
        let answer = bob.post(&format!("{MESSAGES}?ack={bad}"), &json!({"body": 1})).await;
        answer.is_problem(400, "invalid-request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_does_not_get_there_is_told_with_the_place_in_the_log() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let bob = house.http("bob");
    let path = format!("{MESSAGES}?ack=db");
    let lock = Lock::take(&house.data().join("archive.db"));
    let message = json!({"body": {"text": "waits"}, "key": "k"});
    let without_key = json!({"body": 1});
    let (late, keyless) = tokio::join!(bob.post(&path, &message), bob.post(&path, &without_key));
    for answer in [&late, &keyless] {
        answer.is_problem(503, "store-lagging");
    }
    let quick = bob.say("lobby", "goes on").await;
    assert_eq!(quick["durability"], "log");
    let lines = house.messages();
    let waits = lines.iter().find(|line| line.contains("waits")).unwrap();
    let detail = late.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(&format!("seq {}", seq(&parse(waits)))), "{detail}");
    // The key that the bridge made is told, so that it can be asked again without a second message.
    let detail = keyless.json()["detail"].as_str().unwrap().to_owned();
    let own_key = detail.split('`').nth(1).unwrap();
    drop(lock);
    for again in [message, json!({"body": 1, "key": own_key})] {
        let receipt = bob.post(&path, &again).await.ok();
        assert_eq!(
            (&receipt["durability"], &receipt["duplicate"]),
            (&json!("db"), &json!(true)),
            "{receipt}"
        );
    }
    assert_eq!(house.messages().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_can_do_little_send_and_read() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let bob = house.http("bob");
    let form = ("content-type", "application/x-www-form-urlencoded");
    let text = ("content-type", "text/plain");
    let put = ("x-http-method-override", "PUT");
    let by_key = format!("{MESSAGES}/by-key/k1");
    for (path, headers, body, status) in [
        (MESSAGES, vec![text], "line one\nline two", 201),
        (MESSAGES, vec![form], "text=a+b%26c&key=k2", 201),
        (MESSAGES, vec![form], "text=a+b%26c&key=k2", 200),
        (by_key.as_str(), vec![text, put], "by key", 201),
        (by_key.as_str(), vec![text, put], "by key", 200),
        (by_key.as_str(), vec![text, put], "another", 422),
    ] {
        let answer = bob.call(Method::POST, path, &headers, body.into()).await;
        assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
    }
    let read = |cursor: &str| format!("/v1/events?format=text&rooms=lobby&wait=0&limit=4&cursor={cursor}");
    let page = bob.get(&read("earliest")).await;
    assert_eq!(
        (page.status, page.headers["content-type"].to_str().unwrap()),
        (200, "text/plain; charset=utf-8")
    );
    let lines = house.messages();
    let place = |index: usize| seq(&parse(&lines[index]));
    // Four events, of which one is a message.
    assert_eq!(page.body, format!("{}\tbob\tline one\\nline two\n", place(0)));
    assert_eq!(page.headers["chat-more"], "true");
    let rest = bob.get(&read(page.headers["chat-cursor"].to_str().unwrap())).await;
    assert_eq!(
        rest.body,
        format!("{}\tbob\ta b&c\n{}\tbob\tby key\n", place(1), place(2))
    );
    assert_eq!(rest.headers["chat-more"], "false");
    for path in [
        "/v1/events?format=text&wait=0",
        "/v1/events?format=text&rooms=lobby,garden&wait=0",
    ] {
        bob.get(path).await.is_problem(400, "invalid-request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_authorization_carries_the_token_of_that_user() {
    let house = House::start().await;
    let (nobody, token) = (Http::new(&house.endpoints.http, None), house.token("bob"));
    let basic = |user: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{token}")));
    for (user, status) in [
        ("bob", 200),
        ("main.bob", 200),
        ("alice", 401),
        ("other.bob", 401),
        ("", 401),
    ] {
        let headers = [("authorization", basic(user))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let me = nobody.call(Method::GET, "/v1/me", &headers, "".into()).await;
        assert_eq!(me.status, status, "{user}: {me:?}");
    }
}
