//! What is erased is shown to nobody any more, wherever it is looked for, and is gone for good once the log was trimmed.

use hyper::Method;
use serde_json::{Value, json};

use crate::support::events::{parse, texts};
use crate::support::house::{House, seq};
use crate::support::http::{Answer, Http};
use crate::support::poll::{cursor_now, read_all};
use crate::support::{DEADLINE, eventually};

const MESSAGES: &str = "/v1/rooms/lobby/messages";

fn message(receipt: &Value) -> Value {
    json!({"room": "lobby", "message": receipt["id"], "reason": "Art. 17"})
}

async fn patch(http: &Http, path: &str, text: &str) -> Answer {
    let body = json!({"body": {"text": text}}).to_string();
    http.call(Method::PATCH, path, &[], body.into()).await
}

async fn found(http: &Http, word: &str) -> usize {
    let page = http.get(&format!("/v1/search?q={word}")).await.ok();
    page["results"].as_array().unwrap().len()
}

/// The receipt, once nothing but these parts has it any more.
async fn left(http: &Http, erasure: u64, parts: &[&str]) -> Value {
    eventually("the erasure gets on", async || {
        let receipt = http.get(&format!("/v1/erasures/{erasure}")).await.ok();
        let pending = receipt["pending"].as_array().unwrap().iter();
        let pending: Vec<&str> = pending.map(|part| part["part"].as_str().unwrap()).collect();
        (pending == parts).then_some(receipt.clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_erased_wherever_it_is_looked_for() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (admin, alice, bob) = (house.http("admin"), house.http("alice"), house.http("bob"));
    let cursor = cursor_now(&bob).await;
    let said = alice.say("lobby", "the walrus is asleep").await;
    let path = format!("{MESSAGES}/{}", said["id"].as_str().unwrap());
    patch(&alice, &path, "the walrus is awake").await.ok();
    eventually("it is found", async || (found(&bob, "walrus").await == 1).then_some(())).await;

    let ask = message(&said);
    for http in [&alice, &bob] {
        http.post("/v1/erasures", &ask).await.is_problem(403, "forbidden");
    }
    let none = json!({"room": "lobby", "message": "nothing"});
    admin.post("/v1/erasures", &none).await.is_problem(404, "not-found");
    admin
        .post("/v1/erasures", &json!({"room": "lobby"}))
        .await
        .is_problem(400, "invalid-request");
    for hold in ["/v1/holds/rooms/lobby", "/v1/holds/users/alice"] {
        admin.put(hold, &json!({})).await.ok();
        admin.post("/v1/erasures", &ask).await.is_problem(409, "legal-hold");
        admin
            .post("/v1/erasures", &json!({"user": "alice"}))
            .await
            .is_problem(409, "legal-hold");
        admin.delete(hold).await.ok();
    }

    gone_everywhere(&house, (&said, &path), &cursor).await;
}

async fn gone_everywhere(house: &House, (said, path): (&Value, &str), cursor: &str) {
    let (admin, alice, bob) = (house.http("admin"), house.http("alice"), house.http("bob"));
    let ask = message(said);
    let answer = admin.post("/v1/erasures", &ask).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let receipt = answer.json();
    assert_eq!((&receipt["by"], &receipt["message"]), (&json!("admin"), &said["id"]));
    assert_eq!(
        (&receipt["counted"]["messages"], &receipt["counted"]["edits"]),
        (&json!(1), &json!(1))
    );
    let erasure = seq(&receipt);
    let page = bob.get(MESSAGES).await.ok();
    let shown = &page["messages"][0];
    assert_eq!(
        (&shown["body"], &shown["erased"], &shown["seq"]),
        (&Value::Null, &json!(erasure), &said["seq"])
    );
    let one = bob.get(path).await.ok();
    assert!(one["message"]["body"].is_null() && one["edits"] == json!([]), "{one}");
    assert_eq!(found(&bob, "walrus").await, 0);
    patch(&alice, path, "walrus again").await.is_problem(404, "not-found");
    // The log has it still, and an old cursor is told that it was there, and of the erasure, as who listens is.
    let (lines, _) = read_all(&bob, cursor).await;
    assert!(lines.iter().all(|line| !line.contains("walrus")), "{lines:?}");
    assert_eq!(parse(&lines[0])["seq"], said["seq"]);
    assert_eq!(parse(lines.last().unwrap())["kind"], "erase");
    let receipt = left(&admin, erasure, &["log"]).await;
    assert_eq!(receipt["state"], "pending");
    bob.get(&format!("/v1/erasures/{erasure}"))
        .await
        .is_problem(404, "not-found");
    let trail = admin.get("/v1/audit?kind=erase").await.ok();
    assert_eq!(trail["entries"].as_array().unwrap().len(), 1);
    assert!(!trail.to_string().contains("walrus"), "{trail}");
    house.run(&["verify"]);
    let exported = house.run(&["archive", "export", "lobby"]);
    assert!(!exported.contains("walrus"), "{exported}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_wrote_is_erased_though_everything_is_killed_meanwhile() {
    let mut house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (admin, bob) = (house.http("admin"), house.http("bob"));
    let cursor = cursor_now(&bob).await;
    for _ in 0..30 {
        let messages: Vec<Value> = (0..100)
            .map(|n| json!({"body": {"text": format!("walrus {n}")}}))
            .collect();
        bob.post(&format!("{MESSAGES}:batch"), &json!({"messages": messages}))
            .await
            .ok();
    }
    house.http("alice").say("lobby", "not a word of it").await;
    let receipt = admin.post("/v1/erasures", &json!({"user": "bob"})).await;
    assert_eq!(receipt.status, 202, "{receipt:?}");
    let erasure = seq(&receipt.json());
    house.kill_everything();
    house.restart().await;
    let (admin, alice) = (house.http("admin"), house.http("alice"));
    // From the first moment on, however far it is.
    let page = alice.get(&format!("{MESSAGES}?limit=200")).await.ok();
    assert!(!page.to_string().contains("walrus"));
    let receipt = left(&admin, erasure, &["log"]).await;
    assert_eq!(receipt["counted"]["messages"], 3000, "{receipt}");
    let (lines, _) = read_all(&house.http("bob"), &cursor).await;
    assert_eq!(texts(&lines), ["not a word of it"]);
    assert!(
        lines.iter().any(|line| parse(line)["kind"] == "erase"),
        "everybody hears of it"
    );
    assert_eq!(found(&alice, "walrus").await, 0);
    house.run(&["verify"]);
    let shown = house.run(&["erase", "list", "--user", "admin"]);
    assert!(shown.contains("user bob") && shown.contains("3000 messages"), "{shown}");
    let exported = house.run(&["archive", "export", "--user", "bob"]);
    assert!(!exported.contains("walrus"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_is_done_once_the_log_was_trimmed() {
    let house = House::start_with([
        ("NATTERJACK_STORE__CHECKPOINT_FRAMES", "16"),
        ("NATTERJACK_STORE__LOG_KEEP_BYTES", "0"),
        ("NATTERJACK_STORE__LOG_KEEP_SECS", "0"),
    ])
    .await;
    house.room("lobby", &[("bob", "member")]).await;
    let (admin, alice) = (house.http("admin"), house.http("alice"));
    let said = alice.say("lobby", "walrus").await;
    let receipt = admin.post("/v1/erasures", &message(&said)).await.json();
    let erasure = seq(&receipt);
    assert_eq!(receipt["state"], "pending", "{receipt}");
    let until = std::time::Instant::now() + DEADLINE * 2;
    loop {
        let receipt = admin.get(&format!("/v1/erasures/{erasure}")).await.ok();
        if receipt["state"] == "done" {
            assert_eq!(receipt["pending"], json!([]));
            break;
        }
        assert!(std::time::Instant::now() < until, "{receipt}");
        for n in 0..20 {
            alice.say("lobby", &format!("message {n}")).await;
        }
    }
    let log = house.log().join("\n");
    assert!(!log.contains("walrus"), "{log}");
}
