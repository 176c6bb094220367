//! erin is no member of the lobby: she is refused on every transport. And nobody can speak as somebody else.

use serde_json::{Value, json};

use crate::support::events::{lines_of, parse, texts};
use crate::support::house::{House, seq};
use crate::support::http::Answer;
use crate::support::poll::Poll;

const LOBBY: &str = "/v1/rooms/lobby/messages";

/// What erin may not do in the lobby over HTTP.
const REQUESTS: &[(&str, &str)] = &[
    ("POST /v1/rooms/lobby/messages", r#"{"body":{"text":"forged"}}"#),
    ("PUT /v1/rooms/lobby/messages/by-key/k", r#"{"body":{"text":"forged"}}"#),
    ("GET /v1/rooms/lobby/messages", ""),
    ("GET /v1/rooms/lobby/messages/m", ""),
    ("PATCH /v1/rooms/lobby/messages/m", r#"{"body":{"text":"forged"}}"#),
    ("DELETE /v1/rooms/lobby/messages/m", ""),
    ("PUT /v1/rooms/lobby/messages/m/reactions/x", ""),
    ("DELETE /v1/rooms/lobby/messages/m/reactions/x", ""),
    ("PUT /v1/rooms/lobby/messages/m/pin", ""),
    ("DELETE /v1/rooms/lobby/messages/m/pin", ""),
    ("GET /v1/rooms/lobby/pins", ""),
    ("PUT /v1/rooms/lobby/read", r#"{"seq":1}"#),
    ("GET /v1/rooms/lobby", ""),
    ("PUT /v1/rooms/lobby", r#"{"title":"forged"}"#),
    ("GET /v1/rooms/lobby/members", ""),
    ("GET /v1/rooms/lobby/members/alice", ""),
    ("PUT /v1/rooms/lobby/members/erin", r#"{"role":"owner"}"#),
    ("DELETE /v1/rooms/lobby/members/bob", ""),
    ("GET /v1/events?cursor=earliest&rooms=lobby&wait=0", ""),
    ("GET /v1/events?rooms=lobby&wait=0", ""),
    ("GET /v1/events?rooms=lobby&wait=0&format=text", ""),
    ("GET /v1/events?rooms=lobby&format=sse", ""),
    ("GET /v1/events/stream?rooms=lobby", ""),
    ("GET /v1/events/stream?rooms=lobby&cursor=earliest", ""),
    ("POST /v1/rooms/lobby/typing", ""),
    ("GET /v1/events?rooms=lobby,erins&wait=0", ""),
];

/// alice and bob are in the lobby; erin has a room of her own, so that she hears something at all.
async fn house() -> House {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    house.http("erin").put("/v1/rooms/erins", &json!({})).await.created();
    house
}

/// Everything in the lobby is from alice and bob, and nothing says "forged".
fn assert_untouched(house: &House) {
    for line in house.log().iter().filter(|line| parse(line)["room"] == "lobby") {
        let from = parse(line)["from"].clone();
        assert!(from == "alice" || from == "bob", "{line}");
        assert!(!line.contains("forged"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_over_http() {
    let house = house().await;
    let (erin, poll) = (house.http("erin"), Poll::from_now(&house.http("erin")).await);
    let cursor_of_alice = house
        .http("alice")
        .get("/v1/events?cursor=earliest&rooms=lobby&wait=0")
        .await
        .ok();
    let cursor_of_alice = cursor_of_alice["cursor"].as_str().unwrap().to_owned();
    for (request, body) in REQUESTS {
        let (method, path) = request.split_once(' ').unwrap();
        let refused = erin.call(method.parse().unwrap(), path, &[], (*body).into()).await;
        refused.is_problem(404, "not-found");
        // What is not there looks the same; but who puts a room that is not there makes it.
        if *request == "PUT /v1/rooms/lobby" {
            continue;
        }
        let absent = path.replace("lobby", "nowhere");
        let absent = erin.call(method.parse().unwrap(), &absent, &[], (*body).into()).await;
        let detail = |answer: &Answer| answer.json()["detail"].clone();
        assert_eq!((absent.status, detail(&absent)), (404, detail(&refused)), "{request}");
    }
    erin.get(&format!("/v1/events?cursor={cursor_of_alice}&wait=0"))
        .await
        .is_problem(400, "invalid-cursor");
    assert_eq!(erin.get("/v1/rooms").await.ok()["rooms"][0]["id"], "erins");

    house.http("alice").say("lobby", "secret").await;
    let own = erin.say("erins", "fence").await;
    let got = poll
        .mail
        .wait("erin gets her own message", |got| {
            (!got.is_empty()).then(|| got.to_vec())
        })
        .await;
    assert!(lines_of("lobby", &got).is_empty(), "{got:?}");
    assert_eq!(lines_of("erins", &got).len(), 1);
    assert_eq!(parse(&lines_of("erins", &got)[0])["seq"], own["seq"]);
    assert_untouched(&house);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_over_nats() {
    let house = house().await;
    let erin = house.nats("erin").await;
    erin.listen(&["erins"]).await;
    for subject in [
        "chat.room.main.lobby.log",
        "chat.room.main.lobby.*",
        "chat.room.main.lobby.now",
        "chat.user.main.alice",
    ] {
        erin.subscribe(subject).await;
        erin.is_refused("subscription", subject).await;
    }
    let problem = erin.say("lobby", "forged").await;
    assert_eq!(
        (&problem["code"], &problem["status"]),
        (&json!("not-found"), &json!(404)),
        "{problem}"
    );
    for (verb, ask) in [
        ("history.get", json!({"room": "lobby"})),
        (
            "events.get",
            json!({"cursor": "earliest", "rooms": ["lobby"], "wait": 0}),
        ),
        ("events.get", json!({"rooms": ["lobby"], "wait": 0})),
        ("members.put", json!({"room": "lobby", "user": "erin", "role": "owner"})),
    ] {
        let problem = erin.api(verb, &ask).await;
        assert_eq!(problem["code"], "not-found", "{verb}: {problem}");
    }
    let secret = house.http("alice").say("lobby", "secret").await;
    erin.say("erins", "fence").await;
    let got = erin
        .mail
        .wait("erin hears her own room", |got| (!got.is_empty()).then(|| got.to_vec()))
        .await;
    assert_eq!(texts(&lines_of("erins", &got)), ["fence"]);
    assert!(lines_of("lobby", &got).is_empty(), "{secret} {got:?}");
    assert_untouched(&house);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_over_websocket() {
    let house = house().await;
    let erin = house.websocket("erin").await;
    erin.subscribe("chat.room.main.erins.log").await;
    erin.subscribe("chat.room.main.lobby.log").await;
    erin.happened
        .wait("a refusal", |all| {
            let refused = |line: &String| {
                line.to_lowercase()
                    .contains("permissions violation for subscription to")
            };
            all.iter().any(refused).then_some(())
        })
        .await;
    let problem = erin.say("lobby", "forged").await;
    assert_eq!(problem["code"], "not-found", "{problem}");
    let problem = erin
        .request("chat.api.main.erin.history.get", &json!({"room": "lobby"}))
        .await;
    assert_eq!(problem["code"], "not-found", "{problem}");
    house.http("alice").say("lobby", "secret").await;
    erin.say("erins", "fence").await;
    let got = erin
        .mail
        .wait("erin hears her own room", |got| (!got.is_empty()).then(|| got.to_vec()))
        .await;
    assert_eq!(texts(&lines_of("erins", &got)), ["fence"]);
    assert!(lines_of("lobby", &got).is_empty(), "{got:?}");
    assert_untouched(&house);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_over_mqtt() {
    let house = house().await;
    let erin = house.mqtt("erin").await;
    assert!(erin.subscribe("chat/room/main/erins/log").await);
    assert!(erin.subscribe("chat/user/main/erin").await);
    for filter in [
        "chat/room/main/lobby/log",
        "chat/room/main/lobby/+",
        "chat/user/main/alice",
    ] {
        assert!(!erin.subscribe(filter).await, "{filter} was granted");
    }
    // MQTT acknowledges what it will not do; the refusal comes as a notice.
    erin.publish("chat/in/main/erin/lobby/msg", "forged").await;
    let notice = erin
        .mail
        .wait("a notice", |got| {
            got.iter().find(|got| got.subject == "chat/user/main/erin").cloned()
        })
        .await;
    let problem: Value = serde_json::from_slice(&notice.payload).unwrap();
    assert_eq!(problem["code"], "not-found", "{problem}");
    house.http("alice").say("lobby", "secret").await;
    erin.publish("chat/in/main/erin/erins/msg", "fence").await;
    let got = erin
        .mail
        .wait("erin hears her own room", |got| {
            (!lines_of("erins", got).is_empty()).then(|| got.to_vec())
        })
        .await;
    assert!(lines_of("lobby", &got).is_empty(), "{got:?}");
    assert_untouched(&house);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_up_sender_in_the_payload_changes_nothing() {
    let house = house().await;
    let (http, nats) = (house.http("bob"), house.nats("bob").await);
    // Fields that nobody asked for are refused; inside the body they are just the body.
    for field in ["from", "sender", "user", "tenant", "at", "seq", "n", "id", "room"] {
        let mut request = json!({"body": {"text": "forged"}});
        request[field] = json!("alice");
        http.post(LOBBY, &request).await.is_problem(400, "invalid-request");
        let problem = nats.send("lobby", &request).await;
        assert_eq!(problem["code"], "invalid-request", "{field}: {problem}");
    }
    let inside = json!({"body": {"text": "from bob", "from": "alice"}});
    let receipts = [
        http.post(LOBBY, &inside).await.created(),
        nats.send("lobby", &inside).await,
    ];
    assert_from_bob(&house, &receipts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_up_sender_in_headers_changes_nothing() {
    let house = house().await;
    let (http, nats) = (house.http("bob"), house.nats("bob").await);
    let plain = json!({"body": {"text": "from bob"}}).to_string();
    let mut receipts = Vec::new();
    for name in [
        "from",
        "chat-from",
        "x-user",
        "x-remote-user",
        "x-forwarded-user",
        "chat-sender",
    ] {
        let answer = http
            .call(hyper::Method::POST, LOBBY, &[(name, "alice")], plain.clone().into())
            .await;
        receipts.push(answer.created());
        let mut header = async_nats::HeaderMap::new();
        header.insert(name, "alice");
        let answer = nats
            .request("chat.in.main.bob.lobby.msg", plain.clone(), header)
            .await
            .unwrap();
        receipts.push(crate::support::nats::parse(&answer));
    }
    assert_from_bob(&house, &receipts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_up_sender_in_the_subject_is_refused() {
    let house = house().await;
    let (nats, mqtt) = (house.nats("bob").await, house.mqtt("bob").await);
    for subject in [
        "chat.in.main.alice.lobby.msg",
        "chat.in.other.bob.lobby.msg",
        "chat.api.main.alice.rooms.list",
    ] {
        nats.client.publish(subject, "forged".into()).await.unwrap();
        nats.is_refused("publish", subject).await;
        mqtt.publish(&subject.replace('.', "/"), "forged").await;
    }
    let fence = nats.say("lobby", "from bob").await;
    assert_from_bob(&house, &[fence]);
}

/// All that bob has in the log are the events of these receipts.
fn assert_from_bob(house: &House, receipts: &[Value]) {
    let messages = house.messages();
    for receipt in receipts {
        let line = messages.iter().find(|line| parse(line)["seq"] == seq(receipt)).unwrap();
        let event = parse(line);
        assert_eq!(
            (&event["from"], &event["id"]),
            (&json!("bob"), &receipt["id"]),
            "{line}"
        );
    }
    assert_eq!(messages.len(), receipts.len());
    assert_untouched(house);
}
