use natterjack_authz::{AuthzConfig, run as run_authz};
use natterjack_nats_config::client::Seed;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{find_log, login, run_alone, worker_name};
use crate::config::{Config, Global};

pub(crate) fn run(global: &Global) -> anyhow::Result<()> {
    run_alone(global, work)
}

/// The auth callout and the end of connections, until asked to stop.
pub(crate) async fn work(
    config: Config,
    url: String,
    ready: watch::Sender<bool>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let keys = config.keys_dir();
    let authz = AuthzConfig {
        core: login(&config, &url, "authz")?,
        auth: login(&config, &url, "auth")?,
        sys: login(&config, &url, "sys")?,
        issuer: Seed::read(&keys.join("issuer.nk"))?,
        xkey: Seed::read(&keys.join("xkey.nk"))?,
        log: find_log(&config, &login(&config, &url, "authz")?).await?,
        verifier: config.verifier()?,
        tenant: config.tenant.clone(),
        limits: std::sync::Arc::new(config.limits.clone()),
        worker: worker_name("authz").parse()?,
        servers: config.nats.servers,
    };
    Ok(run_authz(authz, ready, shutdown).await?)
}
