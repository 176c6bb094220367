use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, HeaderMap, Message, Request};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::eventually;
use super::mailbox::{Delivery, Mailbox};
use super::roles::uuid;

/// How long a request waits for its answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How long one waits that may be asked again.
const AGAIN: Duration = Duration::from_secs(3);

/// A user who speaks NATS, by async-nats. It reconnects by itself, as that client does.
pub(crate) struct Nats {
    pub(crate) client: Client,
    pub(crate) user: String,
    /// Everything that came in on its subscriptions.
    pub(crate) mail: Mailbox<Delivery>,
    /// What happened to its connection: `connected`, `disconnected`, `server error: …`.
    pub(crate) happened: Mailbox<String>,
}

impl Nats {
    /// Signs in as a user of tenant `main`.
    pub(crate) async fn connect(url: &str, user: &str, token: &str) -> Result<Self, async_nats::ConnectError> {
        let happened = Mailbox::new();
        let told = happened.clone();
        let client = ConnectOptions::with_token(token.to_owned())
            .custom_inbox_prefix(format!("_INBOX.main.{user}"))
            .connection_timeout(Duration::from_secs(20))
            .request_timeout(Some(ANSWER))
            .reconnect_delay_callback(|_| Duration::from_millis(20))
            .event_callback(move |event| {
                told.put(describe(&event));
                std::future::ready(())
            })
            .connect(url)
            .await?;
        Ok(Self {
            client,
            user: user.to_owned(),
            mail: Mailbox::new(),
            happened,
        })
    }

    /// Listens on a subject. The server may refuse that; see [`Nats::is_refused`].
    pub(crate) async fn subscribe(&self, subject: &str) {
        let mut subscription = self.client.subscribe(subject.to_owned()).await.unwrap();
        let mail = self.mail.clone();
        tokio::spawn(async move {
            while let Some(message) = subscription.next().await {
                mail.put(delivery(message));
            }
        });
    }

    /// Listens to rooms and waits until the server has taken that in.
    pub(crate) async fn listen(&self, rooms: &[&str]) {
        for room in rooms {
            self.subscribe(&format!("chat.room.main.{room}.log")).await;
        }
        self.settle().await;
    }

    /// Waits until the server has handled everything that this client said before.
    pub(crate) async fn settle(&self) {
        let answer = self.api("rooms.list", &json!({})).await;
        assert!(answer["rooms"].is_array(), "{answer}");
    }

    /// Where this user asks for an event of a room.
    pub(crate) fn inbound(&self, room: &str, kind: &str) -> String {
        format!("chat.in.main.{}.{room}.{kind}", self.user)
    }

    /// Sends to a room and gives the receipt or the problem.
    pub(crate) async fn send(&self, room: &str, payload: &Value) -> Value {
        let subject = self.inbound(room, "msg");
        parse(
            &self
                .request(&subject, payload.to_string(), HeaderMap::new())
                .await
                .unwrap(),
        )
    }

    /// Sends a text to a room and gives the receipt or the problem.
    pub(crate) async fn say(&self, room: &str, text: &str) -> Value {
        let payload = json!({"key": uuid(), "body": {"text": text}});
        eventually("a receipt or a problem", async || self.ask(room, "msg", &payload).await).await
    }

    /// Asks for an event with a key. `None` if there is no answer: the connection may be renewed meanwhile, and the answer
    /// be lost with it. Then it is to be asked again.
    pub(crate) async fn ask(&self, room: &str, kind: &str, payload: &Value) -> Option<Value> {
        let subject = self.inbound(room, kind);
        let asked = self.client.request(subject, payload.to_string().into());
        let answer = tokio::time::timeout(AGAIN, asked).await.ok()?.ok()?;
        Some(parse(&answer))
    }

    /// Asks one of the services: `events.get`, `history.get`, `rooms.list`, `members.put`.
    pub(crate) async fn api(&self, verb: &str, payload: &Value) -> Value {
        let subject = format!("chat.api.main.{}.{verb}", self.user);
        parse(
            &self
                .request(&subject, payload.to_string(), HeaderMap::new())
                .await
                .unwrap(),
        )
    }

    pub(crate) async fn request(
        &self,
        subject: &str,
        payload: impl Into<Bytes>,
        headers: HeaderMap,
    ) -> Result<Message, async_nats::RequestError> {
        let request = Request::new()
            .payload(payload.into())
            .headers(headers)
            .timeout(Some(ANSWER));
        self.client.send_request(subject.to_owned(), request).await
    }

    /// Publishes with a reply subject of the client's own choice.
    pub(crate) async fn publish_with_reply(&self, subject: &str, reply: &str, payload: impl Into<Bytes>) {
        self.client
            .publish_with_reply(subject.to_owned(), reply.to_owned(), payload.into())
            .await
            .unwrap();
    }

    /// Waits until the server has said that it refuses something with this subject.
    pub(crate) async fn is_refused(&self, operation: &str, subject: &str) {
        let wanted = format!("permissions violation for {operation} to \"{subject}\"").to_lowercase();
        let what = format!("{} is refused: {wanted}", self.user);
        self.happened
            .wait(&what, |all| {
                all.iter()
                    .any(|line| line.to_lowercase().contains(&wanted))
                    .then_some(())
            })
            .await;
    }

    /// How often it has been connected.
    pub(crate) fn connections(&self) -> usize {
        self.happened.all().iter().filter(|line| *line == "connected").count()
    }
}

fn describe(event: &Event) -> String {
    match event {
        Event::Connected => "connected".to_owned(),
        Event::Disconnected => "disconnected".to_owned(),
        other => other.to_string(),
    }
}

fn delivery(message: Message) -> Delivery {
    let headers = message.headers.unwrap_or_default();
    let headers = headers.iter().flat_map(|(name, values)| {
        values
            .iter()
            .map(move |value| (name.to_string().to_lowercase(), value.to_string()))
    });
    Delivery {
        subject: message.subject.to_string(),
        headers: headers.collect(),
        payload: message.payload,
    }
}

/// An answer's JSON.
pub(crate) fn parse(message: &Message) -> Value {
    serde_json::from_slice(&message.payload).unwrap_or_else(|error| panic!("no JSON ({error}): {message:?}"))
}
