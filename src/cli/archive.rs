use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use natterjack_nats_config::contract::Id;
use natterjack_store::archive::{Address, Database, Tables};
use natterjack_store::transfer::{Exported, ExportedUser, copy, export, export_user, import};

use super::verify::bar;
use crate::config::{Config, Global, read_password};
use crate::process::{block_on, say, start_logging};

#[derive(Debug, clap::Args)]
pub(crate) struct ArchiveCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Copy the archive into another database, as it stands. Both may be of any engine, and the archive in use; once more
    /// copies what came since
    Copy(Copy),
    /// Write a room's events, or a user's, as JSON lines: a header, then each event exactly as it stands in the log
    Export(Export),
    /// Read such a file into an empty archive
    Import(Import),
}

#[derive(Debug, clap::Args)]
struct Copy {
    /// The other database: a path of a SQLite file, or a URL as for --database
    #[arg(long, value_name = "URL")]
    to: String,
    /// A file whose first line is the other database's password
    #[arg(long, value_name = "FILE")]
    to_password_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Export {
    /// The room
    #[arg(required_unless_present = "user")]
    room: Option<Id>,
    /// Not a room but all that this user wrote, and where they are a member since when
    #[arg(long, conflicts_with_all = ["room", "epoch"])]
    user: Option<Id>,
    /// Its tenant [default: the one of the configuration]
    #[arg(long)]
    tenant: Option<Id>,
    /// What is kept apart under an epoch, or under a label (a number below zero), instead of what is shown
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    epoch: Option<i64>,
    /// Where to [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Import {
    /// The file [default: standard input]
    file: Option<PathBuf>,
}

pub(crate) fn run(global: &Global, command: &ArchiveCommand) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    start_logging(&config.logging)?;
    block_on(async |_| match &command.action {
        Action::Copy(copy) => run_copy(&config, copy).await,
        Action::Export(export) => run_export(&config, export).await,
        Action::Import(import) => run_import(&config, import).await,
    })
}

async fn run_copy(config: &Config, command: &Copy) -> anyhow::Result<()> {
    let password = command.to_password_file.as_deref().map(read_password).transpose()?;
    let to = Address::parse(&command.to, password.map(Into::into)).context("--to")?;
    let source = Database::open(&config.database()?, Tables::Refuse).await?;
    let target = Database::open(&to, Tables::Migrate).await?;
    let bar = bar("frames")?;
    let log = source.log(&config.subjects()).await?;
    let copied = copy(&source, &target, &log, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })
    .await;
    bar.finish_and_clear();
    let upto = copied?;
    say(format_args!("copied up to frame {upto} into {to}"))
}

async fn run_export(config: &Config, command: &Export) -> anyhow::Result<()> {
    let database = Database::open(&config.database()?, Tables::Refuse).await?;
    let log = &database.log(&config.subjects()).await?;
    let tenant = command.tenant.as_ref().unwrap_or(&config.tenant);
    let mut out: Box<dyn Write> = match &command.output {
        Some(file) => Box::new(BufWriter::new(
            File::create_new(file).with_context(|| format!("cannot make {}", file.display()))?,
        )),
        None => Box::new(BufWriter::new(std::io::stdout())),
    };
    let bar = bar("events")?;
    let progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let exported = match (&command.room, &command.user) {
        (_, Some(user)) => export_user(&database, ExportedUser { log, tenant, user }, &mut out, progress).await,
        (Some(room), None) => {
            let apart = command.epoch;
            let what = Exported {
                log,
                tenant,
                room,
                apart,
            };
            export(&database, what, &mut out, progress).await
        }
        (None, None) => bail!("name a room, or a user with --user"),
    };
    bar.finish_and_clear();
    exported?;
    Ok(())
}

async fn run_import(config: &Config, command: &Import) -> anyhow::Result<()> {
    let database = Database::open(&config.database()?, config.tables()).await?;
    let input: Box<dyn Read> = match &command.file {
        Some(file) => Box::new(File::open(file).with_context(|| format!("cannot read {}", file.display()))?),
        None => Box::new(std::io::stdin()),
    };
    let bar = bar("events")?;
    let subjects = config.subjects();
    let imported = import(&database, &subjects, &mut BufReader::new(input), |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })
    .await;
    bar.finish_and_clear();
    let header = imported?;
    say(format_args!(
        "{} events of room {} of tenant {}, up to frame {}",
        header.events, header.room, header.tenant, header.upto
    ))
}
