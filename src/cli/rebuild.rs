use std::path::PathBuf;

use anyhow::Context;
use natterjack_store::archive::Database;
use natterjack_store::rebuild::{Past, RebuildConfig, Rebuilt, rebuild_archive, rebuild_log};

use super::verify::bar;
use crate::config::{Config, Global};
use crate::process::{block_on, say, start_logging};
use crate::role::standstill::with_nats;

#[derive(Debug, clap::Args)]
pub(crate) struct RebuildCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// A log of a new epoch from the archive, for one that is lost or is not the archive's. Sequences go on; cursors of before
    /// are answered 410 `epoch-changed`; what the old log has otherwise is kept in the archive under its epoch
    Log,
    /// The archive anew from the log: for an archive that is not the log's, or is damaged. What was trimmed from the log comes
    /// from the archive as far as it belongs to the log, or from a backup. What the archive had is kept in it under a label
    Archive(FromLog),
}

#[derive(Debug, clap::Args)]
struct FromLog {
    /// A folder of `natterjack backup` that has what was trimmed from the log
    #[arg(long, value_name = "DIR")]
    backup: Option<PathBuf>,
    /// Begin where the log begins, and record that there is nothing before
    #[arg(long, conflicts_with = "backup")]
    without_past: bool,
}

pub(crate) fn run(global: &Global, command: &RebuildCommand) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    start_logging(&config.logging)?;
    let url = global.nats_url.as_deref();
    block_on(async |_| match &command.action {
        Action::Log => with_nats(&config, url, log).await,
        Action::Archive(from) => {
            with_nats(&config, url, async |config, client| archive(config, client, from).await).await
        }
    })
}

/// What a rebuild is told, out of the configuration.
pub(crate) fn rebuild_config(config: &Config) -> anyhow::Result<RebuildConfig> {
    let now = std::time::UNIX_EPOCH
        .elapsed()
        .context("the clock stands before 1970")?;
    Ok(RebuildConfig {
        subjects: config.subjects(),
        replicas: config.nats.replicas,
        log_max_bytes: i64::try_from(config.store.log_max_bytes).context("`store.log_max_bytes` is too large")?,
        worker: format!("rebuild-{:08x}", rand::random::<u32>()),
        now: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
    })
}

async fn log(config: &Config, client: &async_nats::Client) -> anyhow::Result<()> {
    let database = Database::open(&config.database()?, config.tables()).await?;
    make_log(config, client, &database).await
}

/// Makes the log and says so.
pub(crate) async fn make_log(config: &Config, client: &async_nats::Client, database: &Database) -> anyhow::Result<()> {
    let bar = bar("frames")?;
    let rebuilt = rebuild_log(client, database, &rebuild_config(config)?, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })
    .await;
    bar.finish_and_clear();
    let rebuilt = rebuilt?;
    say(format_args!(
        "The log {} goes on behind frame {}: {} events of the archive are its past.",
        rebuilt.log.stream(),
        rebuilt.upto,
        rebuilt.events
    ))?;
    say_apart(&rebuilt)
}

async fn archive(config: &Config, client: &async_nats::Client, from: &FromLog) -> anyhow::Result<()> {
    let database = Database::open(&config.database()?, config.tables()).await?;
    let backup = match &from.backup {
        Some(folder) => Some(super::backup::open_archive(config, folder).await?.1),
        None => None,
    };
    let past = match &backup {
        Some(backup) => Past::Backup(backup.database()),
        None if from.without_past => Past::Nowhere,
        None => Past::Archive,
    };
    let bar = bar("frames")?;
    let rebuilt = rebuild_archive(client, &database, past, &rebuild_config(config)?, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })
    .await;
    bar.finish_and_clear();
    let rebuilt = rebuilt?;
    say(format_args!(
        "The archive begins anew: {} events up to frame {} are taken over, the next store reads the rest from the log {}.",
        rebuilt.events,
        rebuilt.upto,
        rebuilt.log.stream()
    ))?;
    say_apart(&rebuilt)
}

fn say_apart(rebuilt: &Rebuilt) -> anyhow::Result<()> {
    match rebuilt.apart {
        Some((events, label)) => say(format_args!(
            "{events} events of the other side are kept: `natterjack archive export ROOM --epoch={label}` writes them out."
        )),
        None => Ok(()),
    }
}
