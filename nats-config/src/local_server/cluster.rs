use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;

use super::child::PORT_TRIES;
use super::ready::{Ports, reachable};
use super::{End, Keys, LocalServer, LocalServerError, Member, RouteSecret, ServerBinary, ServerConfig, files};

/// The servers of this machine: one by itself, or several that form a cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// What the servers have in common; its name, ports and folder are those of a single server. Of several, the first
    /// listens on these ports, the second on the next ones and so on (0: any free ones), and they have the folders `n1`,
    /// `n2`, … in this one.
    pub common: ServerConfig,
    /// Where the first server listens for the others.
    pub listen: SocketAddr,
    /// What the servers show each other.
    pub secret: RouteSecret,
    /// How many servers; 3, or 1.
    pub servers: usize,
}

/// Running servers, each watched as a [`LocalServer`] is.
///
/// Which of them has which place never changes: server 0 stays server 0 on its ports and in its folder, whatever happens
/// to its process.
#[derive(Debug)]
pub struct LocalCluster {
    servers: Vec<LocalServer>,
}

impl ClusterConfig {
    /// The configurations of all its servers. Ports are written as they are given.
    #[must_use]
    pub fn members(&self) -> Vec<ServerConfig> {
        if self.servers <= 1 {
            return vec![self.common.clone()];
        }
        (0..self.servers).map(|index| self.member(index)).collect()
    }

    /// The folder of a server's files.
    fn dir(&self, index: usize) -> PathBuf {
        self.common.dir.join(format!("n{}", index + 1))
    }

    fn member(&self, index: usize) -> ServerConfig {
        let offset = u16::try_from(index).unwrap_or(u16::MAX);
        let next = |mut address: SocketAddr| {
            if address.port() != 0 {
                address.set_port(address.port().saturating_add(offset));
            }
            address
        };
        let common = &self.common;
        ServerConfig {
            server_name: common.name_of_member(index),
            nats: next(common.nats),
            websocket: next(common.websocket),
            mqtt: next(common.mqtt),
            dir: self.dir(index),
            cluster: Some(Member {
                cluster: common.server_name.clone(),
                listen: next(self.listen),
                routes: Vec::new(),
                secret: self.secret.clone(),
                host: None,
                zone: None,
                shared: common.dir.clone(),
            }),
            ..common.clone()
        }
    }

    /// With every port chosen and every server told of all others.
    fn chosen(&self) -> Result<Vec<ServerConfig>, LocalServerError> {
        let mut ports = Ports::default();
        let filled: Result<Vec<_>, _> = self.members().iter().map(|config| ports.fill(config)).collect();
        let mut configs = filled?;
        let routes: Vec<String> = configs
            .iter()
            .filter_map(|config| Some(reachable(config.cluster.as_ref()?.listen).to_string()))
            .collect();
        for member in configs.iter_mut().filter_map(|config| config.cluster.as_mut()) {
            member.routes.clone_from(&routes);
        }
        Ok(configs)
    }
}

impl LocalCluster {
    /// Starts all servers and waits until each of them serves clients. JetStream may take a moment longer, until the
    /// servers have elected a leader: wait for what is needed of it.
    ///
    /// Fails as [`LocalServer::start`] does; nothing runs then.
    pub async fn start(binary: &ServerBinary, config: &ClusterConfig, keys: &Keys) -> Result<Self, LocalServerError> {
        let may_choose = config.members().iter().any(ServerConfig::leaves_ports_open);
        let mut tries = if may_choose { PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            match start_all(binary, config.chosen()?, keys).await {
                Ok(servers) => return Ok(Self { servers }),
                Err(LocalServerError::PortInUse { line }) if tries > 0 => tracing::debug!(line, "choosing other ports"),
                Err(error) => return Err(error),
            }
        }
    }

    /// All servers, each at its place.
    #[must_use]
    pub fn servers(&self) -> &[LocalServer] {
        &self.servers
    }

    /// The server of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&LocalServer> {
        self.servers.iter().find(|server| server.name() == name)
    }

    /// What a worker connects to: the URLs of all servers, separated by commas.
    #[must_use]
    pub fn nats_url(&self) -> String {
        let urls: Vec<String> = self
            .servers
            .iter()
            .map(|server| server.endpoints().nats_url())
            .collect();
        urls.join(",")
    }

    /// Lets a server's copy of one of Natterjack's streams be made anew from the other copies: the server is ended, its messages
    /// are put aside (`aside` in its folder, for whoever wants to look; those of the time before are removed), and it is
    /// started again. It fetches what it lacks from the stream's leader.
    ///
    /// What the stream's Raft `group` has logged goes with them: with it the server would hold itself for up to date, until the
    /// next message. Its term and its vote stay, so it cannot vote twice.
    ///
    /// The other servers must run, and hold good copies: whoever calls this has made sure.
    pub async fn remake(&self, server: &str, stream: &str, group: &str) -> Result<(), LocalServerError> {
        let refused = |reason: String| LocalServerError::Command {
            what: format!("the copy of {stream} on {server} is made anew"),
            reason,
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if stream.is_empty() || group.is_empty() || !stream.bytes().chain(group.bytes()).all(is_plain) {
            return Err(refused("this is no stream of a cluster".to_owned()));
        }
        let Some(found) = self.named(server) else {
            return Err(refused("there is no such server".to_owned()));
        };
        let others_run = self.servers.iter().all(|other| other.pid().is_some());
        if self.servers.len() < 3 || !others_run {
            return Err(refused("not all of three servers run".to_owned()));
        }
        let store = found.dir().join("jetstream");
        let copy = store.join("CORE/streams").join(stream);
        let raft = store.join("SYS/_js_").join(group);
        let aside = found.dir().join("aside");
        found.take_down(End::Clean).await;
        let moved = put_aside(
            &[
                (copy.join("msgs"), "messages"),
                (raft.join("msgs"), "raft"),
                (raft.join("snapshots"), "snapshots"),
            ],
            &aside,
        );
        found.bring_up().await;
        moved
    }

    /// Gives all servers the tools that the shared folder holds now. See [`LocalServer::reload`].
    pub async fn reload(&self) -> Result<(), LocalServerError> {
        for server in &self.servers {
            server.reload().await?;
        }
        Ok(())
    }

    /// Lets all servers read their certificate's files again. See [`LocalServer::renew_certificate`].
    pub async fn renew_certificate(&self) -> Result<(), LocalServerError> {
        for server in &self.servers {
            server.renew_certificate().await?;
        }
        Ok(())
    }

    /// Stops all servers and waits until they have ended.
    pub async fn shutdown(self) {
        join_all(self.servers.into_iter().map(LocalServer::shutdown)).await;
    }
}

fn put_aside(folders: &[(PathBuf, &str)], aside: &Path) -> Result<(), LocalServerError> {
    match fs::remove_dir_all(aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(LocalServerError::file("remove", aside)(error));
        }
        _ => {}
    }
    files::private_dir(aside)?;
    for (folder, name) in folders.iter().filter(|(folder, _)| folder.exists()) {
        fs::rename(folder, aside.join(name)).map_err(LocalServerError::file("put aside", folder))?;
    }
    Ok(())
}

async fn start_all(
    binary: &ServerBinary,
    configs: Vec<ServerConfig>,
    keys: &Keys,
) -> Result<Vec<LocalServer>, LocalServerError> {
    // A dropped start would leave its folder locked for a moment, so all of them are waited for.
    let starts = configs
        .into_iter()
        .map(|config| LocalServer::start(binary, config, keys));
    let (mut servers, mut failed) = (Vec::new(), None);
    for started in join_all(starts).await {
        match started {
            Ok(server) => servers.push(server),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        None => Ok(servers),
        Some(error) => {
            join_all(servers.into_iter().map(LocalServer::shutdown)).await;
            Err(error)
        }
    }
}
