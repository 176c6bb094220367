use std::time::Duration;

use async_nats::{Client, RequestErrorKind};
use natterjack_nats_config::contract::{InboundSubject, Kind, Subjects};

use super::http::{Answer, Http, NoAnswer};
use super::wire::{Answered, Refused};
use crate::history::Receipt;
use crate::house::TENANT;

/// How long a native client waits for a receipt before it asks again.
const NATIVE_LIMIT: Duration = Duration::from_secs(6);

/// How a message reaches the house.
pub(crate) enum Door {
    Http(HttpDoor),
    Nats(NatsDoor),
}

/// Over HTTP: one bridge after the other, by turns.
pub(crate) struct HttpDoor {
    bridges: Vec<Http>,
    turn: usize,
}

/// Straight over NATS.
pub(crate) struct NatsDoor {
    client: Client,
    user: String,
}

/// A message to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) room: &'a str,
    pub(crate) key: &'a str,
    pub(crate) text: &'a str,
}

/// What one attempt came to.
#[derive(Debug)]
pub(crate) enum Attempt {
    Receipt(Receipt),
    /// Surely not written, and it will be refused the next time too.
    Refused(String),
    /// Surely not written.
    NotTaken,
    Unknown,
}

impl Door {
    pub(crate) async fn attempt(&mut self, message: Message<'_>) -> Attempt {
        match self {
            Self::Http(door) => door.attempt(message).await,
            Self::Nats(door) => door.attempt(message).await,
        }
    }
}

impl HttpDoor {
    pub(crate) fn new(bridges: Vec<Http>, turn: usize) -> Self {
        Self { bridges, turn }
    }

    async fn attempt(&mut self, message: Message<'_>) -> Attempt {
        self.turn += 1;
        let number = self.bridges.len().max(1);
        let Some(http) = self.bridges.get_mut(self.turn % number) else {
            return Attempt::NotTaken;
        };
        let path = format!("/v1/rooms/{}/messages", message.room);
        match http.call(hyper::Method::POST, &path, &payload(message)).await {
            Ok(Answer {
                status: 200 | 201,
                body,
            }) => receipt(&body),
            Ok(Answer { body, .. }) => refusal(&body),
            Err(NoAnswer::NotSent) => Attempt::NotTaken,
            Err(NoAnswer::Unknown) => Attempt::Unknown,
        }
    }
}

impl NatsDoor {
    pub(crate) fn new(client: Client, user: &str) -> Self {
        Self {
            client,
            user: user.to_owned(),
        }
    }

    async fn attempt(&mut self, message: Message<'_>) -> Attempt {
        let Some(subject) = inbound(&self.user, message.room, Kind::Msg) else {
            return Attempt::NotTaken;
        };
        let request = async_nats::Request::new()
            .payload(payload(message).into())
            .timeout(Some(NATIVE_LIMIT));
        native(&self.client, subject, request).await
    }
}

/// Asks the writer straight over NATS, once.
pub(crate) async fn native(client: &Client, subject: String, request: async_nats::Request) -> Attempt {
    match client.send_request(subject, request).await {
        Ok(answer) => match answer
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Service-Error"))
        {
            Some(_) => refusal(&answer.payload),
            None => receipt(&answer.payload),
        },
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Attempt::NotTaken,
        Err(_) => Attempt::Unknown,
    }
}

/// Where a user asks the writer.
pub(crate) fn inbound(user: &str, room: &str, kind: Kind) -> Option<String> {
    let to = InboundSubject {
        tenant: TENANT.parse().ok()?,
        user: user.parse().ok()?,
        room: room.parse().ok()?,
        kind,
    };
    Some(Subjects::default().inbound(&to))
}

pub(crate) fn payload(message: Message<'_>) -> String {
    serde_json::json!({"key": message.key, "body": {"text": message.text}}).to_string()
}

fn receipt(body: &[u8]) -> Attempt {
    serde_json::from_slice::<Answered>(body).map_or(Attempt::Unknown, |answered| Attempt::Receipt(answered.receipt()))
}

fn refusal(body: &[u8]) -> Attempt {
    match serde_json::from_slice::<Refused>(body) {
        // Nothing of it was written, but it stays so: there is no use in asking again at once.
        Ok(refused) if refused.code == "log-full" => Attempt::Refused(refused.code),
        Ok(refused) if refused.retryable => Attempt::Unknown,
        Ok(refused) => Attempt::Refused(refused.code),
        Err(_) => Attempt::Unknown,
    }
}
