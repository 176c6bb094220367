use anyhow::Context;
use natterjack_nats_config::client::connect;
use natterjack_nats_config::contract::Principal;
use natterjack_store::archive::{self, ArchiveConfig, Database, Progress};
use natterjack_store::devices::{self, Accounts, DevicesConfig, Wanted};
use natterjack_store::history;
use natterjack_store::log::{self, Bootstrap, WriterConfig};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{login, run_alone, worker_name};
use crate::config::{Config, Global};

pub(crate) fn run(global: &Global) -> anyhow::Result<()> {
    run_alone(global, work)
}

/// The writer, the archive, history and the work for MQTT devices, until one of them gives up or all are asked to stop.
///
/// Ready means: the log can be written (by this worker or another one), the archive's database answers, and what devices
/// publish with `QoS` 1 is kept.
pub(crate) async fn work(
    config: Config,
    url: String,
    ready: watch::Sender<bool>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.data)
        .with_context(|| format!("the data folder {} cannot be made", config.data.display()))?;
    let database = Database::open(&config.database()).await?;
    let accounts = sign_in(&config, &url).await?;
    let client = accounts.core.clone();
    let worker = worker_name("store");
    let log = config.log();
    let wanted = Wanted::default();
    let writer = writer(&config, worker.clone(), wanted.clone())?;
    let for_devices = DevicesConfig {
        log: log.clone(),
        worker: worker.clone(),
        replicas: config.nats.replicas,
    };
    let archive = ArchiveConfig {
        log: log.clone(),
        worker,
        replicas: config.nats.replicas,
    };
    let (leading, mut leads) = watch::channel(false);
    let (progress, mut archived) = watch::channel(Progress::default());
    let mut tasks = JoinSet::new();
    let stop = shutdown.clone();
    let writing = log::run(client.clone(), writer, leading, stop.clone());
    tasks.spawn(async { writing.await.context("the writer") });
    let archiving = archive::run(client.clone(), database.clone(), archive, progress, stop.clone());
    tasks.spawn(async { archiving.await.context("the archive") });
    let (open, mut is_open) = watch::channel(false);
    let serving = devices::run(accounts, for_devices, wanted, open, stop.clone());
    tasks.spawn(async { Box::pin(serving).await.context("the work for MQTT devices") });
    let telling = history::run(client, database, log, stop);
    tasks.spawn(async { telling.await.context("history") });
    tokio::spawn(async move {
        let all = async {
            let _ = leads.wait_for(|leads| *leads).await;
            let _ = archived.wait_for(|archived| archived.ready).await;
            let _ = is_open.wait_for(|is_open| *is_open).await;
        };
        tokio::select! {
            () = all => ready.send_replace(true),
            () = shutdown.cancelled() => false,
        }
    });
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

async fn sign_in(config: &Config, url: &str) -> anyhow::Result<Accounts> {
    Ok(Accounts {
        core: connect(&login(config, url, "store")?).await?,
        devices: connect(&login(config, url, "devices")?).await?,
    })
}

fn writer(config: &Config, worker: String, devices: Wanted) -> anyhow::Result<WriterConfig> {
    Ok(WriterConfig {
        log: config.log(),
        worker,
        replicas: config.nats.replicas,
        log_max_bytes: i64::try_from(config.store.log_max_bytes).context("`store.log_max_bytes` is too large")?,
        devices,
        bootstrap: Some(Bootstrap {
            admin: Principal {
                tenant: config.tenant.clone(),
                user: config.admin.clone(),
            },
        }),
    })
}
