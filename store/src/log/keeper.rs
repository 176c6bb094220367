use std::convert::Infallible;
use std::time::Duration;

use async_nats::{Client, jetstream};
use natterjack_nats_config::lease::{Lease, RENEW_EVERY};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::writer::WriterConfig;

/// How long one renewal of the lease may take: it must not hold up the next.
const RENEW_WITHIN: Duration = Duration::from_secs(1);
/// How long after it ran out a lease is still tried: then this worker begins anew, with the bucket too.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// Above this share of `max_bytes` messages are refused and only policy is written: room for revocation.
const SOFT_LIMIT_PERCENT: u64 = 90;

/// What the task that renews the lease knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaseState {
    /// Until when it is surely held.
    pub(crate) valid_until: Instant,
    /// Somebody else may hold it.
    pub(crate) lost: bool,
    /// The log is above its soft limit.
    pub(crate) log_full: bool,
}

impl LeaseState {
    /// A lease that was just taken.
    pub(crate) fn of(lease: &Lease) -> Self {
        Self {
            valid_until: lease.valid_until(),
            lost: false,
            log_full: false,
        }
    }
}

/// Renews the lease and watches the log's size, until told to stop; then gives the lease back.
pub(crate) async fn keep(
    mut lease: Lease,
    client: Client,
    config: WriterConfig,
    told: watch::Sender<LeaseState>,
    stop: CancellationToken,
) {
    let watching = watch_the_size(&client, &config, &told);
    tokio::pin!(watching);
    loop {
        tokio::select! {
            () = tokio::time::sleep(RENEW_EVERY) => {}
            // Beside the renewals: a log without a leader answers after seconds, and the lease must not run out meanwhile.
            never = &mut watching => match never {},
            () = stop.cancelled() => return lease.release().await,
        }
        match tokio::time::timeout(RENEW_WITHIN, lease.renew()).await {
            Ok(Ok(true)) => {
                told.send_modify(|state| state.valid_until = lease.valid_until());
                continue;
            }
            Ok(Ok(false)) => {
                tracing::warn!(worker = config.worker, "lost the writer's lease");
                return told.send_modify(|state| state.lost = true);
            }
            Ok(Err(error)) => tracing::warn!(%error, "the writer's lease was not renewed"),
            Err(_) => tracing::warn!("the writer's lease was not renewed in time"),
        }
        if Instant::now() > lease.valid_until() + GIVE_UP_AFTER {
            tracing::warn!(worker = config.worker, "gave the writer's lease up");
            return told.send_modify(|state| state.lost = true);
        }
    }
}

async fn watch_the_size(client: &Client, config: &WriterConfig, told: &watch::Sender<LeaseState>) -> Infallible {
    loop {
        if let Some(full) = is_nearly_full(client, config).await {
            told.send_modify(|state| state.log_full = full);
        }
        tokio::time::sleep(RENEW_EVERY).await;
    }
}

async fn is_nearly_full(client: &Client, config: &WriterConfig) -> Option<bool> {
    let stream = jetstream::new(client.clone())
        .get_stream(config.log.stream())
        .await
        .ok()?;
    let info = stream.cached_info();
    let limit = u64::try_from(info.config.max_bytes).ok().filter(|limit| *limit > 0)?;
    Some(info.state.bytes > limit / 100 * SOFT_LIMIT_PERCENT)
}
