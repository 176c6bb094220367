use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use natterjack_authz::token::Issuer;
use natterjack_nats_config::local_server::{Find, Keys, LocalServer, ServerConfig, TOOL_STORE, Tool, find, list_tools};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{authz, banner, bridge, data, store};
use crate::config::{Config, Endpoints, Global, endpoints_file};
use crate::process::{block_on, say, start_logging};

/// JetStream's files may take this much beside the log: rooms, leases, MQTT sessions.
const STORE_BESIDE_THE_LOG: u64 = 4 << 30;
/// Tools that can be let in without a restart.
const TOOLS_FORESEEN: u64 = 8;
/// How often the folder of tools is looked at.
const TOOLS_EVERY: Duration = Duration::from_secs(1);
/// How long a role may take to drain.
const DRAIN: Duration = Duration::from_secs(15);

/// Flags of `up`; each is a setting of the configuration too.
#[derive(Debug, Default, clap::Args, Serialize)]
pub(crate) struct UpFlags {
    #[command(flatten)]
    #[serde(skip_serializing_if = "ListenFlags::is_empty")]
    listen: ListenFlags,
    /// Listen on addresses that other machines reach although nothing is encrypted
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    insecure: bool,
    /// Never download a nats-server
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    offline: bool,
}

#[derive(Debug, Default, clap::Args, Serialize)]
struct ListenFlags {
    /// The HTTP door [default: 127.0.0.1:8080; port 0: any]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<SocketAddr>,
    /// NATS clients [default: 127.0.0.1:4222]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    nats: Option<SocketAddr>,
    /// WebSocket clients [default: 127.0.0.1:4280]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    ws: Option<SocketAddr>,
    /// MQTT clients [default: 127.0.0.1:1883]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    mqtt: Option<SocketAddr>,
}

/// The roles of this process, each with its own way to be stopped.
struct Roles {
    running: JoinSet<anyhow::Result<()>>,
    bridge: CancellationToken,
    workers: CancellationToken,
    ready: Vec<(&'static str, watch::Receiver<bool>)>,
}

impl ListenFlags {
    fn is_empty(&self) -> bool {
        self.http.is_none() && self.nats.is_none() && self.ws.is_none() && self.mqtt.is_none()
    }
}

pub(crate) fn run(global: &Global, flags: &UpFlags) -> anyhow::Result<()> {
    if global.nats_url.is_some() {
        bail!(
            "`up` starts a nats-server of its own; to work with the one at --nats-url run the roles: \
             `natterjack store`, `natterjack authz` and `natterjack bridge`"
        );
    }
    let config = Config::load_with(global, flags)?;
    start_logging(&config.logging)?;
    block_on(|shutdown| up(config, shutdown))
}

async fn up(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let _lock = data::lock(&config.data)?;
    let _ = std::fs::remove_file(endpoints_file(&config.data));
    let http = bridge::listen(&config).await?;
    let (keys, issuer) = make_keys(&config)?;
    let server = tokio::select! {
        server = start_server(&config, &keys) => server?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let outcome = serve(&config, &issuer, &server, http, &shutdown).await;
    server.shutdown().await;
    outcome
}

/// Reads all keys of the installation, making those that are missing.
pub(crate) fn make_keys(config: &Config) -> anyhow::Result<(Keys, Issuer)> {
    let dir = config.keys_dir();
    let keys = Keys::load_or_create(&dir)?;
    data::cursor_key(&dir, true)?;
    Ok((keys, Issuer::load_or_create(&dir)?))
}

async fn start_server(config: &Config, keys: &Keys) -> anyhow::Result<LocalServer> {
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
    let server = server_config(config, config.data.join("nats"))?;
    LocalServer::start(&binary, server, keys)
        .await
        .context("the nats-server could not be started")
}

/// The nats-server of this configuration, with its files in `dir`.
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
    })
}

async fn serve(
    config: &Config,
    issuer: &Issuer,
    server: &LocalServer,
    http: TcpListener,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let http_address = http.local_addr()?;
    let mut roles = Roles::start(config, &server.endpoints().nats_url(), http);
    let endpoints = Endpoints {
        http: format!("http://{http_address}"),
        nats: server.endpoints().nats_url(),
        ws: server.endpoints().websocket_url(),
        mqtt: server.endpoints().mqtt_url(),
    };
    let outcome = tokio::select! {
        ready = roles.all_ready() => match ready {
            Ok(()) => match announce(config, issuer, &endpoints) {
                Ok(()) => roles.run_until(server, config, shutdown).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        },
        () = shutdown.cancelled() => Ok(()),
    };
    let _ = std::fs::remove_file(endpoints_file(&config.data));
    roles.drain().await;
    outcome
}

fn announce(config: &Config, issuer: &Issuer, endpoints: &Endpoints) -> anyhow::Result<()> {
    let file = endpoints_file(&config.data);
    data::write_whole(&file, &serde_json::to_string(endpoints)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    banner::print(config, issuer, endpoints)
}

impl Roles {
    fn start(config: &Config, url: &str, http: TcpListener) -> Self {
        let (bridge_stop, workers_stop) = (CancellationToken::new(), CancellationToken::new());
        let (store_ready, store_is_ready) = watch::channel(false);
        let (authz_ready, authz_is_ready) = watch::channel(false);
        let (bridge_ready, bridge_is_ready) = watch::channel(false);
        let mut running = JoinSet::new();
        let work = store::work(config.clone(), url.to_owned(), store_ready, workers_stop.clone());
        running.spawn(async { work.await.context("store stopped") });
        let work = authz::work(config.clone(), url.to_owned(), authz_ready, workers_stop.clone());
        running.spawn(async { work.await.context("authz stopped") });
        let work = bridge::work(
            config.clone(),
            url.to_owned(),
            (http, bridge_ready),
            bridge_stop.clone(),
        );
        running.spawn(async { work.await.context("bridge stopped") });
        Self {
            running,
            bridge: bridge_stop,
            workers: workers_stop,
            ready: vec![
                ("store", store_is_ready),
                ("authz", authz_is_ready),
                ("bridge", bridge_is_ready),
            ],
        }
    }

    /// Waits until every role is ready, or one of them gives up.
    async fn all_ready(&mut self) -> anyhow::Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        let all = async {
            for (role, ready) in &mut ready {
                if ready.wait_for(|ready| *ready).await.is_err() {
                    std::future::pending::<()>().await;
                }
                tracing::debug!(role, "ready");
            }
        };
        tokio::select! {
            () = all => Ok(()),
            ended = self.running.join_next() => Err(why(ended)),
        }
    }

    /// Runs until a role gives up or the process is asked to stop; lets new tools in meanwhile.
    async fn run_until(
        &mut self,
        server: &LocalServer,
        config: &Config,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let dir = config.data.join("nats");
        let mut every = tokio::time::interval(TOOLS_EVERY);
        let mut known = list_tools(&dir).unwrap_or_default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                ended = self.running.join_next() => return Err(why(ended)),
                _ = every.tick() => known = let_tools_in(server, &dir, known).await,
            }
        }
    }

    /// Stops the door first, then the workers behind it.
    async fn drain(mut self) {
        self.bridge.cancel();
        let _ = tokio::time::timeout(DRAIN, self.running.join_next()).await;
        self.workers.cancel();
        let rest = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, rest).await.is_err() {
            tracing::warn!("a role did not stop in time");
        }
    }
}

async fn let_tools_in(server: &LocalServer, dir: &Path, known: Vec<Tool>) -> Vec<Tool> {
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
    match server.reload().await {
        Ok(()) => tracing::info!(tools = tools.len(), "nats-server knows the tools"),
        Err(error) => tracing::warn!(%error, "the tools were not let in"),
    }
    tools
}

fn why(ended: Option<Result<anyhow::Result<()>, tokio::task::JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok(Err(error))) => error,
        Some(Ok(Ok(()))) => anyhow::anyhow!("a role stopped by itself"),
        Some(Err(error)) => anyhow::anyhow!("a role failed: {error}"),
        None => anyhow::anyhow!("no role runs"),
    }
}
