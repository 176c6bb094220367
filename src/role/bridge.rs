use std::sync::Arc;

use anyhow::Context;
use natterjack_bridge::{BridgeConfig, Caps, Tls};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{data, find_log, login, run_alone, tls, worker_name};
use crate::config::{Config, Global};

/// Where HTTP is spoken, and with which certificate.
pub(crate) struct Door {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
}

impl Door {
    /// How often its certificate has changed, if it has one.
    pub(crate) fn renewed(&self) -> Option<watch::Receiver<u64>> {
        self.tls.as_ref().map(|tls| tls.renewed())
    }

    /// What clients on this machine call it.
    pub(crate) fn url(&self) -> anyhow::Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.listener.local_addr()?))
    }
}

pub(crate) fn run(global: &Global) -> anyhow::Result<()> {
    run_alone(global, async |config, url, ready, shutdown| {
        let door = open(&config).await?;
        work(config, url, (door, ready), shutdown).await
    })
}

/// Reads the certificate, if there is one, and takes the address of the HTTP door.
pub(crate) async fn open(config: &Config) -> anyhow::Result<Door> {
    let tls = tls::load(config)?;
    let address = config.listen.http;
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} for HTTP; choose another address with --http or `listen.http`")
    })?;
    Ok(Door { listener, tls })
}

/// The HTTP door, until asked to stop.
pub(crate) async fn work(
    config: Config,
    url: String,
    (Door { listener, tls }, ready): (Door, watch::Sender<bool>),
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let _following = tls.clone().map(tls::follow).transpose()?;
    let keys = config.keys_dir();
    let bridge = BridgeConfig {
        nats: login(&config, &url, "bridge")?,
        log: find_log(&config, &login(&config, &url, "bridge")?).await?,
        verifier: config.verifier()?,
        cursor_key: data::cursor_key(&keys, false)?,
        replicas: config.nats.replicas,
        origins: config.bridge.origins.clone(),
        tls,
        proxies: config.proxies()?,
        tenant: config.tenant.clone(),
        worker: worker_name("bridge").parse()?,
        limits: Arc::new(config.limits.clone()),
        log_requests: config.logging.requests,
        caps: Caps {
            max_connections: config.bridge.max_connections,
            max_connections_per_address: config.bridge.max_connections_per_address,
            ring_bytes: config.bridge.ring_bytes,
            ..Caps::default()
        },
    };
    Ok(natterjack_bridge::run(bridge, listener, shutdown, ready).await?)
}
