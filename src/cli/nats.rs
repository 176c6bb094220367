use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use natterjack_nats_config::contract::Id;
use natterjack_nats_config::local_server::{Host, RouteSecret, Tool, add_tool, list_tools, members_on, render};
use natterjack_nats_config::this_machine::trusting_this_machine;
use nkeys::KeyPair;

use crate::config::{Config, Endpoints, Global};
use crate::process::{block_on, say};
use crate::role::data::write_secret;
use crate::role::servers::server_config;
use crate::role::up::make_keys;

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
    ///
    /// With --cluster: of three servers on machines of their own, `n1.conf`, `n2.conf` and `n3.conf`. Then set
    /// `nats.replicas = 3` and `nats.servers = 3` for the roles, and name all three in `nats.url`.
    Config(ConfigFlags),
}

#[derive(Debug, clap::Args)]
struct ConfigFlags {
    /// The server's own folder, for JetStream's files, its log and its pid file
    /// [default: DATA/nats; of a cluster: /var/lib/natterjack]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The files of three servers that form a cluster
    #[arg(long)]
    cluster: bool,
    /// The three machines, by the names under which they reach each other and clients reach them; with =ZONE, no two copies
    /// are kept in one zone [default: placeholders]
    #[arg(
        long = "host",
        value_name = "NAME[=ZONE]",
        value_delimiter = ',',
        requires = "cluster"
    )]
    hosts: Vec<Host>,
    /// Write the files into this folder instead, with `routes.conf`, which every server needs beside its own file: it holds
    /// the secret by which the servers know each other
    #[arg(long, value_name = "DIR", requires = "cluster")]
    out: Option<PathBuf>,
}

/// Who serves when nobody is named.
const PLACEHOLDERS: [&str; 3] = ["nats-1.example.org", "nats-2.example.org", "nats-3.example.org"];
/// Where a server's files are on a machine of its own.
const CLUSTER_DIR: &str = "/var/lib/natterjack";

/// How long a running `up` may take to let a new tool in.
const WITHIN: Duration = Duration::from_secs(15);

pub(crate) fn run(global: &Global, command: &NatsCommand) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    match &command.what {
        What::Tool { name, tenant } => add(&config, name, tenant.as_ref()),
        What::Config(flags) if flags.cluster => cluster(&config, flags),
        What::Config(flags) => print(&config, flags.dir.clone().unwrap_or_else(|| config.data.join("nats"))),
    }
}

fn cluster(config: &Config, flags: &ConfigFlags) -> anyhow::Result<()> {
    let hosts = match flags.hosts.as_slice() {
        [] => PLACEHOLDERS.iter().flat_map(|name| name.parse()).collect(),
        hosts => hosts.to_vec(),
    };
    if hosts.len() != PLACEHOLDERS.len() {
        bail!("a cluster has three servers: give --host three times");
    }
    let (keys, _) = make_keys(config)?;
    let secret = RouteSecret::load_or_create(&config.keys_dir())?;
    let dir = flags.dir.clone().unwrap_or_else(|| CLUSTER_DIR.into());
    let common = server_config(config, dir)?;
    let tools = list_tools(&config.data.join("nats"))?;
    let members = members_on(&common, &secret, config.listen.cluster.port(), &hosts);
    let files = members.iter().zip(&hosts).enumerate().map(|(index, (member, host))| {
        let text = render(member, &keys.public(), &tools);
        (format!("n{}.conf", index + 1), &host.name, text)
    });
    let Some(out) = &flags.out else {
        for (file, host, text) in files {
            say(format_args!("# ===== {file}, for {host} =====\n{}\n", text.trim_end()))?;
        }
        return say("# ===== routes.conf, beside each of them: secret; --out DIR writes it =====");
    };
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let write = |file: &str, text: &str| {
        let path = out.join(file);
        write_secret(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    };
    for (file, host, text) in files {
        write(&file, &text)?;
        say(format_args!("{}  for {host}", out.join(&file).display()))?;
    }
    let routes = members
        .iter()
        .find_map(|member| Some(member.cluster.as_ref()?.routes_file()));
    write("routes.conf", &routes.unwrap_or_default())?;
    say(format_args!(
        "{}  for all of them, beside their own file; secret",
        out.join("routes.conf").display()
    ))
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
        while trusting_this_machine(async_nats::ConnectOptions::with_nkey(seed.to_owned()), url)
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
