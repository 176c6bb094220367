//! nginx between clients and a bridge, as `docs/nginx.conf` says.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::eventually;
use super::roles::free_port;
use super::tools::root;

/// A running nginx in a folder of its own; dropping it ends it.
pub(crate) struct Nginx {
    dir: TempDir,
    port: u16,
    child: Child,
}

impl Nginx {
    /// Starts one in front of what listens at `host:port`.
    pub(crate) async fn before(bridge: &str) -> Self {
        Self::speaking("1.1", bridge).await
    }

    /// The same, with this version of HTTP to the bridge; 1.0 is nginx's default.
    pub(crate) async fn speaking(version: &str, bridge: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("natterjack-nginx-").tempdir().unwrap();
        let port = free_port();
        let server = std::fs::read_to_string(root().join("docs/nginx.conf")).unwrap();
        assert!(server.contains("listen 80;") && server.contains("server 127.0.0.1:8080;"));
        let server = server.replace("listen 80;", &format!("listen 127.0.0.1:{port};"));
        let server = server.replace("server 127.0.0.1:8080;", &format!("server {bridge};"));
        let server = server.replace("proxy_http_version 1.1;", &format!("proxy_http_version {version};"));
        std::fs::write(dir.path().join("nginx.conf"), whole(&server)).unwrap();
        let child = start(&dir);
        let nginx = Self { dir, port, child };
        nginx.listens().await;
        nginx
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `kill -9`, and a successor on the same port.
    pub(crate) async fn kill(&mut self) {
        self.end();
        self.child = start(&self.dir);
        self.listens().await;
    }

    async fn listens(&self) {
        let address = format!("127.0.0.1:{}", self.port);
        let listens = async || TcpStream::connect(&address).await.ok();
        drop(eventually("nginx listens", listens).await);
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.end();
    }
}

/// One process, which writes nowhere but into its folder; small buffers, so that there is always something in them.
fn whole(server: &str) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary
        .map(|name| format!("{name}_temp_path temp_{name};"))
        .join("\n");
    format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 512; }}\n\
         http {{\naccess_log off;\nproxy_buffering on;\nproxy_buffer_size 4k;\nproxy_buffers 8 4k;\n{temporary}{server}\n}}\n"
    )
}

fn start(dir: &TempDir) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.path().join("nginx.log"))
        .unwrap();
    let mut command = Command::new(program());
    command
        .arg("-p")
        .arg(dir.path())
        .args(["-c", "nginx.conf", "-e", "stderr"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().unwrap()
}

/// Debian has it where the PATH of people does not look.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let mut programs = all.map(|dir| dir.join("nginx"));
    let found = programs.find(|program| program.is_file());
    found.expect("there is no nginx: run scripts/test, which installs it")
}
