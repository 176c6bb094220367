mod manifest;
mod restore;

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use async_nats::Client;
use natterjack_nats_config::client::connect;
use natterjack_nats_config::clock;
use natterjack_nats_config::tail::Log;
use natterjack_store::archive::{Database, Tables};
use natterjack_store::transfer::{ToppedUp, TransferError, copy, top_up};
use natterjack_store::verify::verify;

use self::manifest::{Entry, Manifest};
pub(crate) use self::restore::{Restore, open_archive, run as restore};
use super::verify::bar;
use crate::config::{Config, Endpoints, Global};
use crate::process::{block_on, say, start_logging};
use crate::role::data::write_secret;
use crate::role::login;
use crate::role::standstill::with_nats;

/// The archive in the folder, a SQLite file whatever engine it comes from.
const ARCHIVE: &str = "archive.db";
/// The folder of keys.
const KEYS: &str = "keys";
/// The folder of tools.
const TOOLS: &str = "tools";
/// The settings.
const CONFIG: &str = "natterjack.toml";
/// How often the log may be trimmed past the copy before that is given up.
const ATTEMPTS: usize = 5;

#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// A folder that is not there yet
    to: PathBuf,
}

pub(crate) fn run(global: &Global, command: &Backup) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    start_logging(&config.logging)?;
    let running = match &global.nats_url {
        Some(url) => Some(url.clone()),
        None => Endpoints::read(&config.data).ok().map(|endpoints| endpoints.nats_url()),
    };
    let settings = global.config.as_deref();
    block_on(async |_| match running {
        Some(url) => {
            let client = connect(&login(&config, &url, "bridge")?).await?;
            backup(&config, &client, (&command.to, settings)).await
        }
        // Nothing runs: its log is read all the same.
        None => {
            with_nats(&config, None, async |config, client| {
                backup(config, client, (&command.to, settings)).await
            })
            .await
        }
    })
}

async fn backup(config: &Config, client: &Client, (to, settings): (&Path, Option<&Path>)) -> anyhow::Result<()> {
    if to.exists() {
        bail!(
            "{} is there already: a backup goes into a folder of its own",
            to.display()
        );
    }
    make_folder(to)?;
    let source = Database::open(&config.database()?, Tables::Refuse).await?;
    let log = config.log(client).await;
    let mut manifest = Manifest::new(&log, config.nats.prefix.as_str(), clock::format_ms(clock::now_ms()));
    let file = to.join(ARCHIVE);
    let target = Database::open_file(&file).await?;
    manifest.upto = fill(client, (&source, &target), &log).await?;
    manifest.events = check(client, &target, &log).await?;
    target.close().await;
    source.close().await;
    if to.join(format!("{ARCHIVE}-wal")).exists() {
        bail!("{} is not whole: its write-ahead log is still there", file.display());
    }
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    manifest.files.push(Entry::of(to, ARCHIVE)?);
    copy_folder(&config.keys_dir(), (to, KEYS), &mut manifest)?;
    copy_folder(&config.data.join("nats").join(TOOLS), (to, TOOLS), &mut manifest)?;
    if let Some(settings) = settings {
        write_secret(&to.join(CONFIG), &std::fs::read(settings)?)?;
        manifest.files.push(Entry::of(to, CONFIG)?);
    }
    manifest.write(to)?;
    // As whoever restores it reads it.
    Manifest::check(to, |_, _| {})?;
    say(format_args!(
        "{} events, up to frame {} of the log {}, are in {} and were compared with the log. THE FOLDER IS SECRET: it holds the \
         keys of this installation, with which anybody makes tokens for any user, and all messages.",
        manifest.events,
        manifest.upto,
        log.stream(),
        to.display()
    ))
}

/// Copies what is archived, and behind it what the log has. Gives the last frame.
async fn fill(client: &Client, (source, target): (&Database, &Database), log: &Log) -> anyhow::Result<u64> {
    for _ in 0..ATTEMPTS {
        let bar = bar("frames")?;
        let progress = |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        };
        let copied = copy(source, target, log, progress).await;
        let topped_up = match copied {
            // It has not begun, or there is none of this log: then all of the log is needed.
            Ok(_) | Err(TransferError::Nothing) => top_up(client, target, log, progress).await,
            Err(error) => Err(error),
        };
        bar.finish_and_clear();
        match topped_up? {
            ToppedUp::Level(upto) => return Ok(upto),
            ToppedUp::Trimmed => {}
        }
    }
    bail!(
        "the log begins behind what the archive has: is the archive of this log, and does a store archive? \
         `natterjack doctor` says more"
    )
}

/// Compares what was written with the log. Gives how many events it has.
async fn check(client: &Client, target: &Database, log: &Log) -> anyhow::Result<u64> {
    let bar = bar("frames")?;
    let verified = verify(client, target, log, false, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })
    .await;
    bar.finish_and_clear();
    let verified = verified?;
    if let Some(first) = verified.findings.first() {
        bail!(
            "the backup is no good, there are {} faults in it; the first, at {}: {}. `natterjack verify` looks at the archive \
             itself",
            verified.faults,
            first.seq,
            first.fault
        );
    }
    Ok(verified.events)
}

fn copy_folder(from: &Path, (to, name): (&Path, &str), manifest: &mut Manifest) -> anyhow::Result<()> {
    let entries = match std::fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", from.display())),
    };
    make_folder(&to.join(name))?;
    for entry in entries {
        let path = entry?.path();
        let Some(file) = path
            .file_name()
            .and_then(|file| file.to_str())
            .filter(|_| path.is_file())
        else {
            continue;
        };
        let inside = format!("{name}/{file}");
        let bytes = std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        write_secret(&to.join(&inside), &bytes)?;
        manifest.files.push(Entry::of(to, &inside)?);
    }
    manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(())
}

/// Makes a folder that only its owner enters.
fn make_folder(path: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("{} cannot be made", path.display()))
}
