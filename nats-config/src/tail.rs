//! Reading the log: frames in, events out, in order, each once, for ever.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::{
    self, Message,
    consumer::{DeliverPolicy, pull},
};
use async_nats::{Client, HeaderMap};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout};

use crate::contract::{EventLine, FrameError, Subjects, events_of};

/// Waiting between attempts to open the tail again.
const RETRY: Duration = Duration::from_millis(250);
/// The header of a frame that holds policy events.
pub const POLICY: &str = "Chat-Policy";
/// How often a silent tail looks whether its connection is still the one it was opened on.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long a tail is silent before it asks whether the log has gone on without it: the server that served it may have died or
/// hang, and says nothing of it while the connection is to another one.
const SILENT_FOR: Duration = Duration::from_secs(1);

/// Which log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How subjects and streams are named.
    pub subjects: Subjects,
    /// The shard.
    pub shard: u16,
    /// The epoch: a new one begins when a log is replaced by another.
    pub epoch: u32,
}

/// A frame of the log.
#[derive(Debug)]
pub struct Frame {
    /// Its stream sequence.
    pub stream_seq: u64,
    /// Its events; none for a `leader` frame.
    pub events: Vec<EventLine>,
}

/// Reads frames from a place on, then follows the end.
pub struct Tail {
    client: Client,
    stream: String,
    passed: u64,
    reading: Option<Reading>,
    policy_only: bool,
}

/// A consumer, and on which connection it was made. It is given up with its connection: its own heartbeats would show its
/// end only after many seconds.
struct Reading {
    connects: u64,
    messages: pull::Ordered,
    silent: Instant,
}

/// Why a tail cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The log holds what is no frame: stop, somebody has to look.
    #[error("the log is damaged: {0}")]
    Damaged(#[from] FrameError),
    /// The next frame is not there any more: a reader this far behind starts from a checkpoint or the archive.
    #[error("the log starts at frame {first}, but frame {wanted} is needed")]
    Trimmed {
        /// The frame that was expected.
        wanted: u64,
        /// The frame that came.
        first: u64,
    },
}

/// The log's end cannot be read now.
#[derive(Debug, thiserror::Error)]
#[error("the end of stream {stream} cannot be read: {reason}")]
pub struct EndError {
    stream: String,
    reason: String,
}

impl Log {
    /// The first shard and epoch below a prefix.
    #[must_use]
    pub fn first(subjects: Subjects) -> Self {
        Self {
            subjects,
            shard: 0,
            epoch: 1,
        }
    }

    /// The name of its stream.
    #[must_use]
    pub fn stream(&self) -> String {
        self.subjects.log_stream(self.shard, self.epoch)
    }

    /// Its one subject.
    #[must_use]
    pub fn subject(&self) -> String {
        self.subjects.log(self.shard, self.epoch)
    }

    /// The stream sequence of its last frame, as its leader says.
    pub async fn end(&self, client: &Client) -> Result<u64, EndError> {
        let fail = |reason: String| EndError {
            stream: self.stream(),
            reason,
        };
        let stream = jetstream::new(client.clone())
            .get_stream(self.stream())
            .await
            .map_err(|error| fail(error.to_string()))?;
        Ok(stream.cached_info().state.last_sequence)
    }

    /// A tail of what follows frame `passed` (0: everything). It opens when it is first read.
    #[must_use]
    pub fn tail(&self, client: &Client, passed: u64) -> Tail {
        Tail {
            client: client.clone(),
            stream: self.stream(),
            passed,
            reading: None,
            policy_only: false,
        }
    }
}

impl Tail {
    /// The same, for who wants to know of rights only: frames without policy events come without their events, unread.
    #[must_use]
    pub fn of_policy(self) -> Self {
        Self {
            policy_only: true,
            ..self
        }
    }

    /// The next frame; waits until there is one. Lost connections and lost consumers are mended here.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Frame, TailError> {
        loop {
            let message = self.message().await;
            let Ok(stream_seq) = message.info().map(|info| info.stream_sequence) else {
                continue;
            };
            if stream_seq <= self.passed {
                continue;
            }
            if stream_seq != self.passed + 1 {
                if !is_trimmed(&self.client, &self.stream, self.passed + 1).await {
                    // One copy of the log is damaged there; the next consumer may be put onto another one.
                    tracing::error!(
                        stream = self.stream,
                        frame = self.passed + 1,
                        "a frame is missing where the log was read, reading it elsewhere"
                    );
                    self.reading = None;
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                return Err(TailError::Trimmed {
                    wanted: self.passed + 1,
                    first: stream_seq,
                });
            }
            let headers = message.headers.as_ref();
            let events = if is_frame(headers, stream_seq) {
                let is_wanted = !self.policy_only || headers.is_some_and(|headers| headers.get(POLICY).is_some());
                if is_wanted {
                    events_of(stream_seq, &message.payload)?
                } else {
                    Vec::new()
                }
            } else {
                tracing::error!(
                    stream_seq,
                    "the log holds a message that no writer wrote; it is passed over"
                );
                Vec::new()
            };
            self.passed = stream_seq;
            return Ok(Frame { stream_seq, events });
        }
    }

    /// The next message of the stream, whatever it takes.
    async fn message(&mut self) -> Message {
        loop {
            let connects = self.client.statistics().connects.load(Ordering::Relaxed);
            let Some(reading) = self.reading.as_mut().filter(|reading| reading.connects == connects) else {
                self.reading = None;
                match open(&self.client, &self.stream, self.passed + 1).await {
                    Ok(messages) => {
                        self.reading = Some(Reading {
                            connects,
                            messages,
                            silent: Instant::now(),
                        });
                    }
                    Err(error) => {
                        tracing::debug!(stream = self.stream, error, "the log cannot be read yet");
                        tokio::time::sleep(RETRY).await;
                    }
                }
                continue;
            };
            match timeout(LOOK_EVERY, reading.messages.next()).await {
                Ok(Some(Ok(message))) => {
                    reading.silent = Instant::now();
                    return message;
                }
                Ok(Some(Err(error))) => {
                    tracing::debug!(stream = self.stream, %error, "the tail broke, opening it again");
                    self.reading = None;
                    tokio::time::sleep(RETRY).await;
                }
                Ok(None) => self.reading = None,
                Err(_) if reading.silent.elapsed() >= SILENT_FOR => {
                    reading.silent = Instant::now();
                    if has_more(&self.client, &self.stream, self.passed).await {
                        tracing::info!(
                            stream = self.stream,
                            "the tail hears nothing of what came, opening it again"
                        );
                        self.reading = None;
                    }
                }
                Err(_) => {}
            }
        }
    }

    /// The last frame that was handed out.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed
    }
}

/// Whether the writer wrote a message of the log: it names each frame, and names the sequence before it.
///
/// A worker's allow-list cannot keep all else out (the answer to a JetStream request goes wherever its reply subject
/// says), so readers pass over what is no frame. All of them do, so it changes nothing.
#[must_use]
pub fn is_frame(headers: Option<&HeaderMap>, stream_seq: u64) -> bool {
    let Some(headers) = headers else { return false };
    let before = headers
        .get("Nats-Expected-Last-Sequence")
        .map(|before| before.as_str().to_owned());
    headers.get("Nats-Msg-Id").is_some() && before == Some((stream_seq - 1).to_string())
}

/// Whether the stream surely begins behind a frame.
async fn is_trimmed(client: &Client, stream: &str, frame: u64) -> bool {
    let context = jetstream::new(client.clone());
    match timeout(SILENT_FOR, context.get_stream(stream)).await {
        Ok(Ok(stream)) => stream.cached_info().state.first_sequence > frame,
        _ => false,
    }
}

/// Whether the stream surely holds something behind `passed`.
async fn has_more(client: &Client, stream: &str, passed: u64) -> bool {
    let context = jetstream::new(client.clone());
    match timeout(SILENT_FOR, context.get_stream(stream)).await {
        Ok(Ok(stream)) => stream.cached_info().state.last_sequence > passed,
        _ => false,
    }
}

async fn open(client: &Client, stream: &str, start_sequence: u64) -> Result<pull::Ordered, String> {
    let config = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ..pull::OrderedConfig::default()
    };
    let stream = jetstream::new(client.clone())
        .get_stream_no_info(stream)
        .await
        .map_err(|error| error.to_string())?;
    let consumer = stream
        .create_consumer(config)
        .await
        .map_err(|error| error.to_string())?;
    consumer.messages().await.map_err(|error| error.to_string())
}
