use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream;
use natterjack_nats_config::checkpoint::Checkpoints;
use natterjack_nats_config::contract::Manifest;
use natterjack_nats_config::tail::Log;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::plan::{Keep, Readers, trim_to};
use crate::archive::{Database, sql};
use crate::log::fan_out;

/// How often it is looked whether something can go.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What trimming needs to know.
#[derive(Debug, Clone)]
pub struct TrimConfig {
    /// Which log.
    pub log: Log,
    /// The last so many bytes stay, about; half of the log's `max_bytes` at the most.
    pub keep_bytes: u64,
    /// The last so much log time stays: ten minutes is the window of keys.
    pub keep: Duration,
}

/// Removes from the log what nobody needs any more, while `leading` says that this process has the writer, until it is told
/// to stop: what lies behind the oldest checkpoint that is kept, is archived, is in the rooms, and is old enough.
///
/// The archive's place is asked of the database each time. The consumer's ack floor is no proof: a database that was set
/// back would miss what the floor calls done.
pub async fn keep_trimmed(
    (client, database): (Client, Database),
    config: TrimConfig,
    leading: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.cancelled() => return,
        }
        if !*leading.borrow() {
            continue;
        }
        tokio::select! {
            trimmed = trim(&client, &database, &config) => if let Err(reason) = trimmed {
                tracing::debug!(reason, "the log is not trimmed now");
            },
            () = shutdown.cancelled() => return,
        }
    }
}

async fn trim(client: &Client, database: &Database, config: &TrimConfig) -> Result<(), String> {
    let log = &config.log;
    let stream = jetstream::new(client.clone());
    let stream = stream.get_stream(log.stream()).await.map_err(text)?;
    let bounds = log.bounds(client).await.map_err(text)?;
    let most = u64::try_from(stream.cached_info().config.max_bytes).map_or(u64::MAX, |max| max / 2);
    let keep = Keep {
        bytes: config.keep_bytes.min(most),
        ms: i64::try_from(config.keep.as_millis()).unwrap_or(i64::MAX),
    };
    if bounds.bytes <= keep.bytes {
        return Ok(());
    }
    let Some(checkpoints) = Checkpoints::join(client, log).await.map_err(text)? else {
        return Ok(());
    };
    let kept = checkpoints.list().await.map_err(text)?;
    let kept: Vec<Manifest> = kept.into_iter().map(|kept| kept.manifest).collect();
    let readers = Readers {
        archive: sql::archived(database.connection(), log).await.map_err(text)?.frame(),
        rooms: fan_out::reached(client, log).await.map_err(text)?.frame(),
    };
    let Some(first) = trim_to(bounds, &kept, readers, keep) else {
        return Ok(());
    };
    let purged = stream.purge().sequence(first).await.map_err(text)?.purged;
    tracing::info!(first, frames = purged, "the log was trimmed");
    Ok(())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
