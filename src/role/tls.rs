//! The certificate of the HTTP door, and its files as they change.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use natterjack_bridge::Tls;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::AbortHandle;

use crate::config::Config;

/// How often the files are looked at: whoever renews a certificate does it days before the old one ends.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Reads the files of `bridge.tls`; `None` if there are none.
pub(crate) fn load(config: &Config) -> anyhow::Result<Option<Arc<Tls>>> {
    let tls = &config.bridge.tls;
    if tls.cert.as_os_str().is_empty() {
        return Ok(None);
    }
    let tls = Tls::load(&tls.cert, &tls.key).context("`bridge.tls`")?;
    Ok(Some(Arc::new(tls)))
}

/// Follows the files as long as what this gives is kept.
pub(crate) fn follow(tls: Arc<Tls>) -> anyhow::Result<Following> {
    let asked = signal(SignalKind::hangup()).context("SIGHUP cannot be heard")?;
    Ok(Following(tokio::spawn(look_again(tls, asked)).abort_handle()))
}

/// Ends with its owner.
pub(crate) struct Following(AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn look_again(tls: Arc<Tls>, mut asked: Signal) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            _ = asked.recv() => {}
        }
        let tls = Arc::clone(&tls);
        match tokio::task::spawn_blocking(move || tls.reload()).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => tracing::info!("new connections are shown the new certificate"),
            Ok(Err(error)) => tracing::error!(%error, "the certificate cannot be changed; the one of before stays"),
            Err(error) => tracing::error!(%error, "the certificate's files cannot be looked at"),
        }
    }
}
