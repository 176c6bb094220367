use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use natterjack_authz::token::Issuer;
use natterjack_nats_config::local_server::{Keys, LocalCluster, Tool, list_tools};
use natterjack_store::audit::MendRequest;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{authz, banner, bridge, data, servers, store};
use crate::config::{Config, Endpoints, Global, endpoints_file};
use crate::process::{block_on, start_logging};

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
    #[command(flatten)]
    #[serde(skip_serializing_if = "NatsFlags::is_empty")]
    nats: NatsFlags,
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
    /// The nats-servers of a cluster, for each other [default: 127.0.0.1:6222]
    #[arg(long, value_name = "ADDR", requires = "servers")]
    #[serde(rename = "cluster", skip_serializing_if = "Option::is_none")]
    cluster_listen: Option<SocketAddr>,
}

#[derive(Debug, Default, clap::Args, Serialize)]
struct NatsFlags {
    /// How many nats-servers: 3 keep three copies of everything, and one of them may fail. The second and the third listen
    /// on the ports after those of the first. Chosen once for a data folder [default: 1]
    #[arg(long = "cluster", value_name = "N")]
    #[serde(rename = "cluster", skip_serializing_if = "Option::is_none")]
    servers: Option<usize>,
}

/// The roles of this process, each with its own way to be stopped.
struct Roles {
    running: JoinSet<anyhow::Result<()>>,
    bridge: CancellationToken,
    workers: CancellationToken,
    ready: Vec<(&'static str, watch::Receiver<bool>)>,
    /// Copies of the log that are to be made anew.
    mend: mpsc::Receiver<MendRequest>,
}

impl ListenFlags {
    fn is_empty(&self) -> bool {
        let all = [self.http, self.nats, self.ws, self.mqtt, self.cluster_listen];
        all.iter().all(Option::is_none)
    }
}

impl NatsFlags {
    fn is_empty(&self) -> bool {
        self.servers.is_none()
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

async fn up(mut config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    // Our own servers: there are as many copies as servers, and all of them are asked.
    (config.nats.replicas, config.nats.servers) = (config.nats.cluster, config.nats.cluster);
    let _lock = data::lock(&config.data)?;
    servers::check_folder(&config)?;
    let _ = std::fs::remove_file(endpoints_file(&config.data));
    let http = bridge::open(&config).await?;
    let (keys, issuer) = make_keys(&config)?;
    let nats = tokio::select! {
        nats = servers::start(&config, &keys) => nats?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let outcome = serve(&config, &issuer, &nats, http, &shutdown).await;
    nats.shutdown().await;
    outcome
}

/// Reads all keys of the installation, making those that are missing.
pub(crate) fn make_keys(config: &Config) -> anyhow::Result<(Keys, Issuer)> {
    let dir = config.keys_dir();
    let keys = Keys::load_or_create(&dir)?;
    data::cursor_key(&dir, true)?;
    Ok((keys, Issuer::load_or_create(&dir)?))
}

async fn serve(
    config: &Config,
    issuer: &Issuer,
    nats: &LocalCluster,
    http: bridge::Door,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let (http_url, renewed) = (http.url()?, http.renewed());
    let mut roles = Roles::start(config, &nats.nats_url(), http);
    let endpoints = servers::endpoints(nats, &http_url).context("no server runs")?;
    let outcome = tokio::select! {
        ready = roles.all_ready() => match ready {
            Ok(()) => match announce(config, issuer, &endpoints) {
                Ok(()) => roles.run_until(nats, config, (renewed, shutdown)).await,
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
    fn start(config: &Config, url: &str, http: bridge::Door) -> Self {
        let (bridge_stop, workers_stop) = (CancellationToken::new(), CancellationToken::new());
        let (store_ready, store_is_ready) = watch::channel(false);
        let (authz_ready, authz_is_ready) = watch::channel(false);
        let (bridge_ready, bridge_is_ready) = watch::channel(false);
        let mut running = JoinSet::new();
        let (mender, mend) = mpsc::channel(1);
        let telling = (store_ready, Some(mender));
        let work = store::work_with(config.clone(), url.to_owned(), telling, workers_stop.clone());
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
            mend,
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

    /// Runs until a role gives up or the process is asked to stop. Meanwhile it lets new tools in, restarts the servers one
    /// after the other on SIGUSR1, makes copies anew, and has a new certificate shown.
    async fn run_until(
        &mut self,
        nats: &LocalCluster,
        config: &Config,
        (mut renewed, shutdown): (Option<watch::Receiver<u64>>, &CancellationToken),
    ) -> anyhow::Result<()> {
        let dir = config.data.join("nats");
        let mut every = tokio::time::interval(TOOLS_EVERY);
        let mut known = list_tools(&dir).unwrap_or_default();
        let mut asked = signal(SignalKind::user_defined1()).context("SIGUSR1 cannot be heard")?;
        loop {
            // Chosen here, done below: whatever is done to the servers, a role that gives up and a stop are seen.
            let task: BoxFuture<'_, Vec<Tool>> = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                ended = self.running.join_next() => return Err(why(ended)),
                _ = every.tick() => servers::let_tools_in(nats, &dir, known.clone()).boxed(),
                _ = asked.recv() => servers::restart_in_turn(nats, config).map(|()| known.clone()).boxed(),
                () = changed(&mut renewed) => servers::show_certificate(nats).map(|()| known.clone()).boxed(),
                Some(request) = self.mend.recv() => servers::mend(nats, request).map(|()| known.clone()).boxed(),
            };
            let tools = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                ended = self.running.join_next() => return Err(why(ended)),
                tools = task => tools,
            };
            known = tools;
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

/// Returns when there is something new; never where there cannot be.
async fn changed(renewed: &mut Option<watch::Receiver<u64>>) {
    if let Some(renewed) = renewed
        && renewed.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

fn why(ended: Option<Result<anyhow::Result<()>, tokio::task::JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok(Err(error))) => error,
        Some(Ok(Ok(()))) => anyhow::anyhow!("a role stopped by itself"),
        Some(Err(error)) => anyhow::anyhow!("a role failed: {error}"),
        None => anyhow::anyhow!("no role runs"),
    }
}
