use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use bytes::BytesMut;
use futures_util::StreamExt;
use http::Method;
use natterjack_bridge::Caps;
use natterjack_nats_config::contract::{
    Durability, Kind, Outcome, Problem, ProblemCode, Receipt, Request, Seq, read_bundle, write_outcome,
};
use serde_json::json;

use super::support::{Ask, Book, Bridge, Nats, member};

/// Stands where the writer stands, and can do what a writer in health never does: keep silent.
struct AtTheWriter {
    client: Client,
    bundles: Subscriber,
}

impl AtTheWriter {
    async fn new(book: &Book) -> Self {
        let bundles = book.client.subscribe(book.log.subjects.write(0)).await.unwrap();
        // An answer to something else on the same connection: the server knows of the subscription now.
        book.log.end(&book.client).await.unwrap();
        Self {
            client: book.client.clone(),
            bundles,
        }
    }

    /// Answers every bundle for ever, with what `decide` says.
    async fn answer(mut self, mut decide: impl FnMut(&Request) -> Outcome) {
        while let Some(message) = self.bundles.next().await {
            let requests = read_bundle(&message.payload).map(Result::unwrap);
            let outcomes: Vec<Outcome> = requests.map(|request| decide(&request)).collect();
            self.tell(message, &outcomes).await;
        }
    }

    async fn tell(&self, bundle: Message, outcomes: &[Outcome]) {
        let mut answers = BytesMut::new();
        for outcome in outcomes {
            write_outcome(&mut answers, outcome).unwrap();
        }
        let told = self.client.publish(bundle.reply.unwrap(), answers.freeze());
        told.await.unwrap();
    }
}

fn receipt(seq: u64, duplicate: bool) -> Outcome {
    Outcome::Receipt(Receipt {
        id: "e1".to_owned(),
        seq: Seq(seq),
        n: seq,
        at: "2026-11-23T06:00:00.123Z".to_owned(),
        durability: Durability::Log,
        duplicate,
    })
}

#[tokio::test]
async fn receipts_and_refusals_come_back_to_who_asked() {
    let nats = Nats::start().await;
    let book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let writer = AtTheWriter::new(&book)
        .await
        .answer(|request| match request.payload.key.as_deref() {
            Some("again") => receipt(7, true),
            Some("no") => Outcome::Problem(Problem::new(ProblemCode::IdempotencyMismatch, "other body")),
            _ => receipt(request.payload.body.get().len() as u64, false),
        });
    let writer = tokio::spawn(writer);
    let token = bridge.token("alice");
    let path = "/v1/rooms/lobby/messages";

    let sent = bridge.post(path, &token, &json!({"body": {"text": "hi"}})).await;
    assert_eq!(
        (sent.status.as_u16(), sent.header("location")),
        (201, "/v1/rooms/lobby/messages/e1")
    );
    assert_eq!(sent.json()["durability"], "log");
    let again = bridge.post(path, &token, &json!({"key": "again", "body": 1})).await;
    assert_eq!((again.status.as_u16(), &again.json()["duplicate"]), (200, &true.into()));
    let refused = bridge.post(path, &token, &json!({"key": "no", "body": 1})).await;
    assert_eq!(refused.problem(), "idempotency-mismatch");
    let by_key = Ask {
        method: Method::PUT,
        path: "/v1/rooms/lobby/messages/by-key/again",
        token: Some(&token),
        headers: &[("content-type", "text/plain")],
        body: b"hello".to_vec(),
    };
    assert_eq!(bridge.ask(by_key).await.json()["duplicate"], true);

    // Each of many gets its own.
    let many = (1..200usize).map(|length| {
        let (bridge, token) = (&bridge, &token);
        async move {
            let body = json!({"body": "x".repeat(length)});
            let reply = bridge.post(path, token, &body).await;
            assert_eq!(reply.json()["seq"], length + 2);
        }
    });
    futures_util::future::join_all(many).await;
    writer.abort();
    bridge.shutdown().await;
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_keys() {
    let nats = Nats::start().await;
    let book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let mut writer = AtTheWriter::new(&book).await;
    let token = bridge.token("alice");
    let body = json!({"body": {"text": "hi"}});
    let (sent, key) = tokio::join!(bridge.post("/v1/rooms/lobby/messages", &token, &body), async {
        let lost = writer.bundles.next().await.unwrap();
        let again = writer.bundles.next().await.unwrap();
        assert_eq!(lost.payload, again.payload);
        let request = read_bundle(&again.payload).next().unwrap().unwrap();
        let mut answers = BytesMut::new();
        write_outcome(&mut answers, &receipt(7, true)).unwrap();
        writer
            .client
            .publish(again.reply.unwrap(), answers.freeze())
            .await
            .unwrap();
        request.payload.key
    });
    assert!(key.is_some(), "a request without a key gets one");
    // The repetition was the bridge's own, so for the client it is the first time.
    assert_eq!((sent.status.as_u16(), &sent.json()["duplicate"]), (201, &false.into()));
    bridge.shutdown().await;
}

#[tokio::test]
async fn a_late_answer_to_the_first_attempt_counts() {
    let nats = Nats::start().await;
    let book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let mut writer = AtTheWriter::new(&book).await;
    let token = bridge.token("alice");
    let body = json!({"body": {"text": "hi"}});
    let (sent, ()) = tokio::join!(bridge.post("/v1/rooms/lobby/messages", &token, &body), async {
        let first = writer.bundles.next().await.unwrap();
        let _second = writer.bundles.next().await.unwrap();
        writer.tell(first, &[receipt(7, false)]).await;
    });
    assert_eq!(sent.status.as_u16(), 201);
    bridge.shutdown().await;
}

#[tokio::test]
async fn a_late_refusal_waits_for_what_the_next_attempt_comes_to() {
    let nats = Nats::start().await;
    let book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let mut writer = AtTheWriter::new(&book).await;
    let token = bridge.token("alice");
    let body = json!({"body": {"text": "hi"}});
    let (sent, ()) = tokio::join!(bridge.post("/v1/rooms/lobby/messages", &token, &body), async {
        let first = writer.bundles.next().await.unwrap();
        let second = writer.bundles.next().await.unwrap();
        // Both attempts reach the writer, and between them the sender becomes a member.
        let refused = Outcome::Problem(Problem::new(ProblemCode::NotFound, "no such room"));
        writer.tell(first, &[refused]).await;
        writer.tell(second, &[receipt(7, false)]).await;
    });
    assert_eq!(sent.status.as_u16(), 201);
    bridge.shutdown().await;
}

#[tokio::test]
async fn without_a_writer_it_is_said_whether_the_message_can_have_been_written() {
    let nats = Nats::start().await;
    let book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let token = bridge.token("alice");
    let body = json!({"body": {"text": "hi"}});
    let nobody = bridge.post("/v1/rooms/lobby/messages", &token, &body).await;
    assert_eq!(nobody.problem(), "broker-unavailable");

    let mut silent = AtTheWriter::new(&book).await;
    let seen = AtomicUsize::new(0);
    let (unknown, ()) = tokio::join!(bridge.post("/v1/rooms/lobby/messages", &token, &body), async {
        while let Ok(Some(_)) = tokio::time::timeout(Duration::from_secs(4), silent.bundles.next()).await {
            seen.fetch_add(1, Ordering::Relaxed);
        }
    });
    assert_eq!(unknown.problem(), "outcome-unknown");
    assert!(
        unknown.json()["detail"].as_str().unwrap().contains("with the key `"),
        "{unknown:?}"
    );
    assert!(seen.load(Ordering::Relaxed) > 1);

    // The next one is not held up by it.
    let writer = tokio::spawn(silent.answer(|_| receipt(1, false)));
    assert_eq!(
        bridge
            .post("/v1/rooms/lobby/messages", &token, &body)
            .await
            .status
            .as_u16(),
        201
    );
    writer.abort();
    bridge.shutdown().await;
}

#[tokio::test]
async fn a_change_of_members_says_how_far_it_has_reached() {
    let nats = Nats::start().await;
    let mut book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let mut writer = AtTheWriter::new(&book).await;
    let token = bridge.token("alice");
    let ask = Ask {
        method: Method::DELETE,
        path: "/v1/rooms/lobby/members/bob",
        token: Some(&token),
        ..Ask::default()
    };
    let (changed, request) = tokio::join!(bridge.ask(ask), async {
        let bundle = writer.bundles.next().await.unwrap();
        let request = read_bundle(&bundle.payload).next().unwrap().unwrap();
        let seq = book.frame(&[member("lobby", "bob", None)]).await;
        let mut answers = BytesMut::new();
        write_outcome(&mut answers, &receipt(seq.0, false)).unwrap();
        writer
            .client
            .publish(bundle.reply.unwrap(), answers.freeze())
            .await
            .unwrap();
        request
    });
    assert_eq!(
        (request.kind, request.payload.body.get()),
        (Kind::Member, r#"{"user":"bob","role":null}"#)
    );
    // No authz worker runs here, so nobody can have confirmed.
    let json = changed.json();
    assert_eq!(
        (changed.status.as_u16(), &json["state"], &json["connections_closed"]),
        (200, &"pending".into(), &0.into())
    );
    // But this bridge knows it already.
    assert_eq!(
        bridge.get("/v1/rooms/lobby", &bridge.token("bob")).await.problem(),
        "not-found"
    );
    bridge.shutdown().await;
}
