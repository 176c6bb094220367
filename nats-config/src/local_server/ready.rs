use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::LocalServerError;
use super::config::ServerConfig;

/// The most that a server's greeting may take, in bytes; it is less than one kilobyte.
const GREETING_LIMIT: u64 = 64 * 1024;
/// How long one look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// Where the server listens; no port is 0. The addresses are those of the configuration, so they may be `0.0.0.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoints {
    /// NATS clients and workers.
    pub nats: SocketAddr,
    /// WebSocket clients.
    pub websocket: SocketAddr,
    /// MQTT clients.
    pub mqtt: SocketAddr,
    /// Whether all of them speak TLS.
    pub tls: bool,
}

/// Free ports, held until this is dropped, so that they differ.
#[derive(Default)]
pub(crate) struct Ports(Vec<TcpListener>);

#[derive(Deserialize)]
struct Greeting {
    server_name: String,
}

impl Endpoints {
    /// What a worker on this machine connects to: `nats://127.0.0.1:4222`, with TLS `tls://…`.
    #[must_use]
    pub fn nats_url(&self) -> String {
        let scheme = if self.tls { "tls" } else { "nats" };
        format!("{scheme}://{}", reachable(self.nats))
    }

    /// What a WebSocket client on this machine connects to: `ws://127.0.0.1:8080`, with TLS `wss://…`.
    #[must_use]
    pub fn websocket_url(&self) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        format!("{scheme}://{}", reachable(self.websocket))
    }

    /// What an MQTT client on this machine connects to: `mqtt://127.0.0.1:1883`, with TLS `mqtts://…`.
    #[must_use]
    pub fn mqtt_url(&self) -> String {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        format!("{scheme}://{}", reachable(self.mqtt))
    }

    /// Those of a configuration.
    pub(crate) fn of(config: &ServerConfig) -> Self {
        Self {
            nats: config.nats,
            websocket: config.websocket,
            mqtt: config.mqtt,
            tls: config.tls.is_some(),
        }
    }

    /// What is still to come before clients can be served; `None` when all is there.
    pub(crate) async fn missing(&self, server_name: &str) -> Option<&'static str> {
        if !greets(reachable(self.nats), server_name).await {
            return Some("its greeting to NATS clients");
        }
        if !accepts(reachable(self.websocket)).await {
            return Some("its WebSocket listener");
        }
        if !accepts(reachable(self.mqtt)).await {
            return Some("its MQTT listener");
        }
        None
    }
}

impl Ports {
    /// The configuration with each port 0 replaced by a free one.
    ///
    /// The ports are in the server's configuration file from then on, so that it has them again after a restart
    /// (nats-server's own choice would change, and its ports file does not name the MQTT port).
    pub(crate) fn fill(&mut self, config: &ServerConfig) -> Result<ServerConfig, LocalServerError> {
        let mut filled = config.clone();
        let member = filled.cluster.as_mut().map(|member| &mut member.listen);
        let addresses = [&mut filled.nats, &mut filled.websocket, &mut filled.mqtt];
        for address in addresses.into_iter().chain(member) {
            *address = self.free(*address)?;
        }
        Ok(filled)
    }

    fn free(&mut self, address: SocketAddr) -> Result<SocketAddr, LocalServerError> {
        if address.port() != 0 {
            return Ok(address);
        }
        let in_use = |error: std::io::Error| LocalServerError::PortInUse {
            line: format!("{address}: {error}"),
        };
        let listener = TcpListener::bind(address).map_err(in_use)?;
        let chosen = listener.local_addr().map_err(in_use)?;
        self.0.push(listener);
        Ok(chosen)
    }
}

/// An address to connect to: `0.0.0.0` is one to listen on only.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn accepts(address: SocketAddr) -> bool {
    matches!(timeout(LOOK_LIMIT, TcpStream::connect(address)).await, Ok(Ok(_)))
}

/// Whether a nats-server of this name says INFO there.
async fn greets(address: SocketAddr, server_name: &str) -> bool {
    let look = async {
        let stream = TcpStream::connect(address).await.ok()?;
        let mut line = String::new();
        BufReader::new(stream.take(GREETING_LIMIT))
            .read_line(&mut line)
            .await
            .ok()?;
        serde_json::from_str::<Greeting>(line.strip_prefix("INFO ")?).ok()
    };
    matches!(timeout(LOOK_LIMIT, look).await, Ok(Some(greeting)) if greeting.server_name == server_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_to_listen_on_becomes_one_to_connect_to() {
        for (listen, connect) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.7:1", "10.0.0.7:1"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), connect.parse().unwrap());
        }
    }
}
