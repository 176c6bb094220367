use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use natterjack_nats_config::local_server::{Endpoints, Find, Keys, LocalServer, ServerBinary, ServerConfig, find};
use rustix::process::Signal;
use tokio::sync::Mutex;

use super::worker::send_signal;

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The nats-server of the house. It is started again by itself when it dies; [`Server::down`] keeps it down.
pub(crate) struct Server {
    binary: ServerBinary,
    config: ServerConfig,
    keys: Keys,
    running: Mutex<Option<LocalServer>>,
    pub(crate) endpoints: Endpoints,
}

impl Server {
    pub(crate) async fn start(binary: ServerBinary, config: ServerConfig, keys: Keys) -> anyhow::Result<Self> {
        let running = LocalServer::start(&binary, config.clone(), &keys).await?;
        let endpoints = running.endpoints();
        let config = ServerConfig {
            nats: endpoints.nats,
            websocket: endpoints.websocket,
            mqtt: endpoints.mqtt,
            ..config
        };
        Ok(Self {
            binary,
            config,
            keys,
            running: Mutex::new(Some(running)),
            endpoints,
        })
    }

    /// Its process id, once it runs.
    pub(crate) async fn pid(&self, within: Duration) -> anyhow::Result<u32> {
        let until = tokio::time::Instant::now() + within;
        loop {
            if let Some(pid) = self.running.lock().await.as_ref().and_then(LocalServer::pid) {
                return Ok(pid);
            }
            if tokio::time::Instant::now() > until {
                bail!("the nats-server does not run again after {within:?}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// `kill -9`, and it stays down until [`Server::up`].
    pub(crate) async fn down(&self) -> anyhow::Result<()> {
        let mut running = self.running.lock().await;
        let Some(server) = running.take() else { return Ok(()) };
        if let Some(pid) = server.pid() {
            send_signal(pid, Signal::KILL);
        }
        server.shutdown().await;
        Ok(())
    }

    /// Starts it again on the same ports and files.
    pub(crate) async fn up(&self) -> anyhow::Result<()> {
        let mut running = self.running.lock().await;
        if running.is_none() {
            *running = Some(LocalServer::start(&self.binary, self.config.clone(), &self.keys).await?);
        }
        Ok(())
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

/// The same server as a program that leaves out `sync_interval: always`: for the control, which must be found.
pub(crate) async fn lazy(server: &ServerBinary, dir: &Path) -> anyhow::Result<ServerBinary> {
    let program = dir.join("lazy-nats-server");
    let script = format!(
        "#!/bin/bash\n\
         if [ \"$1\" = -c ]; then sed -i 's/sync_interval: always//' \"$2\"; fi\n\
         exec -a lazy-nats-server '{}' \"$@\"\n",
        std::path::absolute(server.path())?.display()
    );
    fs::write(&program, script).with_context(|| format!("cannot write {}", program.display()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(ServerBinary::check(&program).await?)
}
