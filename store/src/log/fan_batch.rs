//! A publisher for ROOMS behind which nothing can be stored once something was lost: nats-server's fast-ingest batch.
//!
//! Every message of a batch carries its number in its reply subject, `{inbox}.{flow}.fail.{number}.{operation}.$FI`, whose
//! inbox ends with the batch's name. The leader of the stream takes number n only behind n - 1 and refuses a batch that it
//! does not know, so that what is lost with a connection, a server or a leader is a tail, never a hole. Nothing of it is
//! stored or republished. nats-architecture-and-design ADR-50, "Fast-ingest Batch Publishing"; nats-server 2.14.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use natterjack_nats_config::contract::Seq;
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use super::fan_out::{Interrupted, interrupted};

/// ROOMS acknowledges every so many messages, or more often while other batches are open.
const FLOW: u64 = 128;
/// Messages on their way without an ack. Some acks' worth, so that ROOMS never waits; and, all of them of the greatest size
/// (128 KiB), half of what the server lets wait for one stream.
const WINDOW: u64 = 512;
/// How long an answer may take before the fan-out starts again from what ROOMS holds.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A pause this long is used to ask whether all has arrived; the server answers only every [`FLOW`] messages by itself.
const LULL: Duration = Duration::from_millis(50);
/// How often a silent batch is asked after. The server forgets one after 10 s; and a change of ROOMS' leader that took
/// something shows only then.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How often a batch is begun before it is given up. In a cluster a new subject needs a moment to be known at all servers.
const BEGINNINGS: usize = 20;
const BEGIN_AGAIN: Duration = Duration::from_millis(25);

/// The header of a beginning that names the server which took it in: it has another name after each start.
pub(super) const SERVER: &str = "Chat-Server";

/// Up to which event nobody has to hear any: ROOMS has stored them, and so republished them, as far as it has said, or they are
/// history. Remembered from batch to batch.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    upto: Arc<AtomicU64>,
    /// Up to which event they went to a server that was there: somebody may have heard them.
    sent: Arc<AtomicU64>,
    /// What stood in the log before this worker led.
    before: Seq,
    /// There is one copy of ROOMS: what has arrived at its leader is stored.
    one_copy: bool,
}

fn connects(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}

/// An open batch.
pub(super) struct Batch {
    client: Client,
    /// Where the beginning goes, and questions, which are not stored.
    subject: String,
    inbox: String,
    answers: Subscriber,
    /// The number of the last message.
    sent: u64,
    /// All up to this number is stored.
    stored: u64,
    /// The numbers of the events that are on their way.
    on_its_way: VecDeque<(u64, Seq)>,
    heard: Heard,
    /// How often the client had connected when the batch began: what goes over a later connection reaches no batch.
    connects: u64,
    /// All up to this number has arrived at ROOMS' leader.
    arrived: u64,
    /// When something was sent for the last time.
    sent_at: Instant,
    /// When it was asked whether all has arrived, while there is no answer.
    asked_at: Option<Instant>,
}

/// The third token from the end of a reply subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Begin = 0,
    Append = 1,
    /// Ends the batch, is itself not stored, and is answered once all else is.
    End = 3,
    /// Is not stored, has the number of the last message and is answered at once.
    Ask = 4,
}

/// What the server says to a batch while all is well.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// All up to this number is stored.
    Stored(u64),
    /// All up to the first number has arrived, all up to the second is stored.
    Arrived(u64, u64),
}

/// `{"type":"ack","seq":384,"msgs":128}`. Other types tell of a gap or an error.
#[derive(Deserialize)]
struct FlowAck {
    r#type: String,
    seq: u64,
}

/// The end of a batch: `{"stream":…,"seq":9001,"batch":…,"count":384}`; `count` is the number of its last message.
#[derive(Deserialize)]
struct BatchAck {
    seq: u64,
    count: u64,
}

impl Heard {
    /// Nothing is known yet; `before` is where the log stood when this worker began to lead.
    pub(super) fn of(replicas: usize, before: Seq) -> Self {
        Self {
            upto: Arc::default(),
            sent: Arc::default(),
            before,
            one_copy: replicas <= 1,
        }
    }

    /// ROOMS has one copy, which a server that dies may have stored and not written to disk.
    pub(super) fn is_one_copy(&self) -> bool {
        self.one_copy
    }

    /// Up to which event somebody may have heard them; what came before this worker led, an earlier one may have told.
    pub(super) fn may_be(&self) -> Seq {
        self.before.max(self.upto()).max(Seq(self.sent.load(Ordering::Relaxed)))
    }

    pub(super) fn upto(&self) -> Seq {
        Seq(self.upto.load(Ordering::Relaxed))
    }

    pub(super) fn note(&self, seq: Seq) {
        self.upto.fetch_max(seq.0, Ordering::Relaxed);
    }
}

impl Batch {
    /// Begins a batch behind ROOMS' sequence `rooms_seq`, and fails if that is not its last one.
    ///
    /// The first message only marks the beginning, with the place of the last event; ROOMS holds it and republishes it to
    /// nobody. It is judged where messages are stored, behind all that arrived before it: what was still on its
    /// way when `rooms_seq` was read makes it fail, and with it the batch.
    pub(super) async fn begin(
        client: &Client,
        subject: String,
        rooms_seq: u64,
        chat_seq: Seq,
        heard: Heard,
    ) -> Result<Self, Interrupted> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.>")).await.map_err(interrupted)?;
        let mut batch = Self {
            client: client.clone(),
            subject,
            inbox,
            answers,
            sent: 1,
            stored: 0,
            on_its_way: VecDeque::new(),
            heard,
            connects: connects(client),
            arrived: 0,
            sent_at: Instant::now(),
            asked_at: None,
        };
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Sequence", rooms_seq.to_string());
        headers.insert("Chat-Seq", chat_seq.to_string());
        headers.insert(SERVER, client.server_info().server_id);
        for _ in 0..BEGINNINGS {
            let reply = batch.reply(Operation::Begin);
            client
                .publish_with_reply_and_headers(batch.subject.clone(), reply, headers.clone(), Bytes::new())
                .await
                .map_err(interrupted)?;
            let answer = batch.answer().await?;
            if answer.status != Some(StatusCode::NO_RESPONDERS) {
                batch.take(&answer)?;
                return Ok(batch);
            }
            tokio::time::sleep(BEGIN_AGAIN).await;
        }
        Err(Interrupted("ROOMS does not take in the new term".to_owned()))
    }

    /// Sends a message behind those before it, and waits while too many are on their way.
    pub(super) async fn put(
        &mut self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        seq: Seq,
    ) -> Result<(), Interrupted> {
        while self.sent - self.stored >= WINDOW {
            let answer = self.answer().await?;
            self.take(&answer)?;
        }
        self.sent += 1;
        self.sent_at = Instant::now();
        self.on_its_way.push_back((self.sent, seq));
        if self.client.connection_state() == State::Connected && connects(&self.client) == self.connects {
            self.heard.sent.fetch_max(seq.0, Ordering::Relaxed);
        }
        let reply = self.reply(Operation::Append);
        self.client
            .publish_with_reply_and_headers(subject, reply, headers, payload)
            .await
            .map_err(interrupted)
    }

    /// Sees to the batch until something is lost: takes what the server says, and asks when there was nothing for a
    /// while. Dropping the future loses nothing.
    pub(super) async fn watch(&mut self) -> Result<std::convert::Infallible, Interrupted> {
        loop {
            let until = self.next_look();
            if let Ok(answer) = tokio::time::timeout_at(until, self.answers.next()).await {
                self.take(&answer.ok_or_else(ended)?)?;
                continue;
            }
            if self.asked_at.is_some() {
                return Err(silent());
            }
            self.ask().await?;
        }
    }

    /// Ends the batch once all of it is stored, and gives back ROOMS' sequence.
    pub(super) async fn end(mut self) -> Result<u64, Interrupted> {
        let all = self.sent;
        self.sent += 1;
        self.say(Operation::End).await?;
        loop {
            let answer = self.answer().await?;
            match serde_json::from_slice::<BatchAck>(&answer.payload) {
                Ok(ack) if ack.count == all => {
                    self.is_stored(all);
                    return Ok(ack.seq);
                }
                _ => self.take(&answer)?,
            }
        }
    }

    fn next_look(&self) -> Instant {
        match self.asked_at {
            Some(asked) => asked + ANSWER_WITHIN,
            None if self.arrived < self.sent => self.sent_at + LULL,
            None => self.sent_at + ASK_EVERY,
        }
    }

    async fn ask(&mut self) -> Result<(), Interrupted> {
        self.say(Operation::Ask).await?;
        // Only now: who drops this future has asked, or will ask again.
        let now = Instant::now();
        (self.sent_at, self.asked_at) = (now, Some(now));
        Ok(())
    }

    async fn say(&self, operation: Operation) -> Result<(), Interrupted> {
        let reply = self.reply(operation);
        self.client
            .publish_with_reply(self.subject.clone(), reply, Bytes::new())
            .await
            .map_err(interrupted)
    }

    async fn answer(&mut self) -> Result<Message, Interrupted> {
        let answer = timeout(ANSWER_WITHIN, self.answers.next()).await;
        answer.map_err(|_| silent())?.ok_or_else(ended)
    }

    fn take(&mut self, message: &Message) -> Result<(), Interrupted> {
        match read(&message.subject, &message.payload) {
            Some(Answer::Stored(number)) => self.is_stored(number),
            Some(Answer::Arrived(number, stored)) => {
                self.arrived = self.arrived.max(number);
                self.is_stored(if self.heard.one_copy { number } else { stored });
                self.asked_at = None;
            }
            None => {
                let said = String::from_utf8_lossy(&message.payload);
                let status = message.status;
                return Err(Interrupted(format!("ROOMS answered {said} {status:?}")));
            }
        }
        Ok(())
    }

    fn is_stored(&mut self, upto: u64) {
        self.stored = self.stored.max(upto);
        while let Some((_, seq)) = self.on_its_way.pop_front_if(|(number, _)| *number <= upto) {
            self.heard.note(seq);
        }
    }

    fn reply(&self, operation: Operation) -> String {
        format!("{}.{FLOW}.fail.{}.{}.$FI", self.inbox, self.sent, operation as u8)
    }
}

/// Understands an answer; `None` when it says anything else than that all is well.
fn read(subject: &str, payload: &[u8]) -> Option<Answer> {
    let ack: FlowAck = serde_json::from_slice(payload)
        .ok()
        .filter(|ack: &FlowAck| ack.r#type == "ack")?;
    // The server answers on the reply subject of some message, and a question on its own.
    let mut tokens = subject.rsplit('.').skip(1);
    let (operation, number) = (tokens.next()?, tokens.next()?);
    if operation.parse() == Ok(Operation::Ask as u8) {
        return Some(Answer::Arrived(number.parse().ok()?, ack.seq));
    }
    Some(Answer::Stored(ack.seq))
}

fn ended() -> Interrupted {
    Interrupted("the subscription ended".to_owned())
}

fn silent() -> Interrupted {
    Interrupted("ROOMS does not answer".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ack_says_that_all_is_well() {
        let appended = "_INBOX_store.abc.128.fail.257.1.$FI";
        let asked = "_INBOX_store.abc.128.fail.300.4.$FI";
        let rows: [(&str, &str, Option<Answer>); 8] = [
            (
                appended,
                r#"{"type":"ack","seq":256,"msgs":128}"#,
                Some(Answer::Stored(256)),
            ),
            (
                asked,
                r#"{"type":"ack","seq":256,"msgs":128}"#,
                Some(Answer::Arrived(300, 256)),
            ),
            (appended, r#"{"type":"gap","last_seq":10,"seq":15}"#, None),
            (asked, r#"{"type":"gap","last_seq":10,"seq":15}"#, None),
            (
                appended,
                r#"{"type":"err","seq":1,"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1"}}"#,
                None,
            ),
            (
                appended,
                r#"{"stream":"CHAT_ROOMS_0","seq":0,"error":{"code":400,"err_code":10208,"description":"batch publish ID unknown"}}"#,
                None,
            ),
            (
                appended,
                r#"{"stream":"CHAT_ROOMS_0","seq":7,"batch":"abc","count":7}"#,
                None,
            ),
            (appended, "", None),
        ];
        for (subject, payload, expected) in rows {
            assert_eq!(read(subject, payload.as_bytes()), expected, "{subject} {payload}");
        }
    }
}
