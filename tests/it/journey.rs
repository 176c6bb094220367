//! A message goes through the whole house: sent over any transport, the same for readers on all of them.

use serde_json::{Value, json};

use crate::support::events::{assert_receipt, assert_unbroken, lines_of, parse, texts};
use crate::support::house::House;
use crate::support::mailbox::{Delivery, Mailbox};
use crate::support::mqtt::Mqtt;
use crate::support::nats::Nats;
use crate::support::poll::Poll;
use crate::support::script::Script;

const EACH_SENDS: usize = 5;

/// alice and dave on HTTP, bob on NATS, carol on WebSocket, dev1 (paho) and dev2 (rumqttc) on MQTT; all in the lobby.
struct Cast {
    alice: Poll,
    bob: Nats,
    carol: Script,
    dev1: Script,
    dev2: Mqtt,
    dave: Poll,
}

impl Cast {
    async fn enter(house: &House) -> Self {
        let members = [
            ("bob", "member"),
            ("carol", "member"),
            ("dave", "member"),
            ("dev1", "device"),
            ("dev2", "device"),
        ];
        house.room("lobby", &members).await;
        let (bob, carol) = (house.nats("bob").await, house.websocket("carol").await);
        let (dev1, dev2) = (house.paho("dev1").await, house.mqtt("dev2").await);
        bob.listen(&["lobby"]).await;
        carol.subscribe("chat.room.main.lobby.log").await;
        assert_eq!(
            dev1.subscribe("chat/room/main/lobby/log").await,
            json!({"granted": true})
        );
        assert!(dev2.subscribe("chat/room/main/lobby/log").await);
        let (alice, dave) = (
            Poll::from_now(&house.http("alice")).await,
            Poll::from_now(&house.http("dave")).await,
        );
        dave.is_parked().await;
        Self {
            alice,
            bob,
            carol,
            dev1,
            dev2,
            dave,
        }
    }

    fn mailboxes(&self) -> [(&'static str, &Mailbox<Delivery>); 6] {
        [
            ("alice", &self.alice.mail),
            ("bob", &self.bob.mail),
            ("carol", &self.carol.mail),
            ("dev1", &self.dev1.mail),
            ("dev2", &self.dev2.mail),
            ("dave", &self.dave.mail),
        ]
    }

    /// Waits until everybody has so many events of the lobby; all have the same lines, which are these.
    async fn all_have(&self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        for (name, mail) in self.mailboxes() {
            let what = format!("{name} has {count} events");
            let lines = mail.wait(&what, |got| {
                let lines = lines_of("lobby", got);
                (lines.len() >= count).then_some(lines)
            });
            all.push((name, lines.await));
        }
        for (name, lines) in &all {
            assert_eq!(lines, &all[0].1, "{name} and {} got different lines", all[0].0);
        }
        all.swap_remove(0).1
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_transports_get_the_same_events_in_the_same_order() {
    let house = House::start().await;
    let cast = Cast::enter(&house).await;

    let receipt = house.http("alice").say("lobby", "hello, everybody").await;
    assert_eq!(
        (&receipt["durability"], &receipt["duplicate"]),
        (&json!("log"), &json!(false)),
        "{receipt}"
    );
    let lines = cast.all_have(1).await;
    assert_receipt(&receipt, &lines[0]);
    let event = parse(&lines[0]);
    let expected = json!({"v": 1, "tenant": "main", "room": "lobby", "from": "alice", "kind": "msg"});
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&event[field], value, "{event}");
    }
    assert_eq!(event["body"], json!({"text": "hello, everybody"}));

    let receipts = everybody_sends(&house, &cast).await;
    let lines = cast.all_have(1 + 5 * EACH_SENDS).await;
    assert_unbroken(&lines);
    for sender in ["bob", "carol", "dave", "dev1", "dev2"] {
        let own: Vec<String> = lines
            .iter()
            .filter(|line| parse(line)["from"] == sender)
            .cloned()
            .collect();
        let sent: Vec<String> = (0..EACH_SENDS).map(|number| format!("{sender} {number}")).collect();
        assert_eq!(texts(&own), sent, "what {sender} sent, in the order it was sent");
    }
    for receipt in receipts {
        let line = lines.iter().find(|line| parse(line)["id"] == receipt["id"]);
        assert_receipt(&receipt, line.unwrap_or_else(|| panic!("no event for {receipt}")));
    }
}

/// bob, carol, dave and the devices send at once. Gives the receipts of those who get one.
async fn everybody_sends(house: &House, cast: &Cast) -> Vec<Value> {
    let dave = house.http("dave");
    let text = |sender: &str, number: usize| format!("{sender} {number}");
    let bob = async {
        let mut receipts = Vec::new();
        for number in 0..EACH_SENDS {
            receipts.push(cast.bob.say("lobby", &text("bob", number)).await);
        }
        receipts
    };
    let carol = async {
        let mut receipts = Vec::new();
        for number in 0..EACH_SENDS {
            receipts.push(cast.carol.say("lobby", &text("carol", number)).await);
        }
        receipts
    };
    let dave = async {
        let mut receipts = Vec::new();
        for number in 0..EACH_SENDS {
            receipts.push(dave.say("lobby", &text("dave", number)).await);
        }
        receipts
    };
    let devices = async {
        for number in 0..EACH_SENDS {
            // One as JSON, one as bare text: devices need no JSON.
            let json = json!({"body": {"text": text("dev1", number)}}).to_string();
            cast.dev1.publish("chat/in/main/dev1/lobby/msg", json.as_bytes()).await;
            cast.dev2
                .publish("chat/in/main/dev2/lobby/msg", &text("dev2", number))
                .await;
        }
    };
    let (bob, carol, dave, ()) = tokio::join!(bob, carol, dave, devices);
    [bob, carol, dave].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn live_subscribers_are_told_where_an_event_stands() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let bob = house.nats("bob").await;
    bob.listen(&["lobby"]).await;
    let alice = house.http("alice");
    for number in 0..3 {
        alice.say("lobby", &number.to_string()).await;
    }
    let got = bob
        .mail
        .wait("three events", |got| (got.len() == 3).then(|| got.to_vec()))
        .await;
    for delivery in got {
        let event: Value = serde_json::from_slice(&delivery.payload).unwrap();
        assert_eq!(delivery.headers["chat-seq"], event["seq"].to_string());
        assert_eq!(delivery.headers["chat-prev"], event["prev"].to_string());
        assert_eq!(delivery.subject, "chat.room.main.lobby.log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cursor_serves_every_transport() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    house.room("other", &[("bob", "member")]).await;
    let (alice, http, nats) = (house.http("alice"), house.http("bob"), house.nats("bob").await);
    let start = http.get("/v1/events?wait=0").await.ok()["cursor"].clone();
    for number in 0..5 {
        alice.say("lobby", &number.to_string()).await;
        alice.say("other", "aside").await;
    }
    let first = nats
        .api("events.get", &json!({"cursor": start, "wait": 5, "limit": 4}))
        .await;
    assert_eq!(first["events"].as_array().unwrap().len(), 4, "{first}");
    assert_eq!(first["more"], true, "{first}");
    let cursor = first["cursor"].as_str().unwrap();
    let rest = http.get(&format!("/v1/events?cursor={cursor}&wait=5")).await.ok();
    let both: Vec<Value> = [&first, &rest]
        .iter()
        .flat_map(|page| page["events"].as_array().unwrap().clone())
        .collect();
    let all = http
        .get(&format!("/v1/events?cursor={}&wait=5", start.as_str().unwrap()))
        .await
        .ok();
    assert_eq!(&both, all["events"].as_array().unwrap());
    assert_eq!(both.len(), 10);

    let again = nats
        .api("events.get", &json!({"cursor": start, "wait": 5, "limit": 4}))
        .await;
    assert_eq!(again["events"], first["events"], "reading deletes nothing");
    let parked = nats
        .api("events.get", &json!({"cursor": rest["cursor"], "wait": 0}))
        .await;
    assert_eq!(parked["events"], json!([]), "{parked}");

    let earliest = http.get("/v1/events?cursor=earliest&rooms=lobby&wait=0").await;
    assert_unbroken(&earliest.lines("events"));
    assert_eq!(parse(&earliest.lines("events")[0])["n"], 1);
    let other_filter = earliest.ok()["cursor"].as_str().unwrap().to_owned();
    let mismatch = http
        .get(&format!("/v1/events?cursor={other_filter}&wait=0&rooms=other"))
        .await;
    mismatch.is_problem(400, "cursor-filter-mismatch");
    http.get("/v1/events?cursor=nonsense&wait=0")
        .await
        .is_problem(400, "invalid-cursor");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_answer_native_clients_as_http_does() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "moderator")]).await;
    let (http, nats, carol) = (
        house.http("bob"),
        house.nats("bob").await,
        house.websocket("carol").await,
    );
    let receipt = http.say("lobby", "for history").await;
    let lines = house.history("bob", "lobby", receipt["seq"].as_u64().unwrap()).await;
    assert_eq!(texts(&lines), ["for history"]);

    let page = nats.api("history.get", &json!({"room": "lobby", "limit": 10})).await;
    assert_eq!(
        page["messages"],
        http.get("/v1/rooms/lobby/messages?limit=10").await.ok()["messages"]
    );
    let rooms = nats.api("rooms.list", &json!({})).await;
    assert_eq!(rooms["rooms"], http.get("/v1/rooms").await.ok()["rooms"]);
    assert_eq!(rooms["rooms"][0]["id"], "lobby", "{rooms}");

    let added = nats
        .api(
            "members.put",
            &json!({"room": "lobby", "user": "carol", "role": "member"}),
        )
        .await;
    assert_eq!(added["state"], "done", "{added}");
    let rooms = carol.request("chat.api.main.carol.rooms.list", &json!({})).await;
    assert_eq!(rooms["rooms"][0]["role"], "member", "{rooms}");
}
