//! Which epoch of a shard's log is the one: a log that was lost, or that is not the archive's, is followed by another one in a
//! later epoch, and stays beside it for as long as somebody wants to look at it (ADR 21).

use std::time::Duration;

use async_nats::{Client, jetstream};
use futures_util::TryStreamExt;

use crate::contract::Subjects;
use crate::tail::Log;

/// Waiting between attempts to ask.
const RETRY: Duration = Duration::from_millis(250);
/// Attempts before the wait is told.
const SILENT_ATTEMPTS: u32 = 8;
/// How long an answer may take: a cluster that has no leader yet gives none.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// NATS does not tell its streams now.
#[derive(Debug, thiserror::Error)]
#[error("the streams cannot be listed: {0}")]
pub struct NoList(String);

/// The newest epoch whose log is there; none where no log was ever made, or all are gone.
pub async fn newest(client: &Client, subjects: &Subjects, shard: u16) -> Result<Option<u32>, NoList> {
    let jetstream = jetstream::new(client.clone());
    let names = jetstream.stream_names();
    let names = tokio::time::timeout(ANSWER_WITHIN, names.try_collect::<Vec<String>>())
        .await
        .map_err(|_| NoList(format!("no answer within {ANSWER_WITHIN:?}")))?
        .map_err(|error| NoList(error.to_string()))?;
    Ok(names.iter().filter_map(|name| subjects.log_epoch(shard, name)).max())
}

/// The log in its newest epoch, or in the first one where there is none yet. Waits until NATS answers.
pub async fn find(client: &Client, subjects: &Subjects) -> Log {
    let first = Log::first(subjects.clone());
    for attempt in 0.. {
        match newest(client, subjects, first.shard).await {
            Ok(epoch) => {
                return Log {
                    epoch: epoch.unwrap_or(first.epoch),
                    ..first
                };
            }
            Err(error) if attempt == SILENT_ATTEMPTS => {
                tracing::warn!(%error, "waiting to learn which log is the newest");
            }
            Err(error) => tracing::debug!(%error, "waiting to learn which log is the newest"),
        }
        tokio::time::sleep(RETRY).await;
    }
    first
}
