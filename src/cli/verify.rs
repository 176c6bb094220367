use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use natterjack_nats_config::client::{Login, Seed, connect};
use natterjack_store::archive::{Database, Tables};
use natterjack_store::verify::{Verified, verify};

use crate::config::{Config, Endpoints, Global};
use crate::process::{block_on, say, start_logging};

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// Put right what the log still has; what the archive had there is kept in its table `quarantine`
    #[arg(long)]
    repair: bool,
    /// Print the outcome as one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(global: &Global, command: &Verify) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    start_logging(&config.logging)?;
    let url = match &global.nats_url {
        Some(url) => url.clone(),
        None => Endpoints::read(&config.data)?.nats_url(),
    };
    let seed = Seed::read(&config.keys_dir().join("bridge.nk")).context("the log is read with the bridge's key")?;
    let address = config.database()?;
    block_on(async |_| {
        let login = Login {
            url,
            role: "bridge",
            seed,
        };
        let client = connect(&login).await?;
        let database = Database::open(&address, Tables::Refuse).await?;
        let bar = bar("frames")?;
        let log = config.log(&client).await;
        let verified = verify(&client, &database, &log, command.repair, |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        })
        .await;
        bar.finish_and_clear();
        database.close().await;
        show(&verified?, command)
    })
}

/// How far a long job is, on a terminal.
pub(crate) fn bar(unit: &str) -> anyhow::Result<ProgressBar> {
    let style = format!("{{bar:40}} {{human_pos}} of {{human_len}} {unit}, {{per_sec}}, {{eta}} left");
    Ok(ProgressBar::new(0).with_style(ProgressStyle::with_template(&style)?))
}

fn show(verified: &Verified, command: &Verify) -> anyhow::Result<()> {
    let Verified {
        events,
        frames,
        behind,
        faults,
        repaired,
        findings,
    } = verified;
    if command.json {
        let list = findings
            .iter()
            .map(|finding| serde_json::json!({"seq": finding.seq, "fault": finding.fault.to_string()}));
        say(serde_json::json!({
            "events": events, "frames": frames, "behind": behind, "faults": faults, "repaired": repaired,
            "findings": list.collect::<Vec<_>>(),
        }))?;
    } else {
        for finding in findings {
            say(format_args!("{}: {}", finding.seq, finding.fault))?;
        }
        if *faults > findings.len() as u64 {
            say(format_args!("and {} more", faults - findings.len() as u64))?;
        }
        say(format_args!(
            "{events} events of the archive looked at, {frames} frames of the log compared with it, {behind} not archived yet: \
             {faults} faults, {repaired} put right"
        ))?;
    }
    match faults - repaired {
        0 => Ok(()),
        left if command.repair => bail!(
            "{left} faults are left: the log has not got these events any more; restore the archive from a backup"
        ),
        left => bail!("{left} faults; `natterjack verify --repair` puts right what the log still has"),
    }
}
