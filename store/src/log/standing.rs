//! Which stores could take over: who reads the log still, and who knows all of it. A writer that is told to stop asks.

use std::time::Duration;

use natterjack_nats_config::lease::{Lease, Leases, READING, RENEW_EVERY};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::writer::WriterConfig;

/// How long a writer that is told to stop goes on for a store that still reads the log. Supervisors wait ten seconds and
/// more before they kill.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(5);
/// How often it asks meanwhile, and how long each answer may take.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// What this store is known to do, until this is dropped.
pub(crate) struct Standing {
    done: DropGuard,
    task: JoinHandle<()>,
}

impl Standing {
    /// Lets others know, under a lease whose key begins with `what`. Waits for nothing.
    pub(crate) fn begin(leases: &Leases, what: &str, config: &WriterConfig) -> Self {
        let done = CancellationToken::new();
        let key = format!("{what}{}.{}", config.log.shard, config.worker);
        let task = tokio::spawn(keep(leases.clone(), key, config.worker.clone(), done.clone()));
        Self {
            done: done.drop_guard(),
            task,
        }
    }

    /// Ends it, and waits until others know.
    pub(crate) async fn end(self) {
        drop(self.done);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the task of a registration failed");
        }
    }
}

/// Cancels `stop` when `shutdown` is and no other store is about to know the log: who takes over then does so at once.
pub(crate) async fn wait_for_readers(leases: Leases, shard: u16, shutdown: CancellationToken, stop: CancellationToken) {
    shutdown.cancelled().await;
    if is_somebody_reading(&leases, shard).await {
        tracing::info!("another store reads the log, writing until it knows it");
        let reading = async {
            while is_somebody_reading(&leases, shard).await {
                sleep(LOOK_EVERY).await;
            }
        };
        if timeout(HAND_OVER_WITHIN, reading).await.is_err() {
            tracing::warn!("the other store has not read the log yet, nobody writes until it has");
        }
    }
    stop.cancel();
}

async fn is_somebody_reading(leases: &Leases, shard: u16) -> bool {
    let reading = format!("{READING}{shard}.");
    let readers = timeout(ANSWER_WITHIN, leases.holders(&reading)).await;
    matches!(readers, Ok(Ok(readers)) if !readers.is_empty())
}

async fn keep(leases: Leases, key: String, worker: String, done: CancellationToken) {
    let mut lease = None;
    while !done.is_cancelled() {
        lease = match lease {
            None => leases.try_take(&key, &worker).await.ok().flatten(),
            Some(held) => renewed(held).await,
        };
        tokio::select! {
            () = sleep(RENEW_EVERY) => {}
            () = done.cancelled() => {}
        }
    }
    if let Some(lease) = lease {
        drop(timeout(ANSWER_WITHIN, lease.release()).await);
    }
}

async fn renewed(mut lease: Lease) -> Option<Lease> {
    match timeout(RENEW_EVERY, lease.renew()).await {
        Ok(Ok(false)) => None,
        Ok(Ok(true) | Err(_)) | Err(_) => Some(lease),
    }
}
