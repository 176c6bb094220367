use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use bytes::Bytes;
use natterjack_nats_config::tail::{Log, POLICY};
use serde::Deserialize;
use tokio::time::timeout;

use super::broken::broken;

/// How long one attempt waits for its ack. What was sent while there was no leader gets none, and the same bytes may always be
/// sent again; an ack takes milliseconds.
const ATTEMPT: Duration = Duration::from_millis(500);
/// How long a look at the frame's place may take, for the same reason.
const LOOK_WITHIN: Duration = Duration::from_millis(500);
/// Waiting between attempts of unknown outcome.
const RETRY: Duration = Duration::from_millis(100);

/// JetStream's `wrong last sequence`. Its sister without a number (10164) speaks of a message in flight: no refusal yet.
const WRONG_LAST_SEQUENCE: u64 = 10071;
/// JetStream could not store, for the reason that the description gives.
const STORE_FAILED: u64 = 10077;
/// The description that means `max_bytes` with `discard: new`. Other reasons (a failing disk) prove nothing, and neither
/// does `insufficient resources` (10023): that is the server's or the account's storage, not this stream's limit.
const MAX_BYTES: &str = "maximum bytes exceeded";

/// A frame ready for its one place in the log. Its bytes never change under one id.
pub(crate) struct Append {
    /// The stream sequence it must get.
    pub(crate) stream_seq: u64,
    /// Names this frame, and no other, for ever.
    pub(crate) id: String,
    /// Newline-delimited events; nothing for a `leader` frame.
    pub(crate) bytes: Bytes,
    /// Whether one of the events says who may do what; it is said in a header, for readers of policy only.
    pub(crate) has_policy: bool,
}

/// What became of a frame. There is no fourth answer: what is unknown is asked again until it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appended {
    /// It stands at its place.
    Committed,
    /// Another frame stands there, and this one will stand nowhere.
    Lost,
    /// The stream has no room; it stands nowhere.
    Full,
}

/// The time at which a frame was stored cannot be read now; try again.
#[derive(Debug, thiserror::Error)]
#[error("frame {stream_seq} cannot be read: {reason}")]
pub(crate) struct UnreadFrame {
    stream_seq: u64,
    reason: String,
}

/// Puts frames into the log.
pub(crate) struct Appender {
    client: async_nats::Client,
    stream: String,
    subject: String,
}

#[derive(Deserialize)]
struct Ack {
    seq: Option<u64>,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct ApiError {
    err_code: u64,
    description: String,
}

/// What one attempt came to. Only where no attempt before it is in doubt does `Refused` or `Full` prove anything.
#[derive(Debug, PartialEq, Eq)]
enum Attempt {
    Stored,
    Refused,
    Full,
    Unknown(String),
}

enum Occupant {
    Ours,
    Another,
    Nobody,
}

impl Appender {
    pub(crate) fn new(client: async_nats::Client, log: &Log) -> Self {
        Self {
            client,
            stream: log.stream(),
            subject: log.subject(),
        }
    }

    /// Appends a frame at `stream_seq` or not at all.
    ///
    /// After an attempt of unknown outcome neither a refusal nor an empty place proves anything: a frame may land after
    /// the leader said that nothing is there. So the same bytes are sent again until the place is occupied as the
    /// leader reads it; whose frame is there decides.
    ///
    /// Dropping the future leaves the outcome unknown: whoever does so must not use the state that the frame is part of.
    pub(crate) async fn append(&self, frame: &Append) -> Appended {
        let mut doubt = false;
        loop {
            match self.attempt(frame).await {
                Attempt::Refused if broken("expected-sequence") => continue,
                Attempt::Refused if broken("refused-means-lost") => return Appended::Lost,
                Attempt::Stored => return Appended::Committed,
                Attempt::Refused if !doubt => return Appended::Lost,
                Attempt::Full if !doubt => return Appended::Full,
                Attempt::Refused | Attempt::Full => {}
                Attempt::Unknown(reason) => note_doubt(frame, &reason, std::mem::replace(&mut doubt, true)),
            }
            if broken("refused-means-lost") {
                continue;
            }
            match timeout(LOOK_WITHIN, self.occupant(frame)).await {
                Ok(Ok(Occupant::Ours)) => return Appended::Committed,
                Ok(Ok(Occupant::Another)) => return Appended::Lost,
                Ok(Ok(Occupant::Nobody)) => {}
                Ok(Err(reason)) => tracing::debug!(reason, "the log's leader cannot be asked yet"),
                Err(_) => tracing::debug!("the log has no leader yet"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn attempt(&self, frame: &Append) -> Attempt {
        let before = if broken("expected-sequence") {
            self.end().await
        } else {
            frame.stream_seq - 1
        };
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Stream", self.stream.as_str());
        headers.insert("Nats-Expected-Last-Sequence", before.to_string().as_str());
        headers.insert("Nats-Msg-Id", frame.id.as_str());
        if frame.has_policy {
            headers.insert(POLICY, "1");
        }
        let request = async_nats::Request::new()
            .headers(headers)
            .payload(frame.bytes.clone())
            .timeout(Some(ATTEMPT));
        match self.client.send_request(self.subject.clone(), request).await {
            Ok(answer) => verdict(&answer.payload, before + 1),
            Err(error) => Attempt::Unknown(error.to_string()),
        }
    }

    /// Where the log ends: for the control that appends there, whatever came before.
    async fn end(&self) -> u64 {
        let stream = jetstream::new(self.client.clone()).get_stream(&self.stream).await;
        stream.map_or(0, |stream| stream.cached_info().state.last_sequence)
    }

    /// Who stands at the frame's place, as the stream's leader reads it (never by direct get, which may be stale).
    async fn occupant(&self, frame: &Append) -> Result<Occupant, String> {
        let stream = self.stream_of_the_leader().await?;
        match stream.get_raw_message(frame.stream_seq).await {
            Ok(message) => {
                let id = message.headers.get("Nats-Msg-Id").map(|id| id.as_str().to_owned());
                Ok(if id.as_deref() == Some(frame.id.as_str()) {
                    Occupant::Ours
                } else {
                    Occupant::Another
                })
            }
            Err(error) if error.kind() == jetstream::stream::LastRawMessageErrorKind::NoMessageFound => {
                Ok(Occupant::Nobody)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// When a frame was stored by the server's clock, in milliseconds since 1970.
    pub(crate) async fn stored_at_ms(&self, stream_seq: u64) -> Result<i64, UnreadFrame> {
        let fail = |reason: String| UnreadFrame { stream_seq, reason };
        let stream = self.stream_of_the_leader().await.map_err(fail)?;
        let message = stream
            .get_raw_message(stream_seq)
            .await
            .map_err(|error| fail(error.to_string()))?;
        i64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).map_err(|error| fail(error.to_string()))
    }

    async fn stream_of_the_leader(&self) -> Result<jetstream::stream::Stream<()>, String> {
        jetstream::new(self.client.clone())
            .get_stream_no_info(&self.stream)
            .await
            .map_err(|error| error.to_string())
    }
}

/// What the server's answer to an append means.
fn verdict(answer: &[u8], stream_seq: u64) -> Attempt {
    match serde_json::from_slice::<Ack>(answer) {
        Ok(Ack { error: Some(error), .. }) => match error.err_code {
            WRONG_LAST_SEQUENCE => Attempt::Refused,
            STORE_FAILED if error.description == MAX_BYTES => Attempt::Full,
            code => Attempt::Unknown(format!("{} ({code})", error.description)),
        },
        Ok(Ack { seq: Some(seq), .. }) if seq == stream_seq => Attempt::Stored,
        Ok(Ack { seq, .. }) => Attempt::Unknown(format!("acknowledged at {seq:?}")),
        Err(error) => Attempt::Unknown(error.to_string()),
    }
}

/// Says once that a frame is in doubt; what follows ten times a second is for who looks closer.
fn note_doubt(frame: &Append, reason: &str, again: bool) {
    let stream_seq = frame.stream_seq;
    if again {
        tracing::debug!(stream_seq, reason, "a frame's outcome is still unknown");
    } else {
        tracing::warn!(
            stream_seq,
            reason,
            "a frame's outcome is unknown, asking until it is known"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_proves_only_what_it_says() {
        let unknown = |text: &str| Attempt::Unknown(text.to_owned());
        let table = [
            (r#"{"stream":"L","seq":7}"#, Attempt::Stored),
            (r#"{"stream":"L","seq":7,"duplicate":true}"#, Attempt::Stored),
            (
                r#"{"stream":"L","seq":6,"duplicate":true}"#,
                unknown("acknowledged at Some(6)"),
            ),
            (r#"{"stream":"L"}"#, unknown("acknowledged at None")),
            (
                r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 9"},"stream":"L","seq":0}"#,
                Attempt::Refused,
            ),
            (
                r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"L","seq":0}"#,
                Attempt::Full,
            ),
            (
                r#"{"error":{"code":503,"err_code":10077,"description":"no space left on device"},"stream":"L","seq":0}"#,
                unknown("no space left on device (10077)"),
            ),
            (
                r#"{"error":{"code":503,"err_code":10023,"description":"insufficient resources"},"stream":"L","seq":0}"#,
                unknown("insufficient resources (10023)"),
            ),
            (
                r#"{"error":{"code":409,"err_code":10158,"description":"duplicate message id is in process"}}"#,
                unknown("duplicate message id is in process (10158)"),
            ),
            (
                r#"{"error":{"code":400,"err_code":10164,"description":"wrong last sequence"}}"#,
                unknown("wrong last sequence (10164)"),
            ),
        ];
        for (answer, expected) in table {
            assert_eq!(verdict(answer.as_bytes(), 7), expected, "{answer}");
        }
        assert!(matches!(verdict(b"not JSON", 7), Attempt::Unknown(_)));
    }
}
