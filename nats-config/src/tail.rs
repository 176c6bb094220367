//! Reading the log: frames in, events out, in order, each once, for ever.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::{
    self, Message,
    consumer::{DeliverPolicy, pull},
    stream::RawMessageErrorKind,
};
use async_nats::{Client, HeaderMap};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout};

use crate::contract::{EventLine, FrameError, STATE, StateStamp, Subjects, events_of};

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
    /// The hash of the writer's state before this frame, where the writer told it.
    pub stamp: Option<StateStamp>,
}

/// What the log holds: its first and its last frame, and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The first frame that is there, or that will come; 1 until the log is trimmed.
    pub first: u64,
    /// The last frame that ever came; 0 for none.
    pub last: u64,
    /// In bytes, on disk.
    pub bytes: u64,
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
    /// The next frame was trimmed: a reader this far behind begins again from a checkpoint, or asks the archive.
    #[error("the log was trimmed to frame {first}, but frame {wanted} is needed")]
    Trimmed {
        /// The frame that was expected.
        wanted: u64,
        /// The frame that came.
        first: u64,
    },
}

/// The log cannot be asked now.
#[derive(Debug, thiserror::Error)]
#[error("stream {stream} cannot be asked: {reason}")]
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
        Ok(self.bounds(client).await?.last)
    }

    /// Where it begins and ends now, as its leader says.
    pub async fn bounds(&self, client: &Client) -> Result<Bounds, EndError> {
        let stream = jetstream::new(client.clone())
            .get_stream(self.stream())
            .await
            .map_err(|error| self.silent(error))?;
        let state = &stream.cached_info().state;
        Ok(Bounds {
            first: state.first_sequence.max(1),
            last: state.last_sequence,
            bytes: state.bytes,
        })
    }

    /// The `Nats-Msg-Id` of a frame, as the log's leader has it; `None` if the frame is not there, or no writer wrote it.
    pub async fn frame_id(&self, client: &Client, stream_seq: u64) -> Result<Option<String>, EndError> {
        let stream = jetstream::new(client.clone())
            .get_stream_no_info(self.stream())
            .await
            .map_err(|error| self.silent(error))?;
        match stream.get_raw_message(stream_seq).await {
            Ok(message) => Ok(message.headers.get("Nats-Msg-Id").map(|id| id.as_str().to_owned())),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(self.silent(error)),
        }
    }

    fn silent(&self, error: impl std::fmt::Display) -> EndError {
        EndError {
            stream: self.stream(),
            reason: error.to_string(),
        }
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
            let frame = self.frame(stream_seq, &message)?;
            self.passed = stream_seq;
            return Ok(frame);
        }
    }

    fn frame(&self, stream_seq: u64, message: &Message) -> Result<Frame, FrameError> {
        let headers = message.headers.as_ref();
        let header = |name| headers.and_then(|headers| headers.get(name));
        if !is_frame(headers, stream_seq) {
            tracing::error!(
                stream_seq,
                "the log holds a message that no writer wrote; it is passed over"
            );
            return Ok(Frame {
                stream_seq,
                events: Vec::new(),
                stamp: None,
            });
        }
        let is_wanted = !self.policy_only || header(POLICY).is_some();
        Ok(Frame {
            stream_seq,
            events: if is_wanted {
                events_of(stream_seq, &message.payload)?
            } else {
                Vec::new()
            },
            stamp: header(STATE).and_then(|stamp| StateStamp::parse(stamp.as_str())),
        })
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
