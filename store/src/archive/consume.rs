use std::time::Duration;

use async_nats::jetstream::{
    Message,
    consumer::{AckPolicy, DeliverPolicy, Info, PullConsumer, pull},
    message::Acker,
    stream::{RawMessageErrorKind, Stream},
};
use futures_util::{FutureExt, StreamExt};
use natterjack_nats_config::tail::{Log, is_frame};
use tokio::time::{Instant, timeout_at};

use super::batch::{Batch, MAX_BYTES, MAX_FRAMES, Place};
use super::step::{Step, passed};

/// The durable consumer's name on the log's stream.
const DURABLE: &str = "archive";
/// When an unacknowledged frame is delivered again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Frames that may be unacknowledged: the batch in work and those that are fetched ahead.
const MAX_ACK_PENDING: i64 = 1024;
/// Bytes of frames that are asked for at a time: the batch behind the one in work. Far more than a frame has.
const MAX_PULL_BYTES: usize = 2 * MAX_BYTES;
/// How long is waited for frames that the server has: what it has not sent by then goes into another batch.
const GATHER: Duration = Duration::from_millis(if cfg!(test) { 3000 } else { 100 });
/// The server shows that often that it is there; two missing ones and the consumer is opened again.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Reads frames behind the watermark, in order.
pub(crate) struct Reader<'a> {
    log: &'a Log,
    stream: &'a Stream,
    messages: pull::Stream,
    /// A frame behind a gap, kept until what came before it is stored.
    held: Option<(u64, Message)>,
    unacked: Vec<Acker>,
    /// Whether the log went on behind the last frame that came, when that was sent.
    behind: bool,
}

/// The consumer broke: open it again.
#[derive(Debug, thiserror::Error)]
#[error("the archive cannot read the log: {0}")]
pub(crate) struct ReadError(String);

impl<'a> Reader<'a> {
    /// Opens the consumer behind frame `watermark`. It is made anew when it stands elsewhere: when frames were delivered
    /// but not stored (they would come again only after [`ACK_WAIT`]), and when it is ahead of the database, because that
    /// was restored or replaced.
    pub(crate) async fn open(log: &'a Log, stream: &'a Stream, watermark: u64) -> Result<Self, ReadError> {
        let consumer = match stream.get_consumer::<pull::Config>(DURABLE).await {
            Ok(consumer) if stands_at(consumer.cached_info(), watermark) => consumer,
            Ok(consumer) => {
                let info = consumer.cached_info();
                tracing::info!(
                    watermark,
                    delivered = info.delivered.stream_sequence,
                    ack_floor = info.ack_floor.stream_sequence,
                    "putting the archive's consumer behind the watermark"
                );
                stream.delete_consumer(DURABLE).await.map_err(broke)?;
                create(stream, watermark).await?
            }
            // Either it is not there, or making it will tell what is wrong.
            Err(_) => create(stream, watermark).await?,
        };
        let messages = consumer
            .stream()
            .max_messages_per_batch(MAX_FRAMES)
            .max_bytes_per_batch(MAX_PULL_BYTES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(broke)?;
        Ok(Self {
            log,
            stream,
            messages,
            held: None,
            unacked: Vec::new(),
            behind: false,
        })
    }

    /// Waits for a frame, then takes what is there; while the log goes on behind that, it waits for more, but not for long.
    pub(crate) async fn fill(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        while batch.is_empty() {
            let (stream_seq, message) = if let Some(held) = self.held.take() {
                held
            } else {
                let message = self.messages.next().await;
                self.arrived(message)?
            };
            if batch.place_of(stream_seq) == Place::Gap {
                self.cross(batch, stream_seq).await?;
            }
            self.take(batch, stream_seq, message).await;
        }
        let until = Instant::now() + GATHER;
        while !batch.is_full() && self.held.is_none() {
            let next = self.messages.next();
            let next = if self.behind {
                timeout_at(until, next).await.ok()
            } else {
                next.now_or_never()
            };
            let Some(message) = next else { break };
            let (stream_seq, message) = self.arrived(message)?;
            self.take(batch, stream_seq, message).await;
        }
        passed(Step::Fetched);
        Ok(())
    }

    /// Whether the log goes on behind what was taken: then the next batch needs no waiting for more.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind || self.held.is_some()
    }

    /// What came, and its place; notes how many frames the server had behind it.
    fn arrived(&mut self, message: Option<Result<Message, pull::MessagesError>>) -> Result<(u64, Message), ReadError> {
        let message = message
            .ok_or_else(|| ReadError("the consumer ended".to_owned()))?
            .map_err(broke)?;
        let info = message.info().map_err(|error| ReadError(error.to_string()))?;
        let (stream_seq, pending) = (info.stream_sequence, info.pending);
        self.behind = pending > 0;
        Ok((stream_seq, message))
    }

    /// Acknowledges everything that went into a batch. Call it when the batch is committed, and not before.
    ///
    /// A lost acknowledgement does no harm: the frame comes again and is seen to be old.
    pub(crate) async fn ack(&mut self) {
        let half = self.unacked.len() / 2;
        for (index, acker) in self.unacked.drain(..).enumerate() {
            if index == half {
                passed(Step::HalfAcknowledged);
            }
            if let Err(error) = acker.ack().await {
                tracing::debug!(%error, "an archived frame was not acknowledged, it will come again");
            }
        }
        passed(Step::Acknowledged);
    }

    async fn take(&mut self, batch: &mut Batch, stream_seq: u64, message: Message) {
        match batch.place_of(stream_seq) {
            Place::Gap => self.held = Some((stream_seq, message)),
            Place::Next => {
                if is_frame(message.headers.as_ref(), stream_seq) {
                    batch.push(self.log, stream_seq, &message.payload);
                } else {
                    batch.push_foreign(self.log, stream_seq, &message.payload);
                }
                self.unacked.push(message.split().1);
            }
            // In the batch: acknowledged with it. Below it: it is archived, its acknowledgement was lost.
            Place::Old if stream_seq > batch.old_watermark() => self.unacked.push(message.split().1),
            Place::Old => {
                if let Err(error) = message.ack().await {
                    tracing::debug!(%error, stream_seq, "an archived frame was not acknowledged, it will come again");
                }
            }
        }
    }

    /// Steps over frames that the log's leader has not got; if it has them, they were lost on their way here.
    async fn cross(&self, batch: &mut Batch, to: u64) -> Result<(), ReadError> {
        let next = self
            .stream
            .get_first_raw_message_by_subject(self.log.subject(), batch.next())
            .await
            .map_err(broke)?;
        if next.sequence != to {
            return Err(ReadError(format!("frame {} was skipped on its way here", batch.next())));
        }
        batch.skip_to(self.log, to);
        Ok(())
    }
}

/// The frame as the log's leader has it; none if it is not there (any more).
pub(crate) async fn frame(stream: &Stream, stream_seq: u64) -> Result<Option<bytes::Bytes>, ReadError> {
    match stream.get_raw_message(stream_seq).await {
        Ok(message) => Ok(Some(message.payload)),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(broke(error)),
    }
}

async fn create(stream: &Stream, watermark: u64) -> Result<PullConsumer, ReadError> {
    stream.create_consumer(config(watermark)).await.map_err(broke)
}

fn config(watermark: u64) -> pull::Config {
    pull::Config {
        durable_name: Some(DURABLE.to_owned()),
        description: Some("Natterjack's archive; its place is the watermark in SQL".to_owned()),
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: watermark + 1,
        },
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_deliver: -1,
        max_ack_pending: MAX_ACK_PENDING,
        ..pull::Config::default()
    }
}

/// Whether the next new frame that the consumer delivers is the one behind the watermark, and it is as it must be.
fn stands_at(info: &Info, watermark: u64) -> bool {
    let config = &info.config;
    info.delivered.stream_sequence == watermark
        && config.ack_policy == AckPolicy::Explicit
        && config.ack_wait == ACK_WAIT
        && config.max_deliver == -1
        && config.max_ack_pending == MAX_ACK_PENDING
        && config.filter_subject.is_empty()
}

fn broke(error: impl std::fmt::Display) -> ReadError {
    ReadError(error.to_string())
}
