use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use natterjack_store::archive::{Address, Database, Tables};
use natterjack_store::transfer::copy;

use super::manifest::Manifest;
use super::{ARCHIVE, CONFIG, KEYS, TOOLS, make_folder};
use crate::cli::rebuild::make_log;
use crate::cli::verify::bar;
use crate::config::{Config, Global};
use crate::process::{block_on, say, start_logging};
use crate::role::data::{lock, write_secret};
use crate::role::standstill::with_nats;

#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// A folder that `natterjack backup` wrote
    from: PathBuf,
}

/// A backup's archive, in a file of its own: opening one changes it.
pub(crate) struct Opened {
    database: Database,
    file: PathBuf,
}

impl Opened {
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm"] {
            let mut file = self.file.clone().into_os_string();
            file.push(end);
            let _ = std::fs::remove_file(file);
        }
    }
}

pub(crate) fn run(global: &Global, command: &Restore) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    start_logging(&config.logging)?;
    block_on(async |_| restore(global, &config, &command.from).await)
}

/// Checks a backup, and opens its archive beside a data folder.
pub(crate) async fn open_archive(config: &Config, folder: &Path) -> anyhow::Result<(Manifest, Opened)> {
    let bar = bar("bytes")?;
    let manifest = Manifest::check(folder, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let manifest = manifest?;
    let file = config.data.join("backup.part.db");
    let cannot = || format!("{} cannot be written", file.display());
    std::fs::copy(folder.join(ARCHIVE), &file).with_context(cannot)?;
    let database = Database::open(&Address::file(&file), Tables::Migrate).await?;
    Ok((manifest, Opened { database, file }))
}

async fn restore(global: &Global, config: &Config, from: &Path) -> anyhow::Result<()> {
    {
        let _lock = lock(&config.data)?;
        refuse_a_used_folder(config)?;
        let (manifest, opened) = open_archive(config, from).await?;
        if manifest.prefix != config.nats.prefix.as_str() {
            bail!(
                "the backup is of `nats.prefix` = {:?}, the settings say {:?}",
                manifest.prefix,
                config.nats.prefix
            );
        }
        put_files(config, from, &manifest)?;
        let target = Database::open(&config.database()?, config.tables()).await?;
        let bar = bar("frames")?;
        let log = manifest.log(&config.subjects());
        let copied = copy(opened.database(), &target, &log, |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        })
        .await;
        bar.finish_and_clear();
        let upto = copied.context("the archive's database must be empty")?;
        opened.database().clone().close().await;
        target.close().await;
        say(format_args!(
            "The archive has the {} events of the backup of {}, up to frame {upto}.",
            manifest.events, manifest.at
        ))?;
    }
    with_nats(config, global.nats_url.as_deref(), async |config, client| {
        let database = Database::open(&config.database()?, config.tables()).await?;
        let made = make_log(config, client, &database).await;
        database.close().await;
        made
    })
    .await?;
    say(format_args!(
        "Restored into {}. Start it with `natterjack up --data {}`; who holds a cursor is told `epoch-changed` and begins again. \
         What was revoked, ended or banned since the backup is not any more: `natterjack revoke --before` ends all tokens and keys of before.",
        config.data.display(),
        config.data.display()
    ))
}

/// Nothing is ever restored over something else.
fn refuse_a_used_folder(config: &Config) -> anyhow::Result<()> {
    let used = [config.keys_dir(), config.data.join("nats"), config.data.join(ARCHIVE)];
    if let Some(used) = used.iter().find(|used| used.exists()) {
        bail!(
            "{} is there already: restore into a new folder, with --data. (What an attempt left that failed may be removed.)",
            used.display()
        );
    }
    Ok(())
}

/// Keys, tools and settings, each readable by the owner alone.
fn put_files(config: &Config, from: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    for (folder, to) in [(KEYS, config.keys_dir()), (TOOLS, config.data.join("nats").join(TOOLS))] {
        for (name, entry) in manifest.files_in(folder) {
            make_folder(&to)?;
            let to = to.join(name);
            let bytes = std::fs::read(from.join(&entry.path))?;
            write_secret(&to, &bytes).with_context(|| format!("{} cannot be written", to.display()))?;
        }
    }
    if let Some(entry) = manifest.files.iter().find(|file| file.path == CONFIG) {
        let to = config.data.join(CONFIG);
        write_secret(&to, &std::fs::read(from.join(&entry.path))?)?;
        say(format_args!(
            "The settings of the backup are in {}; they are used where you say --config.",
            to.display()
        ))?;
    }
    Ok(())
}
