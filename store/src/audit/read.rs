use std::ops::RangeInclusive;
use std::time::Duration;

use async_nats::jetstream::{
    self, Message,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    stream::Stream,
};
use async_nats::{Client, HeaderMap};
use futures_util::StreamExt;
use natterjack_nats_config::tail::{Log, is_frame};
use sha2::{Digest, Sha256};

use super::compare::{Copy, FrameRead};
use crate::archive::project;
use crate::erasure::Known;

/// How often a consumer is made until the server puts it onto the copy that is to be read: it chooses one of three by chance,
/// so 40 misses in a row come once in ten million.
const PLACINGS: usize = 40;
/// Messages asked for at a time.
const FETCH: usize = 512;
/// How long a copy may be silent before it counts as having no more.
const SILENT: Duration = Duration::from_secs(2);
/// How long a consumer outlives its reader.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// The most that is read of one copy at a time, in bytes.
pub(crate) const MOST_BYTES: usize = 64 << 20;

/// A copy that cannot be read now; try again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unread(String);

/// Reads frames from the disk of one server, and of no other; up to which frame it came, which is less than asked for where
/// there would be too much.
///
/// Direct get is no help: any copy answers it. A consumer without copies of its own reads from the server that it is on.
pub(crate) async fn copy(
    client: &Client,
    log: &Log,
    server: &str,
    (frames, erased): (&RangeInclusive<u64>, &Known),
) -> Result<(Copy, u64), Unread> {
    let stream = jetstream::new(client.clone())
        .get_stream(log.stream())
        .await
        .map_err(unread)?;
    let consumer = placed(&stream, server, *frames.start()).await?;
    let name = consumer.cached_info().name.clone();
    let read = read(&consumer, log, (frames, erased)).await;
    if let Err(error) = stream.delete_consumer(&name).await {
        tracing::debug!(%error, "an audit's consumer stays until it is forgotten");
    }
    read
}

async fn placed(stream: &Stream, server: &str, start_sequence: u64) -> Result<PullConsumer, Unread> {
    // Where there is one copy, nothing else can be read; and a server that stands alone may not say where consumers are.
    let is_only = stream.cached_info().config.num_replicas <= 1;
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ack_policy: AckPolicy::None,
        memory_storage: true,
        num_replicas: 1,
        inactive_threshold: FORGOTTEN_AFTER,
        ..pull::Config::default()
    };
    for _ in 0..PLACINGS {
        let consumer = stream.create_consumer(config.clone()).await.map_err(unread)?;
        let info = consumer.cached_info();
        let leader = info.cluster.as_ref().and_then(|cluster| cluster.leader.clone());
        if is_only || leader.unwrap_or_default() == server {
            return Ok(consumer);
        }
        let name = info.name.clone();
        stream.delete_consumer(&name).await.map_err(unread)?;
    }
    Err(Unread(format!("no consumer was put onto server {server}")))
}

async fn read(
    consumer: &PullConsumer,
    log: &Log,
    (frames, erased): (&RangeInclusive<u64>, &Known),
) -> Result<(Copy, u64), Unread> {
    let mut copy = Copy::new();
    let mut bytes = 0;
    loop {
        let mut batch = consumer.fetch().max_messages(FETCH).messages().await.map_err(unread)?;
        let mut got = 0;
        while let Ok(Some(message)) = tokio::time::timeout(SILENT, batch.next()).await {
            let message = message.map_err(unread)?;
            got += 1;
            let info = message.info().map_err(|error| Unread(error.to_string()))?;
            let (frame, is_last) = (info.stream_sequence, info.pending == 0);
            if frame > *frames.end() {
                return Ok((copy, *frames.end()));
            }
            bytes += message.payload.len();
            copy.insert(frame, frame_read((log, erased), frame, &message));
            if frame == *frames.end() || is_last {
                return Ok((copy, *frames.end()));
            }
            if bytes >= MOST_BYTES {
                return Ok((copy, frame));
            }
        }
        if got == 0 {
            return Ok((copy, *frames.end()));
        }
    }
}

fn frame_read((log, erased): (&Log, &Known), stream_seq: u64, message: &Message) -> FrameRead {
    let rows = if is_frame(message.headers.as_ref(), stream_seq) {
        project::frame(log, stream_seq, &message.payload)
    } else {
        project::foreign(log, stream_seq, &message.payload)
    };
    let left = rows.events.iter().filter_map(|event| erased.without(event));
    FrameRead {
        left: left.map(|(left, _)| (left.seq, left.hash)).collect(),
        digest: digest(message.headers.as_ref(), &message.payload),
        events: rows.events.into_iter().map(|event| (event.seq, event.hash)).collect(),
    }
}

fn digest(headers: Option<&HeaderMap>, payload: &[u8]) -> [u8; 32] {
    let mut all: Vec<(String, String)> = Vec::new();
    for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
        all.extend(values.iter().map(|value| (name.to_string(), value.as_str().to_owned())));
    }
    all.sort();
    let mut hasher = Sha256::new();
    for (name, value) in all {
        hasher.update(format!("{name}:{value}\r\n"));
    }
    hasher.update(b"\r\n");
    hasher.update(payload);
    hasher.finalize().into()
}

fn unread(error: impl std::fmt::Display) -> Unread {
    Unread(error.to_string())
}
