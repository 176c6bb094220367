//! Reply subjects, `Nats-*` headers, wildcards and forbidden subjects: what a member with a NATS client may try.

use std::time::Duration;

use async_nats::HeaderMap;
use serde_json::json;

use crate::support::events::{assert_unbroken, lines_of, parse, texts};
use crate::support::house::{House, seq};
use crate::support::nats::Nats;

/// What mal may not listen on.
const NO_SUBSCRIPTION: [&str; 30] = [
    ">",
    "*.>",
    "chat.>",
    "chat.room.>",
    "chat.room.*.*.log",
    "chat.room.main.*.log",
    "chat.room.main.*.*",
    "chat.user.>",
    "chat.user.main.*",
    "chat.user.main.dave",
    "chat.in.>",
    "chat.in.main.mal.lobby.msg",
    "chat.api.>",
    "chat.log.>",
    "chat.fan.>",
    "chat.write.0",
    "_INBOX.>",
    "_INBOX.*.*.>",
    "_INBOX.main.>",
    "_INBOX.main.dave.>",
    "_INBOX_store.>",
    "_R_.>",
    "$JS.>",
    "$JS.API.>",
    "$JS.EVENT.>",
    "$SYS.>",
    "$SRV.>",
    "$KV.>",
    "$MQTT.>",
    "_VOID.>",
];

/// What mal may not publish to.
const NO_PUBLISH: [&str; 28] = [
    "chat.room.main.lobby.log",
    "chat.room.main.lobby.now",
    "chat.user.main.dave",
    "chat.in.main.dave.lobby.msg",
    "chat.in.other.mal.lobby.msg",
    "chat.api.main.dave.rooms.list",
    "chat.log.0.1",
    "chat.fan.main.lobby",
    "chat.write.0",
    "chat.store.history",
    "chat.authz.x.settle",
    "_INBOX.main.dave.x",
    "_INBOX_bridge.x",
    "_VOID.room.main.lobby.log",
    "$JS.API.INFO",
    "$JS.API.STREAM.CREATE.X",
    "$JS.API.STREAM.INFO.CHAT_LOG_0_1",
    "$JS.API.STREAM.PURGE.CHAT_LOG_0_1",
    "$JS.API.STREAM.DELETE.CHAT_LOG_0_1",
    "$JS.API.STREAM.MSG.GET.CHAT_LOG_0_1",
    "$JS.API.DIRECT.GET.CHAT_ROOMS_0",
    "$JS.API.CONSUMER.CREATE.CHAT_LOG_0_1.x",
    "$JS.ACK.CHAT_LOG_0_1.archive.1.1.1.1.0",
    "$KV.CHAT_LEASE.writer.0",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.ACCOUNT.PING.CONNZ",
    "$SRV.PING",
    "$MQTT.sess.x",
];

/// What mal may not listen on over MQTT.
const NO_FILTER: [&str; 16] = [
    "#",
    "+/#",
    "chat/#",
    "chat/room/#",
    "chat/room/+/+/log",
    "chat/room/main/+/log",
    "chat/user/main/+",
    "chat/user/main/dave",
    "chat/in/#",
    "chat/log/#",
    "_INBOX/#",
    "_INBOX/main/dave/#",
    "$SYS/#",
    "$JS/#",
    "$MQTT/#",
    "$KV/#",
];

/// What mal may not publish to over MQTT.
const NO_TOPIC: [&str; 10] = [
    "chat/room/main/lobby/log",
    "chat/user/main/dave",
    "chat/in/main/dave/lobby/msg",
    "chat/log/0/1",
    "chat/fan/main/lobby",
    "chat/write/0",
    "_INBOX/main/dave/x",
    "$MQTT/sess/x",
    "$JS/API/STREAM/PURGE/CHAT_LOG_0_1",
    "$SYS/REQ/SERVER/PING",
];

/// Where mal would like answers to go.
const REPLIES: [&str; 23] = [
    "chat.in.main.alice.lobby.msg",
    "chat.in.main.dave.lobby.msg",
    "chat.api.main.alice.members.put",
    "chat.room.main.lobby.log",
    "chat.room.main.lobby.now",
    "chat.user.main.dave",
    "chat.log.0.1",
    "chat.fan.main.lobby",
    "chat.write.0",
    "chat.store.history",
    "$JS.API.STREAM.PURGE.CHAT_LOG_0_1",
    "$JS.API.STREAM.DELETE.CHAT_LOG_0_1",
    "$JS.API.STREAM.MSG.DELETE.CHAT_LOG_0_1",
    "$JS.API.STREAM.PURGE.CHAT_ROOMS_0",
    "$JS.API.STREAM.DELETE.CHAT_ROOMS_0",
    "$JS.API.STREAM.DELETE.KV_CHAT_LEASE",
    "$JS.ACK.CHAT_LOG_0_1.archive.1.1.1.1.0",
    "$KV.CHAT_LEASE.writer.0",
    "$SYS.REQ.SERVER.PING",
    "$MQTT.msgs.chat.room.main.lobby.log",
    "_R_.abcdef.ghijkl",
    "_INBOX_bridge.x",
    "_INBOX_store.x",
];

/// A lobby with alice, bob who listens, dave, and mal who will try things; some messages stand in it.
struct Scene {
    house: House,
    bob: Nats,
    dave: Nats,
    mal: Nats,
    before: Vec<String>,
}

impl Scene {
    async fn set() -> Self {
        let house = House::start().await;
        house
            .room("lobby", &[("bob", "member"), ("dave", "member"), ("mal", "member")])
            .await;
        let (bob, dave, mal) = (
            house.nats("bob").await,
            house.nats("dave").await,
            house.nats("mal").await,
        );
        bob.listen(&["lobby"]).await;
        for subject in ["chat.user.main.dave", "_INBOX.main.dave.>"] {
            dave.subscribe(subject).await;
        }
        dave.settle().await;
        for number in 0..5 {
            house.http("alice").say("lobby", &format!("real {number}")).await;
        }
        let before = house.log();
        Self {
            house,
            bob,
            dave,
            mal,
            before,
        }
    }

    /// Looks that dave heard nothing but the answers to what he asked himself.
    fn dave_was_told_nothing(&self) {
        let told = self.dave.mail.all();
        let told: Vec<_> = told
            .iter()
            .filter(|got| !got.subject.starts_with("_INBOX.") || got.payload == "forged")
            .collect();
        assert!(told.is_empty(), "dave was told something: {told:?}");
    }

    /// Looks that all of it had no effect: the log begins as before, goes on unbroken, and the listeners heard exactly it.
    async fn nothing_happened(&self) {
        let fence = self.house.http("alice").say("lobby", "fence").await;
        let heard = |got: &[_]| {
            lines_of("lobby", got)
                .iter()
                .any(|line| parse(line)["seq"] == seq(&fence))
                .then_some(())
        };
        self.bob.mail.wait("bob hears the fence", heard).await;
        let log = self.house.log();
        assert_eq!(log[..self.before.len()], self.before, "the log was tampered with");
        let lobby: Vec<String> = log.into_iter().filter(|line| parse(line)["room"] == "lobby").collect();
        assert_unbroken(&lobby);
        let msgs: Vec<String> = lobby.into_iter().filter(|line| parse(line)["kind"] == "msg").collect();
        let bobs: Vec<String> = self
            .bob
            .mail
            .all()
            .iter()
            .map(|got| String::from_utf8_lossy(&got.payload).into_owned())
            .collect();
        assert_eq!(bobs, msgs, "what bob heard is not what stands in the log");
        let history = self.house.history("alice", "lobby", seq(&fence)).await;
        assert_eq!(history, msgs);
        for line in &msgs {
            let event = parse(line);
            assert!(event["from"] == "alice" || event["from"] == "mal", "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_subject_aims_at_nothing() {
    let scene = Scene::set().await;
    let (mal, dave) = (&scene.mal, &scene.dave);
    let asks = [
        ("chat.in.main.mal.lobby.msg", json!({"body": {"text": "abuse"}})),
        ("chat.in.main.mal.nowhere.msg", json!({"body": {"text": "abuse"}})),
        ("chat.api.main.mal.rooms.list", json!({})),
        ("chat.api.main.mal.history.get", json!({"room": "lobby"})),
        (
            "chat.api.main.mal.events.get",
            json!({"cursor": "earliest", "rooms": ["lobby"], "wait": 0}),
        ),
    ];
    for reply in REPLIES {
        for (subject, payload) in &asks {
            mal.publish_with_reply(subject, reply, payload.to_string()).await;
        }
    }
    mal.settle().await;
    // The one thing that is left: an answer into somebody's inbox, if one could guess it. It does not take the place of
    // the answer that is waited for.
    mal.publish_with_reply("chat.in.main.mal.nowhere.msg", "_INBOX.main.dave.guess", "abuse")
        .await;
    mal.settle().await;
    let receipt = dave.api("rooms.list", &json!({})).await;
    assert_eq!(receipt["rooms"][0]["id"], "lobby", "{receipt}");
    scene.dave_was_told_nothing();
    scene.nothing_happened().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_a_client_go_no_further() {
    let scene = Scene::set().await;
    let last = scene.before.len() as u64;
    let headers = [
        ("Nats-Rollup", "all".to_owned()),
        ("Nats-Rollup", "sub".to_owned()),
        ("Nats-Expected-Stream", "CHAT_LOG_0_1".to_owned()),
        ("Nats-Expected-Last-Sequence", last.to_string()),
        ("Nats-Expected-Last-Sequence", "0".to_owned()),
        ("Nats-Expected-Last-Subject-Sequence", "0".to_owned()),
        ("Nats-Expected-Last-Msg-Id", "x".to_owned()),
        ("Nats-TTL", "1s".to_owned()),
        ("Nats-Schedule", "@at 2020-01-01T00:00:00Z".to_owned()),
        ("Nats-Schedule-Target", "chat.room.main.lobby.log".to_owned()),
        ("Nats-Batch-Id", "abuse".to_owned()),
        ("Nats-Batch-Sequence", "1".to_owned()),
        ("Nats-Batch-Commit", "1".to_owned()),
        ("Nats-Incr", "1".to_owned()),
        ("Nats-Marker-Reason", "Purge".to_owned()),
        ("Nats-Trace-Dest", "chat.room.main.lobby.log".to_owned()),
        ("Nats-Trace-Dest", "chat.in.main.mal.lobby.msg".to_owned()),
        ("Nats-Service-Error", "abuse".to_owned()),
        ("Nmqtt-Pub", "1".to_owned()),
        ("Chat-Seq", "1".to_owned()),
    ];
    for (name, value) in &headers {
        let mut header = HeaderMap::new();
        header.insert(*name, value.as_str());
        let text = format!("with {name}: {value}");
        let payload = json!({"body": {"text": text}}).to_string();
        let asked = scene.mal.request("chat.in.main.mal.lobby.msg", payload, header);
        // It counts as the message that it is. (A trace that may not be delivered makes the server drop the message.)
        match tokio::time::timeout(Duration::from_secs(3), asked).await {
            Ok(answer) => {
                let receipt = crate::support::nats::parse(&answer.unwrap());
                assert!(receipt["id"].is_string(), "{name}: {receipt}");
            }
            Err(_) => assert_eq!(*name, "Nats-Trace-Dest", "no answer"),
        }
    }
    scene.nothing_happened().await;
    for got in scene.bob.mail.all() {
        for (name, value) in &headers {
            assert_ne!(
                got.headers.get(&name.to_lowercase()),
                Some(value),
                "{name} went through: {got:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_id_of_somebody_else_swallows_nothing() {
    let scene = Scene::set().await;
    let first = parse(scene.before.last().unwrap())["id"].as_str().unwrap().to_owned();
    for id in [first.as_str(), "shared"] {
        for (who, name) in [(&scene.mal, "mal"), (&scene.dave, "dave")] {
            let mut header = HeaderMap::new();
            header.insert("Nats-Msg-Id", id);
            let payload = json!({"body": {"text": format!("{name} {id}")}}).to_string();
            let answer = who
                .request(&format!("chat.in.main.{name}.lobby.msg"), payload, header)
                .await
                .unwrap();
            let receipt = crate::support::nats::parse(&answer);
            assert_eq!(receipt["duplicate"], false, "{receipt}");
        }
    }
    let msgs: Vec<String> = scene.house.log()[scene.before.len()..].to_vec();
    let expected = [
        format!("mal {first}"),
        format!("dave {first}"),
        "mal shared".into(),
        "dave shared".into(),
    ];
    assert_eq!(texts(&msgs), expected, "each stands");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_ones_own_subjects_are_open() {
    let scene = Scene::set().await;
    for subject in NO_SUBSCRIPTION {
        scene.mal.subscribe(subject).await;
        scene.mal.is_refused("subscription", subject).await;
    }
    for subject in NO_PUBLISH {
        scene.mal.client.publish(subject, "forged".into()).await.unwrap();
        // What clients hear events on is mapped away before it is judged.
        let judged = ["chat.room.", "chat.user."].iter().find_map(|prefix| {
            let rest = subject.strip_prefix(prefix)?;
            Some(format!("_VOID.{}{rest}", &prefix["chat.".len()..]))
        });
        scene
            .mal
            .is_refused("publish", judged.as_deref().unwrap_or(subject))
            .await;
    }
    scene.nothing_happened().await;
    assert!(scene.mal.mail.all().is_empty(), "{:?}", scene.mal.mail.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_ones_own_topics_are_open() {
    let scene = Scene::set().await;
    let mal = scene.house.mqtt("mal").await;
    for filter in NO_FILTER {
        assert!(!mal.subscribe(filter).await, "{filter} was granted");
    }
    // MQTT acknowledges what the server then drops.
    for topic in NO_TOPIC {
        mal.publish(topic, "forged").await;
    }
    mal.publish("chat/in/main/mal/lobby/msg", "a real one").await;
    scene
        .bob
        .mail
        .wait("bob hears the real one", |got| {
            texts(&lines_of("lobby", got))
                .contains(&"a real one".to_owned())
                .then_some(())
        })
        .await;
    scene.nothing_happened().await;
    assert!(mal.mail.all().is_empty(), "{:?}", mal.mail.all());
    scene.dave_was_told_nothing();
}
