use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;
use natterjack_nats_config::contract::Id;
use natterjack_nats_config::local_server::{Tool, add_tool, list_tools, render};
use nkeys::KeyPair;

use crate::config::{Config, Endpoints, Global};
use crate::process::{block_on, say};
use crate::role::up::{make_keys, server_config};

#[derive(Debug, clap::Args)]
pub(crate) struct NatsCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a NATS account for an internal tool: it receives all rooms of a tenant, and makes its own streams and
    /// consumers on them. It is trusted for that tenant: roles do not apply to it, and revocation does not reach its copies.
    /// Prints JSON with its nkey seed, once. A running `up` lets it in at once (its clients reconnect by themselves)
    Tool {
        /// Names the account: TOOL_{name}
        name: Id,
        /// Whose rooms it receives [default: the configured tenant, main]
        #[arg(long)]
        tenant: Option<Id>,
    },
    /// Print the configuration of a nats-server for the roles, making the keys that are missing
    ///
    /// For running `authz`, `store` and `bridge` beside a nats-server that you start yourself: redirect this to its
    /// configuration file. Set `listen.*`, `nats.prefix` and `store.log_max_bytes` as for `up`.
    Config {
        /// The server's own folder, for JetStream's files, its log and its pid file [default: DATA/nats]
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

/// How long a running `up` may take to let a new tool in.
const WITHIN: Duration = Duration::from_secs(15);

pub(crate) fn run(global: &Global, command: &NatsCommand) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    match &command.what {
        What::Tool { name, tenant } => add(&config, name, tenant.as_ref()),
        What::Config { dir } => print(&config, dir.clone().unwrap_or_else(|| config.data.join("nats"))),
    }
}

fn print(config: &Config, dir: PathBuf) -> anyhow::Result<()> {
    let (keys, _) = make_keys(config)?;
    let tools = list_tools(&dir)?;
    say(render(&server_config(config, dir)?, &keys.public(), &tools).trim_end())
}

fn add(config: &Config, name: &Id, tenant: Option<&Id>) -> anyhow::Result<()> {
    let tenant = tenant.unwrap_or(&config.tenant).clone();
    let key = KeyPair::new_user();
    let seed = key.seed().context("the new key has no seed")?;
    let tool = Tool {
        name: name.clone(),
        tenant: tenant.clone(),
        nkey: key.public_key(),
    };
    add_tool(&config.data.join("nats"), &tool)?;
    let url = Endpoints::read(&config.data).ok().map(|endpoints| endpoints.nats);
    if let Some(url) = &url {
        block_on(async |_| wait_until_let_in(url, &seed).await)?;
    }
    let subject = format!("{}.room.{tenant}.*.log", config.nats.prefix);
    say(serde_json::json!({
        "account": format!("TOOL_{name}"),
        "url": url.unwrap_or_else(|| "(from the next start of `natterjack up`)".to_owned()),
        "seed": seed,
        "subject": subject,
    }))
}

async fn wait_until_let_in(url: &str, seed: &str) -> anyhow::Result<()> {
    let connected = async {
        while async_nats::ConnectOptions::with_nkey(seed.to_owned())
            .connect(url)
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(WITHIN, connected).await.with_context(|| {
        format!("the account is kept, but the server did not let it in within {WITHIN:?}: see its log")
    })
}
