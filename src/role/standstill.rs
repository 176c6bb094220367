//! For commands that need the house to stand still: no worker runs, and the nats-server runs for the command alone.

use std::net::{Ipv4Addr, SocketAddr};

use async_nats::Client;
use natterjack_nats_config::client::connect;

use super::{data, login, servers, up};
use crate::config::Config;

/// Does some work as `store`: on the NATS that is named, whose workers the caller has stopped, or on the data folder's own,
/// which is started for it and must not run.
pub(crate) async fn with_nats<T>(
    config: &Config,
    url: Option<&str>,
    work: impl AsyncFnOnce(&Config, &Client) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    if let Some(url) = url {
        return work(config, &connect(&login(config, url, "store")?).await?).await;
    }
    let _lock = data::lock(&config.data)?;
    let mut config = config.clone();
    servers::check_folder(&config)?;
    // Nobody else is to find it.
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    (config.nats.replicas, config.nats.servers) = (config.nats.cluster, config.nats.cluster);
    let listen = &mut config.listen;
    for address in [&mut listen.nats, &mut listen.ws, &mut listen.mqtt, &mut listen.cluster] {
        *address = any;
    }
    let (keys, _) = up::make_keys(&config)?;
    let nats = servers::start(&config, &keys).await?;
    let worked = async {
        let client = connect(&login(&config, &nats.nats_url(), "store")?).await?;
        work(&config, &client).await
    };
    let worked = worked.await;
    nats.shutdown().await;
    worked
}
