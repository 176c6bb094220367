use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use natterjack_nats_config::client::connect;
use natterjack_nats_config::contract::Principal;
use natterjack_nats_config::tail::Log;
use natterjack_store::archive::{self, ArchiveConfig, Database, OpenError, Progress};
use natterjack_store::audit::{self, AuditConfig, Mender};
use natterjack_store::devices::{self, Accounts, DevicesConfig, Wanted};
use natterjack_store::erasure::keep_erased;
use natterjack_store::history;
use natterjack_store::log::{
    self, Bootstrap, CheckpointConfig, TrimConfig, WriterConfig, keep_checkpoints, keep_trimmed,
};
use natterjack_store::retention::{RetentionConfig, keep_retention};
use natterjack_store::search;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::background::in_background;
use super::{login, run_alone, worker_name};
use crate::config::{Config, Global};

/// The pause before a database is looked for again.
const OPEN_AGAIN: Duration = Duration::from_secs(2);

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
    let accounts = sign_in(&config, &url).await?;
    let client = accounts.core.clone();
    let worker = worker_name("store");
    let log = config.log(&client).await;
    let wanted = Wanted::default();
    let settings = Settings {
        config: &config,
        log: &log,
        worker: &worker,
    };
    let (diverged, differs) = watch::channel(false);
    let (leading, leads) = watch::channel(false);
    let (progress, archived) = watch::channel(Progress::default());
    let (opened, has_opened) = oneshot::channel();
    let mut tasks = JoinSet::new();
    let stop = || shutdown.clone();
    let writing = Box::pin(log::run(
        client.clone(),
        settings.writer(wanted.clone(), diverged)?,
        leading,
        stop(),
    ));
    tasks.spawn(async { writing.await.context("the writer") });
    let archiving = {
        let (shared, parts) = (
            (client.clone(), config.clone()),
            (settings.archive(), settings.audit(mender)),
        );
        let (told, stop) = ((progress, leads.clone(), opened), stop());
        move || keep_archive(shared, parts, told, stop)
    };
    tasks.spawn(in_background("archive", archiving));
    let telling = (client.clone(), log.clone(), config.clone());
    tasks.spawn(tell_history(telling, has_opened, stop()));
    let (open, is_open) = watch::channel(false);
    let serving = devices::run(accounts, settings.devices(), wanted, open, stop());
    tasks.spawn(async { Box::pin(serving).await.context("the work for MQTT devices") });
    let (checkpoints, leads_now, stopping) = (settings.checkpoints(), leads.clone(), stop());
    let keeping = move || keep_checkpoints(client, checkpoints, leads_now, stopping).map(Ok);
    tasks.spawn(in_background("checkpoints", keeping));
    tokio::spawn(tell_ready(ready, (leads, archived, is_open, differs), stop()));
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// What fills the database and what follows from it: the archive, the index for search, the audit, and trimming the log behind
/// the archive. The writer needs none of it, and works on while a server of a database is away, also at the start.
async fn keep_archive(
    (client, config): (async_nats::Client, Config),
    (archive, audit): (ArchiveConfig, AuditConfig),
    (progress, leading, opened): (watch::Sender<Progress>, watch::Receiver<bool>, oneshot::Sender<()>),
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let database = tokio::select! {
        opened = open(&config) => opened?,
        () = shutdown.cancelled() => return Ok(()),
    };
    // Who waits for it may have ended.
    let _ = opened.send(());
    let stop = || shutdown.clone();
    let log = archive.log.clone();
    let mut tasks = JoinSet::new();
    let archiving = Box::pin(archive::run(
        client.clone(),
        database.clone(),
        archive,
        progress,
        stop(),
    ));
    tasks.spawn(async { archiving.await.context("the archive") });
    if config.store.trim {
        let trim = TrimConfig {
            log: log.clone(),
            keep_bytes: config.store.log_keep_bytes,
            keep: Duration::from_secs(config.store.log_keep_secs),
        };
        let leads = leading.clone();
        tasks.spawn(keep_trimmed((client.clone(), database.clone()), trim, leads, stop()).map(Ok));
    }
    let retention = RetentionConfig {
        log: log.clone(),
        days: config.store.retention.days,
        tenants: config.store.retention.tenants.clone(),
    };
    tasks.spawn(keep_retention(database.clone(), retention, leading.clone(), stop()).map(Ok));
    let erasing = keep_erased((client.clone(), database.clone()), log.clone(), leading, stop());
    tasks.spawn(erasing.map(Ok));
    let auditing = audit::run(client, database.clone(), audit, stop());
    tasks.spawn(async { auditing.await.context("the audit") });
    tasks.spawn(search::keep(database, log, stop()).map(Ok));
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Reads the database for people who wait for it: with connections of its own, beside what fills it. Opens it behind that, which brings
/// the tables up to date.
async fn tell_history(
    (client, log, config): (async_nats::Client, Log, Config),
    has_opened: oneshot::Receiver<()>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let opening = async {
        match has_opened.await {
            Ok(()) => open(&config).await.map(Some),
            // It could not be opened, and says so itself.
            Err(_) => Ok(None),
        }
    };
    let database = tokio::select! {
        opened = opening => opened?,
        () = shutdown.cancelled() => None,
    };
    let Some(database) = database else { return Ok(()) };
    history::run(client, database, log, shutdown).await.context("history")
}

/// Opens the database, as soon as it is there.
async fn open(config: &Config) -> anyhow::Result<Database> {
    let address = config.database()?;
    loop {
        match Database::open(&address, config.tables()).await {
            Ok(database) => return Ok(database),
            Err(error @ OpenError::Away { .. }) => {
                tracing::warn!(%error, retry_in = ?OPEN_AGAIN, "nothing is archived yet, and there is no history");
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(OPEN_AGAIN).await;
    }
}

async fn sign_in(config: &Config, url: &str) -> anyhow::Result<Accounts> {
    Ok(Accounts {
        core: connect(&login(config, url, "store")?).await?,
        devices: connect(&login(config, url, "devices")?).await?,
    })
}

/// What tells how the parts of this role fare: the writer, the archive, the work for devices, and whether the writer's state
/// differs from the others'.
type Watched = (
    watch::Receiver<bool>,
    watch::Receiver<Progress>,
    watch::Receiver<bool>,
    watch::Receiver<bool>,
);

async fn tell_ready(
    ready: watch::Sender<bool>,
    (mut leads, mut archived, mut is_open, mut differs): Watched,
    shutdown: CancellationToken,
) {
    let told = async {
        let _ = leads.wait_for(|leads| *leads).await;
        let _ = archived.wait_for(|archived| archived.ready).await;
        let _ = is_open.wait_for(|is_open| *is_open).await;
        ready.send_replace(true);
        // A worker whose state cannot be trusted is not ready, whatever else works.
        let _ = differs.wait_for(|differs| *differs).await;
        ready.send_replace(false);
    };
    tokio::select! {
        () = told => {}
        () = shutdown.cancelled() => {}
    }
}

/// What the parts of this role are told, out of the configuration.
struct Settings<'a> {
    config: &'a Config,
    log: &'a Log,
    worker: &'a str,
}

impl Settings<'_> {
    fn writer(&self, devices: Wanted, diverged: watch::Sender<bool>) -> anyhow::Result<WriterConfig> {
        let Config { store, nats, .. } = self.config;
        Ok(WriterConfig {
            log: self.log.clone(),
            worker: self.worker.to_owned(),
            replicas: nats.replicas,
            log_max_bytes: i64::try_from(store.log_max_bytes).context("`store.log_max_bytes` is too large")?,
            devices,
            bootstrap: Some(Bootstrap {
                admin: Principal {
                    tenant: self.config.tenant.clone(),
                    user: self.config.admin.clone(),
                },
            }),
            limits: Arc::new(self.config.limits.clone()),
            diverged,
        })
    }

    fn devices(&self) -> DevicesConfig {
        DevicesConfig {
            log: self.log.clone(),
            worker: self.worker.to_owned(),
            replicas: self.config.nats.replicas,
        }
    }

    fn archive(&self) -> ArchiveConfig {
        ArchiveConfig {
            log: self.log.clone(),
            worker: self.worker.to_owned(),
            replicas: self.config.nats.replicas,
        }
    }

    fn audit(&self, mender: Option<Mender>) -> AuditConfig {
        AuditConfig {
            log: self.log.clone(),
            worker: self.worker.to_owned(),
            every: Duration::from_secs(self.config.store.audit_every.max(1)),
            mender,
        }
    }

    fn checkpoints(&self) -> CheckpointConfig {
        CheckpointConfig {
            log: self.log.clone(),
            worker: self.worker.to_owned(),
            replicas: self.config.nats.replicas,
            every_frames: self.config.store.checkpoint_frames,
            every_bytes: self.config.store.checkpoint_bytes,
        }
    }
}
