use std::time::Duration;

use anyhow::Context;
use natterjack_nats_config::client::connect;
use natterjack_nats_config::contract::Principal;
use natterjack_store::archive::{self, ArchiveConfig, Database, Progress};
use natterjack_store::audit::{self, AuditConfig, Mender};
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

/// The writer, the archive and history, until one of them gives up or all are asked to stop.
///
/// Ready means: the log can be written (by this worker or another one), and the archive's database answers.
pub(crate) async fn work(
    config: Config,
    url: String,
    ready: watch::Sender<bool>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    work_with(config, url, (ready, None), shutdown).await
}

/// The same, with somebody who makes a server's copy of the log anew.
pub(crate) async fn work_with(
    config: Config,
    url: String,
    (ready, mender): (watch::Sender<bool>, Option<Mender>),
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.data)
        .with_context(|| format!("the data folder {} cannot be made", config.data.display()))?;
    let database = Database::open(&config.database()).await?;
    let client = connect(&login(&config, &url, "store")?).await?;
    let worker = worker_name("store");
    let log = config.log();
    let writer = writer_config(&config, &worker)?;
    let audit = AuditConfig {
        log: log.clone(),
        worker: worker.clone(),
        every: Duration::from_secs(config.store.audit_every.max(1)),
        mender,
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
    let auditing = audit::run(client.clone(), database.clone(), audit, stop.clone());
    tasks.spawn(async { auditing.await.context("the audit") });
    let telling = history::run(client, database, log, stop);
    tasks.spawn(async { telling.await.context("history") });
    tokio::spawn(async move {
        let both = async {
            let _ = leads.wait_for(|leads| *leads).await;
            let _ = archived.wait_for(|archived| archived.ready).await;
        };
        tokio::select! {
            () = both => ready.send_replace(true),
            () = shutdown.cancelled() => false,
        }
    });
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

fn writer_config(config: &Config, worker: &str) -> anyhow::Result<WriterConfig> {
    Ok(WriterConfig {
        log: config.log(),
        worker: worker.to_owned(),
        replicas: config.nats.replicas,
        log_max_bytes: i64::try_from(config.store.log_max_bytes).context("`store.log_max_bytes` is too large")?,
        bootstrap: Some(Bootstrap {
            admin: Principal {
                tenant: config.tenant.clone(),
                user: config.admin.clone(),
            },
        }),
    })
}
