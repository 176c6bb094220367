use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use natterjack_nats_config::local_server::{
    ClusterConfig, End, Find, Keys, LocalCluster, LocalServer, ServerBinary, find,
};

const UP_WITHIN: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The nats-servers of the house: one, or three that form a cluster. One that dies is started again; [`Servers::down`]
/// keeps it down.
pub(crate) struct Servers(LocalCluster);

impl Servers {
    pub(crate) async fn start(binary: &ServerBinary, config: &ClusterConfig, keys: &Keys) -> anyhow::Result<Self> {
        Ok(Self(LocalCluster::start(binary, config, keys).await?))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.servers().len()
    }

    /// The place of the server of this name.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.0.servers().iter().position(|server| server.name() == name)
    }

    /// The name of the server at a place.
    pub(crate) fn name(&self, at: usize) -> String {
        self.0
            .servers()
            .get(at)
            .map_or_else(String::new, |server| server.name().to_owned())
    }

    /// Where clients connect, over NATS and over MQTT, by place.
    pub(crate) fn addresses(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let servers = self.0.servers().iter();
        servers
            .map(|server| (server.endpoints().nats, server.endpoints().mqtt))
            .collect()
    }

    /// What a NATS client connects to.
    pub(crate) fn url(&self) -> String {
        self.0.nats_url()
    }

    fn at(&self, at: usize) -> anyhow::Result<&LocalServer> {
        self.0.servers().get(at).context("there is no such server")
    }

    /// A server's process id, once it runs.
    pub(crate) async fn pid(&self, at: usize, within: Duration) -> anyhow::Result<u32> {
        let until = tokio::time::Instant::now() + within;
        loop {
            if let Some(pid) = self.at(at)?.pid() {
                return Ok(pid);
            }
            if tokio::time::Instant::now() > until {
                bail!("a nats-server does not run again after {within:?}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// `kill -9`, and it stays down until [`Servers::up`].
    pub(crate) async fn down(&self, at: usize) -> anyhow::Result<()> {
        self.at(at)?.take_down(End::Kill).await;
        Ok(())
    }

    /// Starts it again on the same ports and files.
    pub(crate) async fn up(&self, at: usize) -> anyhow::Result<()> {
        let up = self.at(at)?.bring_up();
        tokio::time::timeout(UP_WITHIN, up)
            .await
            .with_context(|| format!("{} does not start again within {UP_WITHIN:?}", self.name(at)))
    }
}

/// The nats-server to use: `NATS_SERVER_BIN`, the one of the tests, the PATH, else one that is fetched.
pub(crate) async fn find_server(data: &Path) -> anyhow::Result<ServerBinary> {
    let of_tests = PathBuf::from("tests/.tools/nats-server-2.15.1");
    let named = std::env::var_os("NATS_SERVER_BIN").map(PathBuf::from);
    let wanted = Find {
        server_bin: named.or_else(|| of_tests.is_file().then_some(of_tests)),
        path: std::env::var_os("PATH"),
        data,
        offline: false,
        say: &crate::say,
    };
    Ok(find(&wanted).await?)
}

/// The same server as a program that starts with another configuration than it is given: `sed` says how.
///
/// In a cluster it tells workers nothing of the other servers, or they would go around their proxies, and reaches the other servers by
/// proxies itself (`n1.sed` and so on in `dir`). For the control that must be found it leaves out `sync_interval: always`.
pub(crate) async fn wrapped(server: &ServerBinary, dir: &Path, sed: &str) -> anyhow::Result<ServerBinary> {
    let program = dir.join("nats-server");
    let script = format!(
        "#!/bin/bash\n\
         if [ \"$1\" = -c ]; then\n\
         sed -i '{sed}' \"$2\"\n\
         its=$(dirname \"$2\") edits='{}'/$(basename \"$its\").sed\n\
         if [ -f \"$edits\" ]; then sed -i -f \"$edits\" \"$2\" \"$its/routes.conf\"; fi\n\
         fi\n\
         exec -a nats-server '{}' \"$@\"\n",
        dir.display(),
        std::path::absolute(server.path())?.display()
    );
    fs::write(&program, script).with_context(|| format!("cannot write {}", program.display()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(ServerBinary::check(&program).await?)
}
