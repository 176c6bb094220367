//! An internal tool with a NATS account of its own.

use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::consumer::{self, PullConsumer};
use async_nats::jetstream::{self, AckKind, stream};
use futures_util::StreamExt;
use serde::Deserialize;

use crate::support::DEADLINE;
use crate::support::events::{assert_unbroken, lines_of, parse, texts};
use crate::support::house::House;
use crate::support::mailbox::Delivery;
use crate::support::poll::Poll;

/// What `natterjack nats tool` prints.
#[derive(Deserialize)]
struct Credentials {
    url: String,
    seed: String,
    subject: String,
}

impl Credentials {
    fn make(house: &House, name: &str, tenant: &str) -> Self {
        let text = house.run(&["nats", "tool", name, "--tenant", tenant]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// A stream of the tool's own on the rooms that it imports, and an ordinary durable consumer on that.
    async fn durable_consumer(&self) -> PullConsumer {
        let jetstream = jetstream::new(self.connect().await);
        let config = stream::Config {
            name: "REPORTS".into(),
            subjects: vec![self.subject.clone()],
            ..stream::Config::default()
        };
        let stream = jetstream.create_stream(config).await.unwrap();
        let config = consumer::pull::Config {
            durable_name: Some("report".into()),
            ..consumer::pull::Config::default()
        };
        stream.create_consumer(config).await.unwrap()
    }

    async fn connect(&self) -> async_nats::Client {
        ConnectOptions::with_nkey(self.seed.clone())
            .connect(&self.url)
            .await
            .unwrap()
    }
}

/// Takes so many messages of rooms from a consumer, acknowledging each. What concerns the tenant itself (`_`) comes too.
async fn take(consumer: &PullConsumer, count: usize) -> Vec<Delivery> {
    let mut messages = consumer.messages().await.unwrap();
    let mut got = Vec::new();
    while got.len() < count {
        let next = tokio::time::timeout(DEADLINE, messages.next()).await;
        let message = next.unwrap_or_else(|_| panic!("only {} of {count} events came", got.len()));
        let message = message.unwrap().unwrap();
        if !message.subject.ends_with("._.log") {
            got.push(Delivery::new(&message.subject, message.payload.clone()));
        }
        message.ack_with(AckKind::Ack).await.unwrap();
    }
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_keeps_a_tenants_rooms_in_a_stream_of_its_own() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    house.room("other", &[]).await;
    let (bob, poll) = (house.nats("bob").await, Poll::from_now(&house.http("alice")).await);
    bob.listen(&["lobby"]).await;

    let tool = Credentials::make(&house, "reports", "main");
    let consumer = tool.durable_consumer().await;
    let alice = house.http("alice");
    for number in 0..20 {
        alice.say("lobby", &format!("lobby {number}")).await;
        alice.say("other", &format!("other {number}")).await;
    }
    let got = take(&consumer, 40).await;
    for room in ["lobby", "other"] {
        let lines = lines_of(room, &got);
        assert_unbroken(&lines);
        assert_eq!(
            texts(&lines),
            (0..20).map(|number| format!("{room} {number}")).collect::<Vec<_>>()
        );
        let polled = poll
            .mail
            .wait("alice has all", |all| {
                (lines_of(room, all).len() == 20).then(|| all.to_vec())
            })
            .await;
        assert_eq!(lines, lines_of(room, &polled), "the same bytes as everybody gets");
    }
    let seqs: Vec<u64> = got.iter().map(seq_of).collect();
    assert!(seqs.is_sorted(), "log order over all rooms: {seqs:?}");

    // Letting the tool in renewed everybody's connection; they are back.
    bob.mail
        .wait("bob hears the last message", |got| {
            (texts(&lines_of("lobby", got)).last()? == "lobby 19").then_some(())
        })
        .await;
}

fn seq_of(delivery: &Delivery) -> u64 {
    parse(std::str::from_utf8(&delivery.payload).unwrap())["seq"]
        .as_u64()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_reads_one_tenant_and_writes_nothing() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let tool = Credentials::make(&house, "reports", "other").connect().await;
    let own = Credentials::make(&house, "own", "main").connect().await;
    let mut foreign = tool.subscribe("chat.>").await.unwrap();
    let mut live = own.subscribe("chat.room.main.*.log").await.unwrap();
    for client in [&tool, &own] {
        // An answer on the same connection: the server knows of the subscription now.
        async_nats::jetstream::new(client.clone())
            .query_account()
            .await
            .unwrap();
    }
    let bob = house.nats("bob").await;
    bob.listen(&["lobby"]).await;
    let before = house.log();

    let forged = r#"{"v":1,"seq":1,"n":1,"room":"lobby","from":"alice","kind":"msg","body":{"text":"forged"}}"#;
    for subject in [
        "chat.room.main.lobby.log",
        "chat.fan.main.lobby",
        "chat.log.0.1",
        "chat.write.0",
    ] {
        own.publish(subject, forged.into()).await.unwrap();
    }
    let asked = own.request("chat.in.main.alice.lobby.msg", r#"{"body":{"text":"forged"}}"#.into());
    let asked = tokio::time::timeout(Duration::from_secs(20), asked).await.unwrap();
    assert!(asked.is_err(), "a tool may not send: {asked:?}");

    house.http("alice").say("lobby", "real").await;
    // Its own publishes stay in its own account, where it hears them itself.
    loop {
        let message = tokio::time::timeout(DEADLINE, live.next()).await.unwrap().unwrap();
        if message.payload != forged {
            assert_eq!(texts(&[String::from_utf8(message.payload.to_vec()).unwrap()]), ["real"]);
            break;
        }
    }
    let lines = bob
        .mail
        .wait("bob has the message", |got| {
            (!got.is_empty()).then(|| lines_of("lobby", got))
        })
        .await;
    assert_eq!(texts(&lines), ["real"]);
    assert_eq!(house.log()[..before.len()], before);
    assert_eq!(house.log().len(), before.len() + 1);
    tool.publish("chat.room.other.x.log", "end".into()).await.unwrap();
    let first = tokio::time::timeout(DEADLINE, foreign.next()).await.unwrap().unwrap();
    assert_eq!(
        first.payload, "end",
        "a tool of another tenant hears nothing of this one"
    );
}
