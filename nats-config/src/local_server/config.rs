use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{LocalServerError, Member, PublicKeys, Tool};
use crate::contract::Id;

const TEMPLATE: &str = include_str!("../../server/single.conf");

/// How many tools a server takes: each has memory (16 MiB of the server's 512) and storage set aside.
pub const MAX_TOOLS: usize = 16;

/// The storage set aside for each tool, in bytes.
pub const TOOL_STORE: u64 = 1 << 30;

/// The least `max_store` of a server without tools, in bytes: MQTT's sessions have 256 MiB set aside, the rest is for
/// Natterjack's own streams.
pub const MIN_STORE: u64 = 512 << 20;

/// What differs between one server and another. All else is in `server/single.conf` and `server/cluster.conf`.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Names the server in its own answers; plain, so that it can be a token of a subject.
    pub server_name: Id,
    /// The first token of every subject, `chat`.
    pub prefix: Id,
    /// Where NATS clients connect. Port 0: any free one, the same until [`super::LocalServer`] is dropped.
    pub nats: SocketAddr,
    /// Where WebSocket clients connect. Port 0 as above.
    pub websocket: SocketAddr,
    /// Where MQTT clients connect. Port 0 as above.
    pub mqtt: SocketAddr,
    /// The server's own folder: configuration, log, pid file, tools and JetStream's files.
    pub dir: PathBuf,
    /// The most that JetStream may keep on disk, all accounts together, in bytes: at least [`MIN_STORE`], and
    /// [`TOOL_STORE`] more for each tool. Keep it well below the disk's size: a full disk wedges streams.
    pub max_store: u64,
    /// Its place among others; `None` for a server by itself.
    pub cluster: Option<Member>,
    /// The certificate that it shows to NATS, WebSocket and MQTT clients; without one it speaks in the clear.
    pub tls: Option<ServerTls>,
}

/// A certificate's files, in PEM. The server reads them at its start, and again when it is told to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificate, then those between it and a root.
    pub cert: PathBuf,
    /// Its private key, not encrypted.
    pub key: PathBuf,
}

impl ServerConfig {
    /// What the servers of a cluster are called, counted from 0: `{name}-n1`, ….
    pub(crate) fn name_of_member(&self, index: usize) -> Id {
        let name = format!("{}-n{}", self.server_name, index + 1);
        name.parse().unwrap_or_else(|_| self.server_name.clone())
    }

    /// Whether a port is left to be chosen.
    pub(crate) fn leaves_ports_open(&self) -> bool {
        let member = self.cluster.as_ref().map(|member| member.listen);
        let addresses = [self.nats, self.websocket, self.mqtt];
        addresses.into_iter().chain(member).any(|address| address.port() == 0)
    }

    /// Whether the accounts' reservations fit; nats-server itself says so only when it starts.
    pub(crate) fn check(&self, tools: &[Tool]) -> Result<(), LocalServerError> {
        if tools.len() > MAX_TOOLS {
            return Err(LocalServerError::TooManyTools(MAX_TOOLS));
        }
        let need = MIN_STORE + TOOL_STORE * tools.len() as u64;
        if self.max_store < need {
            return Err(LocalServerError::StoreTooSmall {
                have: self.max_store,
                need,
                tools: tools.len(),
            });
        }
        let plain = |path: &Path| path.to_str().is_some_and(|text| !text.chars().any(char::is_control));
        let files = self.tls.iter().flat_map(|tls| [&tls.cert, &tls.key]);
        if let Some(path) = std::iter::once(&self.dir).chain(files).find(|path| !plain(path)) {
            return Err(LocalServerError::FolderName { path: path.clone() });
        }
        Ok(())
    }

    /// The configuration file.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join("nats-server.conf")
    }

    /// Where the folder of its tools is.
    pub(crate) fn tools_home(&self) -> &Path {
        self.cluster.as_ref().map_or(&self.dir, |member| &member.shared)
    }

    /// What the servers of a cluster share, beside the configuration file, which names it.
    pub(crate) fn routes_file(&self) -> PathBuf {
        self.dir.join("routes.conf")
    }

    /// The server's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("nats-server.log")
    }

    /// The server's process id.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.dir.join("nats-server.pid")
    }

    /// Where the server says that it listens.
    pub(crate) fn ports_dir(&self) -> PathBuf {
        self.dir.join("ports")
    }
}

/// The configuration file of a server: the template with its places filled. Pure; ports are written as they are given.
#[must_use]
pub fn render(config: &ServerConfig, keys: &PublicKeys, tools: &[Tool]) -> String {
    let member = config.cluster.as_ref();
    let mut values = vec![
        ("SERVER_NAME", config.server_name.to_string()),
        ("PREFIX", config.prefix.to_string()),
        ("STREAMS", config.prefix.as_str().to_uppercase()),
        ("NATS_LISTEN", config.nats.to_string()),
        ("WEBSOCKET_LISTEN", config.websocket.to_string()),
        ("MQTT_LISTEN", config.mqtt.to_string()),
        ("NATS_TLS", tls(config, "", "")),
        ("WEBSOCKET_TLS", tls(config, "  ", "\n  no_tls: true")),
        ("MQTT_TLS", tls(config, "  ", "")),
        ("DIR", quoted(&config.dir)),
        ("MAX_STORE", config.max_store.to_string()),
        ("STORE_NKEY", keys.store.clone()),
        ("DEVICES_NKEY", keys.devices.clone()),
        ("BRIDGE_NKEY", keys.bridge.clone()),
        ("AUTHZ_NKEY", keys.authz.clone()),
        ("AUTH_NKEY", keys.auth.clone()),
        ("SYS_NKEY", keys.sys.clone()),
        ("ISSUER", keys.issuer.clone()),
        ("XKEY", keys.xkey.clone()),
        ("TOOLS", tool_accounts(config, tools)),
        ("UNIQUE_TAG", member.map_or_else(String::new, unique_tag)),
        ("MQTT_COPIES", member.map_or_else(String::new, mqtt_copies)),
    ];
    values.push((
        "CLUSTER",
        member.map_or_else(String::new, |member| cluster(config, member)),
    ));
    fill(TEMPLATE, &values)
}

/// The part that a server by itself does not have.
fn cluster(config: &ServerConfig, member: &Member) -> String {
    let mut block = fill(
        Member::template(),
        &[
            ("CLUSTER", member.cluster.to_string()),
            ("CLUSTER_LISTEN", member.listen.to_string()),
            ("ADVERTISE", member.advertise()),
        ],
    );
    // Writing to a String cannot fail.
    if let Some(host) = &member.host {
        let _ = writeln!(
            block,
            "# What clients are told.\nclient_advertise: \"{host}:{}\"",
            config.nats.port()
        );
    }
    if let Some(zone) = &member.zone {
        let _ = writeln!(block, "server_tags: [ \"zone:{zone}\" ]");
    }
    format!("\n{block}")
}

/// How a listener is encrypted, or what it says where none is.
fn tls(config: &ServerConfig, indent: &str, none: &str) -> String {
    let Some(ServerTls { cert, key }) = &config.tls else {
        return none.to_owned();
    };
    let (cert, key) = (quoted(cert), quoted(key));
    // The default of half a second, for MQTT and WebSocket, is short for a device far away.
    format!("\n{indent}tls {{ cert_file: \"{cert}\", key_file: \"{key}\", timeout: 5 }}")
}

fn unique_tag(member: &Member) -> String {
    let Some(_) = member.zone else { return String::new() };
    "\n  # No two copies of a stream in one zone (server_tags).\n  unique_tag: \"zone:\"".to_owned()
}

fn mqtt_copies(member: &Member) -> String {
    let copies = member.routes.len().min(3);
    format!("\n  # Copies of MQTT's sessions and of the messages that wait for them.\n  stream_replicas: {copies}")
}

/// Replaces each `@NAME@`, in one pass: what a value holds is left alone. The template has no other `@`.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut out = String::with_capacity(template.len() * 2);
    for (index, piece) in template.split('@').enumerate() {
        let value = values.iter().find(|(name, _)| index % 2 == 1 && *name == piece);
        out.push_str(value.map_or(piece, |(_, value)| value));
    }
    out
}

fn tool_accounts(config: &ServerConfig, tools: &[Tool]) -> String {
    let mut out = String::new();
    for tool in tools {
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            r#"
  "TOOL_{name}" {{
    jetstream {{ max_mem: 16MB, max_file: {TOOL_STORE}, max_streams: 16, max_consumers: 64 }}
    imports: [ {{ stream: {{ account: CORE, subject: "{prefix}.room.{tenant}.>" }} }} ]
    users: [ {{ nkey: {nkey} }} ]
  }}
"#,
            name = tool.name,
            prefix = config.prefix,
            tenant = tool.tenant,
            nkey = tool.nkey,
        );
    }
    out
}

/// A path inside double quotes of a nats-server configuration.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace('\\', r"\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ServerConfig {
        ServerConfig {
            server_name: "nj1".parse().unwrap(),
            prefix: "chat".parse().unwrap(),
            nats: "127.0.0.1:4222".parse().unwrap(),
            websocket: "[::1]:8080".parse().unwrap(),
            mqtt: "0.0.0.0:1883".parse().unwrap(),
            dir: "/var/lib/nj/nats".into(),
            max_store: 8 << 30,
            cluster: None,
            tls: None,
        }
    }

    fn member() -> ServerConfig {
        let dir = tempfile::tempdir().unwrap();
        let member = Member {
            cluster: "nj".parse().unwrap(),
            listen: "127.0.0.1:6222".parse().unwrap(),
            routes: ["a:6222", "b:6222", "c:6222"].map(str::to_owned).to_vec(),
            secret: super::super::RouteSecret::load_or_create(dir.path()).unwrap(),
            host: Some("a.example.org".to_owned()),
            zone: Some("east".parse().unwrap()),
            shared: "/var/lib/nj".into(),
        };
        ServerConfig {
            cluster: Some(member),
            ..config()
        }
    }

    fn keys() -> PublicKeys {
        let key = |name: &str| format!("KEY_OF_{name}");
        PublicKeys {
            store: key("store"),
            devices: key("devices"),
            bridge: key("bridge"),
            authz: key("authz"),
            auth: key("auth"),
            sys: key("sys"),
            issuer: key("issuer"),
            xkey: key("xkey"),
        }
    }

    fn tool() -> Tool {
        Tool {
            name: "a-b_c".parse().unwrap(),
            tenant: "main".parse().unwrap(),
            nkey: "UTOOL".to_owned(),
        }
    }

    #[test]
    fn every_place_is_filled() {
        let text = render(&config(), &keys(), &[tool()]);
        assert!(!text.contains('@'), "{text}");
        let rows = [
            ("server_name: \"nj1\"", 1),
            ("listen: \"127.0.0.1:4222\"", 1),
            ("listen: \"[::1]:8080\"", 1),
            ("listen: \"0.0.0.0:1883\"", 1),
            ("store_dir: \"/var/lib/nj/nats\"", 1),
            ("pid_file: \"/var/lib/nj/nats/nats-server.pid\"", 1),
            ("max_file: 8589934592", 1),
            ("sync_interval: always", 1),
            ("nkey: KEY_OF_store\n", 1),
            ("nkey: KEY_OF_auth\n", 1),
            ("nkey: KEY_OF_devices\n", 1),
            ("CONSUMER.MSG.NEXT.$MQTT_msgs.CHAT_IN\"", 1),
            ("auth_users: [ KEY_OF_auth, KEY_OF_devices ]", 1),
            ("issuer: KEY_OF_issuer", 1),
            ("xkey: KEY_OF_xkey", 1),
            ("KV_CHAT_LEASE", 1),
            ("\"TOOL_a-b_c\" {", 1),
            ("subject: \"chat.room.main.>\"", 1),
            ("nkey: UTOOL", 1),
            ("{ service: \"chat.in.>\" }", 1),
            ("deny", 0),
            ("password", 0),
        ];
        for (what, times) in rows {
            let settings = text.lines().filter(|line| !line.trim_start().starts_with('#'));
            assert_eq!(
                settings
                    .map(|line| format!("{line}\n").matches(what).count())
                    .sum::<usize>(),
                times,
                "{what}"
            );
        }
    }

    #[test]
    fn a_member_differs_only_by_what_a_cluster_needs() {
        let (single, text) = (render(&config(), &keys(), &[]), render(&member(), &keys(), &[]));
        assert!(!text.contains('@'), "{text}");
        let new: Vec<&str> = text
            .lines()
            .filter(|line| !single.contains(line) && !line.trim_start().starts_with('#'))
            .map(str::trim)
            .collect();
        let expected = [
            "unique_tag: \"zone:\"",
            "stream_replicas: 3",
            "cluster {",
            "name: \"nj\"",
            "listen: \"127.0.0.1:6222\"",
            "cluster_advertise: \"a.example.org:6222\"",
            "ping_interval: \"5s\"",
            "ping_max: 2",
            "include \"routes.conf\"",
            "client_advertise: \"a.example.org:4222\"",
            "server_tags: [ \"zone:east\" ]",
        ];
        assert_eq!(new, expected);
        assert!(single.lines().all(|line| text.contains(line)), "nothing is missing");
    }

    #[test]
    fn a_certificate_is_for_every_listener_and_then_none_is_in_the_clear() {
        let clear = render(&config(), &keys(), &[]);
        assert_eq!(
            (clear.matches("no_tls: true").count(), clear.matches("tls {").count()),
            (1, 0)
        );
        let encrypted = ServerConfig {
            tls: Some(ServerTls {
                cert: "/etc/a\"b/cert.pem".into(),
                key: "/etc/key.pem".into(),
            }),
            ..config()
        };
        let text = render(&encrypted, &keys(), &[]);
        let block = r#"tls { cert_file: "/etc/a\"b/cert.pem", key_file: "/etc/key.pem", timeout: 5 }"#;
        assert_eq!(
            (text.matches("no_tls").count(), text.matches(block).count()),
            (0, 3),
            "{text}"
        );
        let odd = ServerConfig {
            tls: Some(ServerTls {
                cert: "/etc/a\nb".into(),
                key: "/etc/key.pem".into(),
            }),
            ..config()
        };
        assert!(matches!(odd.check(&[]), Err(LocalServerError::FolderName { .. })));
    }

    #[test]
    fn the_secret_is_in_the_routes_file_only() {
        let config = member();
        let routes = config.cluster.as_ref().unwrap().routes_file();
        let password = routes.split('"').nth(1).unwrap();
        assert_eq!(password.len(), 43);
        assert_eq!(routes.matches(password).count(), 4, "{routes}");
        assert!(routes.contains(&format!("\"nats://natterjack:{password}@b:6222\"")));
        assert!(!render(&config, &keys(), &[]).contains(password));
    }

    #[test]
    fn the_prefix_is_everywhere() {
        let other = ServerConfig {
            prefix: "Talk".parse().unwrap(),
            ..config()
        };
        let text = render(&other, &keys(), &[tool()]);
        assert!(!text.contains("\"chat."), "{text}");
        assert!(text.contains("\"Talk.room.main.>\"") && text.contains("KV_TALK_LEASE"));
    }

    #[test]
    fn a_path_cannot_end_its_quotes_or_name_a_place() {
        let odd = ServerConfig {
            dir: "/tmp/a\"b\\c @PREFIX@".into(),
            ..config()
        };
        let text = render(&odd, &keys(), &[]);
        assert!(text.contains(r#"store_dir: "/tmp/a\"b\\c @PREFIX@""#), "{text}");
    }

    #[test]
    fn reservations_must_fit() {
        let small = ServerConfig {
            max_store: MIN_STORE,
            ..config()
        };
        assert!(small.check(&[]).is_ok());
        let error = small.check(&[tool()]).unwrap_err();
        assert!(
            matches!(error, LocalServerError::StoreTooSmall { tools: 1, .. }),
            "{error}"
        );
        let odd = ServerConfig {
            dir: "/tmp/a\nb".into(),
            ..config()
        };
        let error = odd.check(&[]).unwrap_err();
        assert!(matches!(error, LocalServerError::FolderName { .. }), "{error}");
    }
}
