//! Whether this bridge can do its work, told to `/readyz` and to whoever started it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use natterjack_nats_config::clock;
use natterjack_nats_config::lease::Leases;
use natterjack_nats_config::tail::Log;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::bundle::Sending;
use crate::feed::Feed;

/// How often it is looked at while something is missing.
const WHEN_UNWELL: Duration = Duration::from_millis(100);
/// How often it is looked at otherwise.
const WHEN_WELL: Duration = Duration::from_secs(1);
/// How long one look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// The writer counts as there for this long after an answer.
const ANSWER_COUNTS_MS: i64 = 5000;
/// How far behind the log's end counts as caught up: some milliseconds at full speed.
const FRAMES_BEHIND: u64 = 64;

/// What works and what does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Health {
    /// Connected to NATS.
    pub(crate) nats: bool,
    /// The log has been read up to its end.
    pub(crate) log: bool,
    /// The writer answered lately, or somebody holds its lease.
    pub(crate) writer: bool,
}

/// What is looked at.
pub(crate) struct Watched {
    pub(crate) client: Client,
    pub(crate) log: Log,
    pub(crate) feed: Arc<Feed>,
    pub(crate) sending: Sending,
}

/// Looks at it for ever.
pub(crate) async fn watch_health(watched: Watched, told: watch::Sender<Health>, ready: watch::Sender<bool>) {
    let mut leases = None;
    loop {
        let health = timeout(LOOK_WITHIN, watched.look(&mut leases))
            .await
            .unwrap_or_default();
        if told.send_replace(health) != health {
            tracing::info!(nats = health.nats, log = health.log, writer = health.writer, "health");
        }
        ready.send_if_modified(|ready| std::mem::replace(ready, health.is_ready()) != health.is_ready());
        tokio::time::sleep(if health.is_ready() { WHEN_WELL } else { WHEN_UNWELL }).await;
    }
}

impl Health {
    /// Whether all of it works.
    pub(crate) fn is_ready(self) -> bool {
        self.nats && self.log && self.writer
    }
}

impl Watched {
    async fn look(&self, leases: &mut Option<Leases>) -> Health {
        let nats = self.client.connection_state() == State::Connected;
        if !nats {
            return Health::default();
        }
        let log = self.is_caught_up().await;
        let writer = self.has_writer(leases).await;
        Health { nats, log, writer }
    }

    async fn is_caught_up(&self) -> bool {
        match self.log.end(&self.client).await {
            Ok(end) => self.feed.is_caught_up() && self.feed.passed().frame() + FRAMES_BEHIND >= end,
            Err(error) => {
                tracing::debug!(%error, "the log's end is not known");
                false
            }
        }
    }

    async fn has_writer(&self, leases: &mut Option<Leases>) -> bool {
        if clock::now_ms() - self.sending.answered_at_ms() < ANSWER_COUNTS_MS {
            return true;
        }
        if leases.is_none() {
            *leases = Leases::join(&self.client, &self.log.subjects).await.ok();
        }
        let Some(known) = leases else { return false };
        match known.holders("writer.").await {
            Ok(shards) => shards.iter().any(|shard| *shard == self.log.shard.to_string()),
            Err(error) => {
                tracing::debug!(%error, "the writer's lease cannot be read");
                *leases = None;
                false
            }
        }
    }
}
