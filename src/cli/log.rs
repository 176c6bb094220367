use anyhow::Context;
use async_nats::Client;
use clap::Subcommand;
use natterjack_nats_config::checkpoint::{Checkpoints, Kept};
use natterjack_nats_config::client::{Login, Seed, connect};
use natterjack_nats_config::clock;
use natterjack_nats_config::tail::{Log, TailError};
use tokio_util::sync::CancellationToken;

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
    View(View),
    /// Print what the log holds, and the checkpoints that workers begin with, the newest first
    Checkpoints {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, clap::Args)]
struct View {
    /// The first frame to print (the stream sequence: an event's `seq` divided by 1024); older ones may be trimmed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Go on with what comes in
    #[arg(long, short)]
    follow: bool,
    /// Also print a line for each frame
    #[arg(long)]
    frames: bool,
}

pub(crate) fn run(global: &Global, command: &LogCommand) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    let url = match &global.nats_url {
        Some(url) => url.clone(),
        None => Endpoints::read(&config.data)?.nats_url(),
    };
    let seed = Seed::read(&config.keys_dir().join("bridge.nk")).context("the log is read with the bridge's key")?;
    block_on(async |shutdown| {
        let login = Login {
            url,
            role: "bridge",
            seed,
        };
        let client = connect(&login).await?;
        let log = config.log(&client).await;
        match command.what {
            What::View(what) => view(&client, &log, what, &shutdown).await,
            What::Checkpoints { json } => checkpoints(&client, &log, json).await,
        }
    })
}

async fn view(client: &Client, log: &Log, what: View, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let bounds = log.bounds(client).await?;
    let mut tail = log.tail(client, what.from.max(bounds.first).saturating_sub(1));
    while what.follow || tail.passed() < bounds.last {
        let frame = tokio::select! {
            frame = tail.next() => frame,
            () = shutdown.cancelled() => return Ok(()),
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(TailError::Trimmed { first, wanted }) => {
                tracing::warn!(
                    wanted,
                    first,
                    "the log was trimmed meanwhile, the frames between are gone"
                );
                tail = log.tail(client, first - 1);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if what.frames {
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
}

async fn checkpoints(client: &Client, log: &Log, json: bool) -> anyhow::Result<()> {
    let bounds = log.bounds(client).await?;
    let kept = match Checkpoints::join(client, log).await? {
        Some(checkpoints) => checkpoints.list().await?,
        None => Vec::new(),
    };
    if json {
        return kept
            .iter()
            .try_for_each(|kept| say(serde_json::to_string(&kept.manifest)?));
    }
    say(format_args!(
        "log {}: frames {} to {}, {} bytes",
        log.stream(),
        bounds.first,
        bounds.last,
        bounds.bytes
    ))?;
    if kept.is_empty() {
        return say("no checkpoint yet: workers read the log from its first frame");
    }
    kept.iter().try_for_each(|Kept { manifest, .. }| {
        say(format_args!(
            "checkpoint at frame {}: made {} by {}, log time {}, {} bytes of policy, {} of the writer, state {}",
            manifest.end,
            clock::format_ms(manifest.made_at_ms),
            manifest.maker,
            clock::format_ms(manifest.at_ms),
            manifest.policy.bytes,
            manifest.writer.bytes,
            manifest.hash
        ))
    })
}
