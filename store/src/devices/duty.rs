use std::sync::Arc;

use natterjack_nats_config::lease::{Lease, RENEW_EVERY};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// The time for which this worker holds the lease of the devices.
#[derive(Clone)]
pub(super) struct Duty {
    valid_until: watch::Receiver<Instant>,
    over: CancellationToken,
    done: CancellationToken,
    keeper: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Duty {
    /// Begins it: the lease is renewed by a task of its own until the duty ends or the lease is lost.
    pub(super) fn begin(lease: Lease, shutdown: &CancellationToken) -> Self {
        let (told, valid_until) = watch::channel(lease.valid_until());
        let (over, done) = (shutdown.child_token(), CancellationToken::new());
        let keeper = tokio::spawn(keep(lease, told, over.clone(), done.clone()));
        Self {
            valid_until,
            over,
            done,
            keeper: Arc::new(Mutex::new(Some(keeper))),
        }
    }

    /// Whether the lease is surely held now, also by somebody who was paused just before.
    pub(super) fn is_valid(&self) -> bool {
        Instant::now() < *self.valid_until.borrow()
    }

    /// Waits until it is over: told to stop, or the lease is lost.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Gives the lease back.
    pub(super) async fn end(&self) {
        self.done.cancel();
        let keeper = self.keeper.lock().take();
        if let Some(keeper) = keeper
            && let Err(error) = keeper.await
        {
            tracing::error!(%error, "the task of the devices' lease failed");
        }
    }
}

async fn keep(mut lease: Lease, told: watch::Sender<Instant>, over: CancellationToken, done: CancellationToken) {
    loop {
        tokio::select! {
            () = done.cancelled() => return lease.release().await,
            () = sleep(RENEW_EVERY) => {}
        }
        match timeout_at(lease.valid_until(), lease.renew()).await {
            Ok(Ok(true)) => {
                told.send_replace(lease.valid_until());
            }
            Ok(Err(error)) if lease.is_valid() => {
                tracing::debug!(%error, "the lease of the devices was not renewed, trying again");
            }
            Ok(Ok(false) | Err(_)) | Err(_) => {
                tracing::warn!("the lease of the devices is lost");
                return over.cancel();
            }
        }
    }
}
