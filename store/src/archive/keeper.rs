use natterjack_nats_config::lease::{Lease, RENEW_EVERY};
use tokio::time::{sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// Renews the lease until `done`, then gives it up. Cancels `work` as soon as the lease is not surely held any more.
///
/// It runs in a task of its own: a transaction may take longer than a lease lives.
pub(crate) async fn keep(mut lease: Lease, work: CancellationToken, done: CancellationToken) {
    loop {
        tokio::select! {
            () = done.cancelled() => return lease.release().await,
            () = sleep(RENEW_EVERY) => {}
        }
        match timeout_at(lease.valid_until(), lease.renew()).await {
            Ok(Ok(true)) => {}
            Ok(Err(error)) if lease.is_valid() => {
                tracing::debug!(%error, "the archive's lease was not renewed, trying again");
            }
            Ok(Ok(false) | Err(_)) | Err(_) => {
                tracing::warn!("the archive's lease is lost");
                return work.cancel();
            }
        }
    }
}
