//! The nats-servers of `up`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use natterjack_nats_config::client::connect;
use natterjack_nats_config::copies::{lead_elsewhere, wait_until_whole};
use natterjack_nats_config::local_server::{
    ClusterConfig, End, Find, Keys, LocalCluster, LocalServer, RouteSecret, ServerConfig, ServerTls, TOOL_STORE, Tool,
    find, list_tools,
};

use natterjack_store::audit::MendRequest;

use tokio::time::Instant;

use super::login;
use crate::config::{Config, Endpoints};
use crate::process::say;

/// How long copies may take to be up to date again after a restart: a server fetches what it missed.
const WHOLE_WITHIN: Duration = Duration::from_mins(5);
/// How long a lead may take to move.
const LEAD_WITHIN: Duration = Duration::from_secs(10);
/// JetStream's files may take this much beside the log: rooms, leases, MQTT sessions.
const STORE_BESIDE_THE_LOG: u64 = 4 << 30;
/// Tools that can be let in without a restart.
const TOOLS_FORESEEN: u64 = 8;

/// Refuses the folder of another number of servers: the log would seem to be gone.
pub(crate) fn check_folder(config: &Config) -> anyhow::Result<()> {
    let nats = config.data.join("nats");
    let (single, cluster) = (nats.join("jetstream").exists(), nats.join("n1/jetstream").exists());
    match config.nats.cluster {
        1 if cluster => bail!(
            "{} holds the log of a cluster: start it with --cluster 3 (`nats.cluster = 3`), or choose another folder with --data",
            nats.display()
        ),
        2.. if single => bail!(
            "{} holds the log of a single server: start it without --cluster (`nats.cluster = 1`), or choose another folder \
             with --data",
            nats.display()
        ),
        _ => Ok(()),
    }
}

/// Finds the program and starts as many servers as are configured.
pub(crate) async fn start(config: &Config, keys: &Keys) -> anyhow::Result<LocalCluster> {
    let say_now = |text: &str| {
        let _ = say(text);
    };
    let binary = find(&Find {
        server_bin: std::env::var_os("NATS_SERVER_BIN").map(Into::into),
        path: std::env::var_os("PATH"),
        data: &config.data,
        offline: config.offline,
        say: &say_now,
    })
    .await?;
    let cluster = ClusterConfig {
        common: ServerConfig {
            tls: certificate(config)?,
            ..server_config(config, config.data.join("nats"))?
        },
        listen: config.listen.cluster,
        secret: RouteSecret::load_or_create(&config.keys_dir())?,
        servers: config.nats.cluster,
    };
    LocalCluster::start(&binary, &cluster, keys)
        .await
        .context("the nats-server could not be started")
}

/// The files of the certificate, the same as the HTTP door's; the servers find them wherever they are started.
fn certificate(config: &Config) -> anyhow::Result<Option<ServerTls>> {
    let files = &config.bridge.tls;
    if files.is_empty() {
        return Ok(None);
    }
    Ok(Some(ServerTls {
        cert: std::path::absolute(&files.cert)?,
        key: std::path::absolute(&files.key)?,
    }))
}

/// Has the servers show the certificate that the HTTP door shows since a moment ago.
pub(crate) async fn show_certificate(servers: &LocalCluster) {
    match servers.renew_certificate().await {
        Ok(()) => tracing::info!("the nats-servers show the new certificate"),
        Err(error) => tracing::error!(%error, "the nats-servers go on showing the certificate of before"),
    }
}

/// The nats-server of this configuration, with its files in `dir`; what all of a cluster have in common.
pub(crate) fn server_config(config: &Config, dir: PathBuf) -> anyhow::Result<ServerConfig> {
    let tools = list_tools(&dir)?.len() as u64;
    Ok(ServerConfig {
        server_name: "natterjack".parse()?,
        prefix: config.nats.prefix.clone(),
        nats: config.listen.nats,
        websocket: config.listen.ws,
        mqtt: config.listen.mqtt,
        max_store: config.store.log_max_bytes + STORE_BESIDE_THE_LOG + TOOL_STORE * tools.max(TOOLS_FORESEEN),
        dir,
        cluster: None,
        tls: None,
    })
}

/// What is told of running servers; `None` if there is none.
pub(crate) fn endpoints(servers: &LocalCluster, http: &str) -> Option<Endpoints> {
    let urls = |server: &LocalServer| server.endpoints().nats_url();
    let first = servers.servers().first()?.endpoints();
    Some(Endpoints {
        pid: std::process::id(),
        http: http.to_owned(),
        nats: first.nats_url(),
        nats_urls: servers.servers().iter().map(urls).collect(),
        ws: first.websocket_url(),
        mqtt: first.mqtt_url(),
    })
}

/// Restarts the servers one after the other, with what they are to do without: each gives up its leads first, and the next one
/// waits until all copies are up to date again. Stops where that does not come.
pub(crate) async fn restart_in_turn(nats: &LocalCluster, config: &Config) {
    tracing::info!("restarting the nats-servers one after the other");
    match try_restart(nats, config).await {
        Ok(()) => tracing::info!("all nats-servers have been restarted"),
        Err(error) => tracing::error!(error = format!("{error:#}"), "not all nats-servers were restarted"),
    }
}

async fn try_restart(nats: &LocalCluster, config: &Config) -> anyhow::Result<()> {
    let client = connect(&login(config, &nats.nats_url(), "store")?).await?;
    let (log, subjects) = (config.log(&client).await, config.subjects());
    let lease = format!("KV_{}", subjects.lease_bucket());
    let streams = [log.stream(), subjects.rooms_stream(log.shard), lease];
    let mut since = Instant::now();
    for server in nats.servers() {
        let whole = wait_until_whole(&client, &streams, since, WHOLE_WITHIN).await;
        whole.map_err(|missing| anyhow::anyhow!("{} keeps running: {missing}", server.name()))?;
        for stream in &streams {
            lead_elsewhere(&client, stream, server.name(), LEAD_WITHIN).await?;
        }
        server.take_down(End::Clean).await;
        server.bring_up().await;
        since = Instant::now();
        tracing::info!(server = server.name(), "restarted");
    }
    wait_until_whole(&client, &streams, since, WHOLE_WITHIN)
        .await
        .map_err(anyhow::Error::msg)
}

/// Makes a server's copy of a stream anew.
pub(crate) async fn mend(nats: &LocalCluster, request: MendRequest) {
    tracing::warn!(server = request.server, stream = request.stream, "making a copy anew");
    let made = nats.remake(&request.server, &request.stream, &request.group).await;
    // Who asked may have given up.
    let _ = request.done.send(made.map_err(|error| error.to_string()));
}

/// Lets the servers know the tools of the folder `dir`, if they are other than `known`.
pub(crate) async fn let_tools_in(servers: &LocalCluster, dir: &Path, known: Vec<Tool>) -> Vec<Tool> {
    let tools = match list_tools(dir) {
        Ok(tools) => tools,
        Err(error) => {
            tracing::warn!(%error, "the tools cannot be read");
            return known;
        }
    };
    if tools == known {
        return known;
    }
    match servers.reload().await {
        Ok(()) => tracing::info!(tools = tools.len(), "nats-server knows the tools"),
        Err(error) => tracing::warn!(%error, "the tools were not let in"),
    }
    tools
}
