use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use natterjack_bridge::Caps;
use natterjack_nats_config::contract::{HISTORY_VERB, HistoryQuery, Seq};
use serde_json::{Value, json};

use super::support::{Ask, Book, Bridge, Nats, member};

/// Stands where the archive stands.
struct AtTheArchive {
    client: Client,
    questions: Subscriber,
}

impl AtTheArchive {
    async fn new(book: &Book) -> Self {
        let questions = book
            .client
            .subscribe(book.log.subjects.store_service(HISTORY_VERB))
            .await
            .unwrap();
        // An answer to something else on the same connection: the server knows of the subscription now.
        book.log.end(&book.client).await.unwrap();
        Self {
            client: book.client.clone(),
            questions,
        }
    }

    async fn answer_one(&mut self, watermark: Seq, messages: &[Value]) -> HistoryQuery {
        let question = self.questions.next().await.unwrap();
        let page = json!({"watermark": watermark, "messages": messages, "next": 7});
        self.client
            .publish(question.reply.unwrap(), page.to_string().into())
            .await
            .unwrap();
        serde_json::from_slice(&question.payload).unwrap()
    }
}

#[tokio::test]
async fn without_the_archive_history_lags_and_the_rest_goes_on() {
    let nats = Nats::start().await;
    let _book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let token = bridge.token("alice");
    assert_eq!(
        bridge.get("/v1/rooms/lobby/messages", &token).await.problem(),
        "store-lagging"
    );
    assert!(bridge.get("/v1/events?wait=0", &token).await.seqs().is_empty());
    bridge.shutdown().await;
}

#[tokio::test]
async fn history_is_the_archive_s_page_as_it_is() {
    let nats = Nats::start().await;
    let mut book = Book::with_lobby(&nats).await;
    let seq = book.say("lobby", "hello").await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let token = bridge.token("alice");
    let messages = [json!({"seq": seq, "body": {"text": "hello"}})];
    let mut archive = AtTheArchive::new(&book).await;
    let (reply, query) = tokio::join!(
        bridge.get("/v1/rooms/lobby/messages?before=9999999&limit=3", &token),
        archive.answer_one(seq, &messages)
    );
    assert_eq!(
        (query.before, query.limit, query.visible_from),
        (Some(Seq(9_999_999)), 3, Seq::ZERO)
    );
    assert_eq!(reply.json(), json!({"messages": messages, "next": 7}));
    assert_eq!(reply.header("cache-control"), "private, no-cache");

    let etag = reply.header("etag");
    let headers: &[(&str, &str)] = &[("if-none-match", etag)];
    let ask = Ask {
        path: "/v1/rooms/lobby/messages",
        token: Some(&token),
        headers,
        ..Ask::default()
    };
    let (again, _) = tokio::join!(bridge.ask(ask), archive.answer_one(seq, &messages));
    assert_eq!((again.status.as_u16(), again.bytes.len()), (304, 0));
    bridge.shutdown().await;
}

#[tokio::test]
async fn a_page_from_beyond_what_the_bridge_has_read_waits_and_is_judged_then() {
    let nats = Nats::start().await;
    let mut book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let token = bridge.token("bob");
    // The archive has read one frame more: the one in which bob is removed.
    let watermark = Seq::end_of_frame(2);
    let mut archive = AtTheArchive::new(&book).await;
    let (reply, ()) = tokio::join!(bridge.get("/v1/rooms/lobby/messages", &token), async {
        archive.answer_one(watermark, &[json!({"secret": true})]).await;
        book.frame(&[member("lobby", "bob", None)]).await;
    });
    assert_eq!(reply.problem(), "not-found");
    bridge.shutdown().await;
}
