use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use bytes::Bytes;
use natterjack_nats_config::tail::{Log, POLICY};
use serde::Deserialize;

/// How long one attempt waits for its ack.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Waiting between attempts of unknown outcome.
const RETRY: Duration = Duration::from_millis(100);

/// JetStream's `wrong last sequence`.
const WRONG_LAST_SEQUENCE: u64 = 10071;
/// JetStream's `maximum bytes exceeded` (and messages) with `discard: new`.
const STORE_FAILED: [u64; 2] = [10077, 10023];

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

enum Attempt {
    Known(Appended),
    Refused,
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
    pub(crate) async fn append(&self, frame: &Append) -> Appended {
        let mut doubt = false;
        loop {
            match self.attempt(frame).await {
                Attempt::Known(outcome) => return outcome,
                Attempt::Refused if !doubt => return Appended::Lost,
                Attempt::Refused => {}
                Attempt::Unknown(reason) => {
                    tracing::warn!(
                        stream_seq = frame.stream_seq,
                        reason,
                        "a frame's outcome is unknown, asking again"
                    );
                    doubt = true;
                }
            }
            match self.occupant(frame).await {
                Ok(Occupant::Ours) => return Appended::Committed,
                Ok(Occupant::Another) => return Appended::Lost,
                Ok(Occupant::Nobody) => {}
                Err(reason) => tracing::debug!(reason, "the log's leader cannot be asked yet"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn attempt(&self, frame: &Append) -> Attempt {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Stream", self.stream.as_str());
        headers.insert(
            "Nats-Expected-Last-Sequence",
            (frame.stream_seq - 1).to_string().as_str(),
        );
        headers.insert("Nats-Msg-Id", frame.id.as_str());
        if frame.has_policy {
            headers.insert(POLICY, "1");
        }
        let request = async_nats::Request::new()
            .headers(headers)
            .payload(frame.bytes.clone())
            .timeout(Some(ATTEMPT));
        let answer = match self.client.send_request(self.subject.clone(), request).await {
            Ok(answer) => answer,
            Err(error) => return Attempt::Unknown(error.to_string()),
        };
        match serde_json::from_slice::<Ack>(&answer.payload) {
            Ok(Ack { error: Some(error), .. }) => match error.err_code {
                WRONG_LAST_SEQUENCE => Attempt::Refused,
                code if STORE_FAILED.contains(&code) => Attempt::Known(Appended::Full),
                _ => Attempt::Unknown(error.description),
            },
            Ok(Ack { seq: Some(seq), .. }) if seq == frame.stream_seq => Attempt::Known(Appended::Committed),
            Ok(Ack { seq, .. }) => Attempt::Unknown(format!("acknowledged at {seq:?}")),
            Err(error) => Attempt::Unknown(error.to_string()),
        }
    }

    /// Who stands at the frame's place, as the stream's leader reads it (never by direct get, which may be stale).
    async fn occupant(&self, frame: &Append) -> Result<Occupant, String> {
        let jetstream = jetstream::new(self.client.clone());
        let stream = jetstream
            .get_stream_no_info(&self.stream)
            .await
            .map_err(|error| error.to_string())?;
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
}
