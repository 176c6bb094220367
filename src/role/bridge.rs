use anyhow::Context;
use natterjack_bridge::{BridgeConfig, Caps};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{data, login, run_alone};
use crate::config::{Config, Global};

pub(crate) fn run(global: &Global) -> anyhow::Result<()> {
    run_alone(global, async |config, url, ready, shutdown| {
        let listener = listen(&config).await?;
        work(config, url, (listener, ready), shutdown).await
    })
}

/// Takes the address of the HTTP door.
pub(crate) async fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    let address = config.listen.http;
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} for HTTP; choose another address with --http or `listen.http`")
    })
}

/// The HTTP door, until asked to stop.
pub(crate) async fn work(
    config: Config,
    url: String,
    (listener, ready): (TcpListener, watch::Sender<bool>),
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let keys = config.keys_dir();
    let bridge = BridgeConfig {
        nats: login(&config, &url, "bridge")?,
        log: config.log(),
        verifier: config.verifier()?,
        cursor_key: data::cursor_key(&keys, false)?,
        replicas: config.nats.replicas,
        origins: config.bridge.origins.clone(),
        log_requests: config.logging.requests,
        caps: Caps {
            max_connections: config.bridge.max_connections,
            ring_bytes: config.bridge.ring_bytes,
            ..Caps::default()
        },
    };
    Ok(natterjack_bridge::run(bridge, listener, shutdown, ready).await?)
}
