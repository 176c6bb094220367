use anyhow::Context;
use clap::Subcommand;
use natterjack_nats_config::client::{Login, Seed, connect};

use crate::config::{Config, Endpoints, Global};
use crate::process::{block_on, say};

#[derive(Debug, clap::Args)]
pub(crate) struct LogCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the log's events as they stand there, one JSON line each (needs the workers' keys)
    View {
        /// The first frame to print (the stream sequence: an event's `seq` divided by 1024)
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Go on with what comes in
        #[arg(long, short)]
        follow: bool,
        /// Also print a line for each frame
        #[arg(long)]
        frames: bool,
    },
}

pub(crate) fn run(global: &Global, command: &LogCommand) -> anyhow::Result<()> {
    let What::View { from, follow, frames } = command.what;
    let config = Config::load(global)?;
    let url = match &global.nats_url {
        Some(url) => url.clone(),
        None => Endpoints::read(&config.data)?.nats_url(),
    };
    let seed = Seed::read(&config.keys_dir().join("bridge.nk")).context("the log is read with the bridge's key")?;
    block_on(async |shutdown| {
        let client = connect(&Login {
            url,
            role: "bridge",
            seed,
        })
        .await?;
        let log = config.log();
        let end = log.end(&client).await?;
        let mut tail = log.tail(&client, from.saturating_sub(1));
        while follow || tail.passed() < end {
            let frame = tokio::select! {
                frame = tail.next() => frame?,
                () = shutdown.cancelled() => return Ok(()),
            };
            if frames {
                say(format_args!(
                    "# frame {}: {} events",
                    frame.stream_seq,
                    frame.events.len()
                ))?;
            }
            for line in &frame.events {
                say(String::from_utf8_lossy(&line.bytes))?;
            }
        }
        Ok(())
    })
}
