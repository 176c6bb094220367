//! A whole Natterjack, as it runs in production: a nats-server, and two processes each of store, bridge and authz, each with a
//! line to the server of its own that can be cut.

mod cable;
mod mesh;
mod proxy;
mod server;
mod worker;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::jetstream;
use natterjack_authz::token::Issuer;
use natterjack_nats_config::client::{Login, connect};
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Principal, Subjects};
use natterjack_nats_config::lease::{Leases, STANDBY};
use natterjack_nats_config::local_server::{ClusterConfig, KeyName, Keys, RouteSecret, ServerConfig};
use natterjack_nats_config::tail::Log;
use tokio::process::Command;

pub(crate) use cable::Cable;
pub(crate) use mesh::Mesh;
pub(crate) use proxy::{Mode, Proxy};
pub(crate) use server::Servers;
pub(crate) use worker::{Launch, Role, Worker, send_signal};

use server::{find_server, wrapped};

use crate::client::Http;
use crate::run::clock_settings;

/// The tenant of all clients.
pub(crate) const TENANT: &str = "main";
/// Who makes the rooms.
pub(crate) const ADMIN: &str = "admin";
/// How many processes there are of each role.
const OF_EACH: usize = 2;
/// Tokens are this much older than the run, so that a worker whose clock goes wrong by a day still takes them.
const ISSUED_BEFORE: Duration = Duration::from_hours(72);
const TOKEN_TTL: Duration = Duration::from_hours(24 * 30);
const READY_WITHIN: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What differs between one house and another.
pub(crate) struct Plan {
    /// The program under test.
    pub(crate) program: PathBuf,
    /// Everything is made in here.
    pub(crate) dir: PathBuf,
    /// How many servers: 1 or 3.
    pub(crate) nodes: usize,
    /// JetStream's limit, in bytes.
    pub(crate) max_store: u64,
    /// Run the server without `sync_interval: always`.
    pub(crate) lazy: bool,
    /// Give each store and authz a network of its own.
    pub(crate) cables: bool,
    /// The library that tells the workers the time, where faults change it.
    pub(crate) faketime: Option<PathBuf>,
    /// More settings of the workers, as variables of their environment.
    pub(crate) settings: Vec<(String, String)>,
}

/// The running house. Dropping it ends all its processes.
pub(crate) struct House {
    pub(crate) servers: Servers,
    /// How the servers of a cluster reach each other.
    pub(crate) mesh: Option<Mesh>,
    pub(crate) workers: Vec<Worker>,
    /// The addresses of the bridges.
    pub(crate) bridges: Vec<SocketAddr>,
    /// The archive's file.
    pub(crate) database: PathBuf,
    keys: Keys,
    issuer: Issuer,
}

impl House {
    /// Starts everything and waits until it is ready.
    pub(crate) async fn start(plan: &Plan) -> anyhow::Result<Self> {
        let data = plan.dir.join("data");
        make_keys(&plan.program, &data).await?;
        let keys_dir = data.join("keys");
        let (keys, issuer) = (Keys::load_or_create(&keys_dir)?, Issuer::load(&keys_dir)?);
        let mesh = if plan.nodes > 1 {
            Some(Mesh::lay(plan.nodes).await?)
        } else {
            None
        };
        let servers = start_servers(plan, &data, (&keys, mesh.as_ref())).await?;
        let mut house = Self {
            servers,
            mesh,
            workers: Vec::new(),
            bridges: Vec::new(),
            database: data.join("archive.db"),
            keys,
            issuer,
        };
        house.start_workers(plan).await?;
        house.ready(READY_WITHIN).await?;
        Ok(house)
    }

    async fn start_workers(&mut self, plan: &Plan) -> anyhow::Result<()> {
        for role in [Role::Store, Role::Authz, Role::Bridge] {
            for number in 1..=OF_EACH {
                let cable = if plan.cables && role != Role::Bridge {
                    Some(Cable::lay(self.workers.len()).await?)
                } else {
                    None
                };
                let here = cable
                    .as_ref()
                    .map_or(IpAddr::from(Ipv4Addr::LOCALHOST), Cable::address_here);
                let mut proxies = Vec::new();
                for (server, _) in self.servers.addresses() {
                    proxies.push(Proxy::start(here, server).await?);
                }
                let urls: Vec<String> = proxies.iter().map(Proxy::url).collect();
                let name = format!("{}-{number}", role.as_str());
                let mut settings = self.settings(plan, &urls.join(","));
                if role == Role::Bridge {
                    let address = free_port()?;
                    settings.push(("NATTERJACK_LISTEN__HTTP".to_owned(), address.to_string()));
                    self.bridges.push(address);
                }
                settings.extend(plan.settings.iter().cloned());
                if let Some(library) = &plan.faketime {
                    settings.extend(clock_settings(library, &plan.dir.join(format!("{name}.log")))?);
                }
                let words = [
                    text(&plan.program),
                    role.as_str().to_owned(),
                    "--data".to_owned(),
                    text(&plan.dir.join(&name)),
                ];
                let prefix = cable.as_ref().map(Cable::prefix).into_iter().flatten();
                let command = prefix.chain(words).collect();
                let launch = Launch { command, settings };
                self.workers
                    .push(Worker::start(name, role, (proxies, cable), &plan.dir, launch));
            }
        }
        Ok(())
    }

    /// What every worker is told, as variables of its environment.
    fn settings(&self, plan: &Plan, url: &str) -> Vec<(String, String)> {
        vec![
            ("NATTERJACK_NATS__URL".to_owned(), url.to_owned()),
            ("NATTERJACK_KEYS__DIR".to_owned(), text(&plan.dir.join("data/keys"))),
            ("NATTERJACK_STORE__DATABASE".to_owned(), text(&self.database)),
        ]
    }

    /// Waits until each bridge says that it can work.
    pub(crate) async fn ready(&self, within: Duration) -> anyhow::Result<()> {
        let all = async {
            for bridge in &self.bridges {
                let mut http = Http::new(*bridge, String::new());
                while !http.get("/readyz").await.is_ok_and(|answer| answer.status == 200) {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        };
        if tokio::time::timeout(within, all).await.is_err() {
            let ends: Vec<String> = self.workers.iter().filter_map(|worker| worker.ends().pop()).collect();
            bail!("not every bridge was ready within {within:?}; {}", ends.join("; "));
        }
        Ok(())
    }

    /// The processes of a role.
    pub(crate) fn of_role(&self, role: Role) -> Vec<&Worker> {
        self.workers.iter().filter(|worker| worker.role == role).collect()
    }

    /// A token for a user.
    pub(crate) fn token(&self, user: &str) -> anyhow::Result<String> {
        let who = Principal {
            tenant: TENANT.parse()?,
            user: user.parse()?,
        };
        let before = i64::try_from(ISSUED_BEFORE.as_millis()).unwrap_or_default();
        Ok(self.issuer.issue(&who, TOKEN_TTL, clock::now_ms() - before)?)
    }

    /// A connection with a worker's rights, straight to the server: to look, not to take part.
    pub(crate) async fn look(&self, name: KeyName, role: &'static str) -> anyhow::Result<async_nats::Client> {
        let login = Login {
            url: self.servers.url(),
            role,
            seed: self.keys.seed(name).clone(),
        };
        Ok(connect(&login).await?)
    }

    /// The store that writes now, by the lease; `None` while nobody holds it.
    pub(crate) async fn writer(&self, client: &async_nats::Client) -> Option<&Worker> {
        let bucket = Subjects::default().lease_bucket();
        let bucket = jetstream::new(client.clone()).get_key_value(bucket).await.ok()?;
        let holder = bucket.get("writer.0").await.ok()??;
        let holder = String::from_utf8(holder.to_vec()).ok()?;
        let mut stores = self.workers.iter().filter(|worker| worker.role == Role::Store);
        stores.find(|worker| worker.logged(&holder))
    }

    /// The stores that could take over, by names of which each process has another one.
    pub(crate) async fn standbys(&self, client: &async_nats::Client) -> anyhow::Result<Vec<String>> {
        let leases = Leases::join(client, &Subjects::default()).await?;
        Ok(leases.holders(STANDBY).await?)
    }

    /// Waits until a store could take over that was not among those `before`, or is the writer already.
    pub(crate) async fn stands_by(
        &self,
        client: &async_nats::Client,
        (store, before): (&Worker, &[String]),
        within: Duration,
    ) -> anyhow::Result<()> {
        let stands_by = async {
            loop {
                let now = self.standbys(client).await.unwrap_or_default();
                let is_new = now.iter().any(|name| !before.contains(name));
                let writer = self.writer(client).await.map(|writer| &writer.name);
                if is_new || writer == Some(&store.name) {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let waited = tokio::time::timeout(within, stands_by).await;
        waited.with_context(|| format!("{} could not take over within {within:?}", store.name))
    }

    /// Waits until a store holds the writer's lease, another one than `not`.
    pub(crate) async fn writer_within(
        &self,
        client: &async_nats::Client,
        not: Option<&str>,
        within: Duration,
    ) -> anyhow::Result<&Worker> {
        let found = async {
            loop {
                match self.writer(client).await {
                    Some(writer) if Some(writer.name.as_str()) != not => return writer,
                    _ => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
        };
        tokio::time::timeout(within, found)
            .await
            .with_context(|| format!("no store held the writer's lease within {within:?}"))
    }
}

async fn start_servers(plan: &Plan, data: &Path, (keys, mesh): (&Keys, Option<&Mesh>)) -> anyhow::Result<Servers> {
    let mut binary = find_server(data).await?;
    let mut sed = Vec::new();
    if plan.lazy {
        sed.push("s/sync_interval: always//");
    }
    if let Some(mesh) = mesh {
        mesh.write_edits(&plan.dir)?;
        sed.push("s/^cluster {/cluster {\\n  no_advertise: true/");
    }
    if !sed.is_empty() {
        binary = wrapped(&binary, &plan.dir, &sed.join(";")).await?;
    }
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = ClusterConfig {
        common: ServerConfig {
            server_name: "faults".parse()?,
            prefix: Subjects::default().prefix().parse()?,
            nats: any,
            websocket: any,
            mqtt: any,
            dir: servers_dir(&plan.dir),
            max_store: plan.max_store,
            cluster: None,
            tls: None,
        },
        listen: mesh.map_or(any, Mesh::listen),
        secret: RouteSecret::load_or_create(&data.join("keys"))?,
        servers: plan.nodes,
    };
    Servers::start(&binary, &config, keys).await
}

fn servers_dir(dir: &Path) -> PathBuf {
    dir.join("nats")
}

/// Where each server keeps JetStream's files.
pub(crate) fn stores(dir: &Path, nodes: usize) -> Vec<PathBuf> {
    let all = servers_dir(dir);
    if nodes == 1 {
        return vec![all.join("jetstream")];
    }
    (1..=nodes)
        .map(|number| all.join(format!("n{number}/jetstream")))
        .collect()
}

/// The log of a house.
pub(crate) fn log() -> Log {
    Log::first(Subjects::default())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// The program makes its keys itself when it is asked for a server's configuration.
async fn make_keys(program: &Path, data: &Path) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(["nats", "config", "--data"])
        .arg(data)
        .env_remove("NATTERJACK_CONFIG")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "{} nats config: {}",
            program.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
