use anyhow::bail;
use natterjack_store::archive::{Database, Schema};

use crate::config::{Config, Global};
use crate::process::{block_on, say, start_logging};

#[derive(Debug, clap::Args)]
pub(crate) struct MigrateCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Say which migrations the archive has had and which it lacks; change nothing. Fails if it is newer than this program
    Status,
    /// Bring the archive's tables up to date, and say what was done
    Up,
}

pub(crate) fn run(global: &Global, migrate: &MigrateCommand) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    start_logging(&config.logging)?;
    let address = config.database()?;
    block_on(async |_| match migrate.action {
        Action::Status => {
            say(format_args!("archive  {address}"))?;
            show(&Database::schema(&address).await?)
        }
        Action::Up => {
            let done = Database::migrate(&address).await?;
            for migration in &done {
                say(format_args!("applied  {migration}"))?;
            }
            if done.is_empty() {
                say(format_args!("The archive {address} is up to date: nothing was done."))?;
            }
            Ok(())
        }
    })
}

fn show(schema: &Schema) -> anyhow::Result<()> {
    for (state, migrations) in [
        ("applied", &schema.applied),
        ("pending", &schema.pending),
        ("unknown", &schema.unknown),
    ] {
        for migration in migrations {
            say(format_args!("{state}  {migration}"))?;
        }
    }
    if !schema.unknown.is_empty() {
        bail!("a newer program has been here: use that one, or restore the archive from before its upgrade");
    }
    Ok(())
}
