use std::time::Duration;

use async_nats::Client;
use natterjack_nats_config::lease::{Lease, Leases, TTL};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{RebuildConfig, RebuildError};
use crate::archive::keeper;

/// How often a lease is asked for that a store held which was killed just now.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// The leases of those who must not work meanwhile. Dropped, they are given up.
pub(super) struct Held {
    lost: CancellationToken,
    _done: DropGuard,
}

impl Held {
    /// Takes the leases, or says which one somebody holds.
    pub(super) async fn take(client: &Client, config: &RebuildConfig, keys: &[String]) -> Result<Self, RebuildError> {
        let leases = Leases::open(client, &config.subjects, config.replicas).await?;
        let (lost, done) = (CancellationToken::new(), CancellationToken::new());
        let held = Self {
            lost: lost.clone(),
            _done: done.clone().drop_guard(),
        };
        for key in keys {
            let lease = wait_for(&leases, key, &config.worker).await?;
            tokio::spawn(keeper::keep(lease, lost.clone(), done.clone()));
        }
        Ok(held)
    }

    /// Does the work while the leases are held.
    pub(super) async fn hold<T>(&self, work: impl Future<Output = Result<T, RebuildError>>) -> Result<T, RebuildError> {
        tokio::select! {
            done = work => done,
            () = self.lost.cancelled() => Err(RebuildError::Lost),
        }
    }
}

async fn wait_for(leases: &Leases, key: &str, worker: &str) -> Result<Lease, RebuildError> {
    // One that nobody renews runs out.
    let until = Instant::now() + TTL * 2;
    loop {
        if let Some(lease) = leases.try_take(key, worker).await? {
            return Ok(lease);
        }
        if Instant::now() > until {
            return Err(RebuildError::Busy(key.to_owned()));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}
