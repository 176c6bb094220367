//! The configuration: built-in defaults, then a file, then the environment, then flags. Unknown keys are refused.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use async_nats::Client;
use clap::Args;
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::Dict;
use natterjack_authz::token::{IssuerSettings, Verifier};
use natterjack_bridge::{ForwardedHeader, Proxies};
use natterjack_nats_config::contract::{Id, Subjects};
use natterjack_nats_config::epoch;
use natterjack_nats_config::limits::Limits;
use natterjack_nats_config::tail::Log;
use natterjack_store::archive::{Address, Tables};
use serde::{Deserialize, Serialize};

/// The variable of the database's password, and its name in the loop over all variables.
const PASSWORD_VARIABLE: &str = "NATTERJACK_STORE__DATABASE_PASSWORD";
const PASSWORD: &str = "store__database_password";

/// Every setting, with its default and what it is for.
pub(crate) const DEFAULT_FILE: &str = include_str!("../natterjack.default.toml");

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// A configuration file (TOML); `natterjack config --default` prints one with every setting explained
    #[arg(long, global = true, value_name = "FILE", env = "NATTERJACK_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// The data folder: keys, the log, the archive [default: natterjack-data]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The NATS to use instead of one of our own: nats://host:port[,nats://…]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) nats_url: Option<String>,
    /// The archive: the path of a SQLite file, `postgres://user@host/database` or `mysql://user@host/database` (MariaDB too).
    /// Other users of the machine see flags: give a password by `store.database_password_file` or the environment
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) database: Option<String>,
}

/// The whole configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) data: PathBuf,
    pub(crate) tenant: Id,
    pub(crate) admin: Id,
    pub(crate) insecure: bool,
    pub(crate) offline: bool,
    pub(crate) local_tokens: bool,
    pub(crate) issuers: Vec<IssuerSettings>,
    pub(crate) listen: Listen,
    pub(crate) nats: Nats,
    pub(crate) keys: Keys,
    pub(crate) store: Store,
    pub(crate) bridge: Bridge,
    pub(crate) limits: Limits,
    pub(crate) logging: Logging,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listen {
    pub(crate) http: SocketAddr,
    pub(crate) nats: SocketAddr,
    pub(crate) ws: SocketAddr,
    pub(crate) mqtt: SocketAddr,
    pub(crate) cluster: SocketAddr,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nats {
    pub(crate) cluster: usize,
    pub(crate) url: String,
    pub(crate) prefix: Id,
    pub(crate) replicas: usize,
    pub(crate) servers: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keys {
    pub(crate) dir: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    pub(crate) database: DatabaseUrl,
    pub(crate) database_password: Secret,
    pub(crate) database_password_file: PathBuf,
    pub(crate) migrate: bool,
    pub(crate) log_max_bytes: u64,
    pub(crate) trim: bool,
    pub(crate) log_keep_bytes: u64,
    pub(crate) log_keep_secs: u64,
    pub(crate) checkpoint_frames: u64,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) audit_every: u64,
    pub(crate) retention: Retention,
}

/// How long messages are kept where their room does not say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retention {
    pub(crate) days: u32,
    pub(crate) tenants: BTreeMap<Id, u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bridge {
    pub(crate) origins: Vec<String>,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_address: usize,
    pub(crate) trusted_proxies: Vec<String>,
    pub(crate) forwarded_header: ForwardedHeader,
    pub(crate) ring_bytes: usize,
    pub(crate) tls: TlsFiles,
}

/// Both or none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsFiles {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl TlsFiles {
    pub(crate) fn is_empty(&self) -> bool {
        self.cert.as_os_str().is_empty() && self.key.as_os_str().is_empty()
    }

    fn check(&self) -> anyhow::Result<()> {
        for (name, file, other) in [("cert", &self.cert, "key"), ("key", &self.key, "cert")] {
            if file.as_os_str().is_empty() && !self.is_empty() {
                bail!("`bridge.tls.{name}` is missing: `bridge.tls.{other}` is of no use alone");
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Logging {
    pub(crate) filter: String,
    pub(crate) requests: bool,
    pub(crate) format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Where the archive is. It is never shown with a password.
#[derive(Clone, Deserialize)]
pub(crate) struct DatabaseUrl(String);

/// A password. It is never shown.
#[derive(Clone, Deserialize)]
pub(crate) struct Secret(String);

/// What is shown in place of a password.
const HIDDEN: &str = "(hidden)";

impl std::fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match Address::parse(&self.0, None) {
            Ok(address) => address.fmt(f),
            Err(_) => f.write_str(HIDDEN),
        }
    }
}

impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "" } else { HIDDEN })
    }
}

/// `Debug` and `Serialize` as `Display`.
macro_rules! shown_as_displayed {
    ($($type:ty),*) => {$(
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:?}", self.to_string())
            }
        }

        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
shown_as_displayed!(DatabaseUrl, Secret);

impl Config {
    /// Reads the configuration and checks it, before anything is opened.
    pub(crate) fn load(global: &Global) -> anyhow::Result<Self> {
        Self::load_with(global, Dict::new())
    }

    /// The same, with the flags of one command on top.
    pub(crate) fn load_with(global: &Global, flags: impl Serialize) -> anyhow::Result<Self> {
        let mut figment = Figment::from(Toml::string(DEFAULT_FILE));
        if let Some(file) = &global.config {
            if !file.is_file() {
                bail!("the configuration file {} is not there or is no file", file.display());
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        let not_settings: &[&str] = if cfg!(feature = "faults") {
            &["config", "url", "token", "user", PASSWORD, "fault"]
        } else {
            &["config", "url", "token", "user", PASSWORD]
        };
        figment = figment.merge(Env::prefixed("NATTERJACK_").ignore(not_settings).split("__"));
        // As it stands: figment would take a password of digits for a number, and say so in an error with all of it.
        if let Ok(password) = std::env::var(PASSWORD_VARIABLE) {
            figment = figment.merge(("store.database_password", password));
        }
        figment = figment.merge(Serialized::defaults(flags));
        if let Some(data) = &global.data {
            figment = figment.merge(("data", data));
        }
        if let Some(url) = &global.nats_url {
            figment = figment.merge(("nats.url", url));
        }
        if let Some(url) = &global.database {
            figment = figment.merge(("store.database", url));
        }
        let config: Self = figment.extract().map_err(|error| explain(&error))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        for (name, address) in [
            ("http", self.listen.http),
            ("nats", self.listen.nats),
            ("ws", self.listen.ws),
            ("mqtt", self.listen.mqtt),
            ("cluster", self.listen.cluster),
        ] {
            let is_encrypted = name != "cluster" && !self.bridge.tls.is_empty();
            if !address.ip().is_loopback() && !is_encrypted && !self.insecure {
                bail!(
                    "`listen.{name}` = {address} is reached from other machines, but there is no TLS: give a certificate \
                     (`bridge.tls`), or put a TLS proxy in front and listen on 127.0.0.1, or say --insecure"
                );
            }
        }
        self.bridge.tls.check()?;
        self.proxies()?;
        for origin in &self.bridge.origins {
            check_origin(origin)?;
        }
        for (name, number) in [("replicas", self.nats.replicas), ("cluster", self.nats.cluster)] {
            if ![1, 3].contains(&number) {
                bail!("`nats.{name}` = {number} must be 1 or 3");
            }
        }
        if self.store.log_max_bytes < 16 << 20 {
            bail!(
                "`store.log_max_bytes` = {} is less than 16 MiB (16777216)",
                self.store.log_max_bytes
            );
        }
        if !(1..=3600).contains(&self.limits.burst_secs) {
            bail!("`limits.burst_secs` = {} must be 1 to 3600", self.limits.burst_secs);
        }
        self.database()?;
        self.check_issuers()?;
        if self.store.checkpoint_frames < 16 {
            bail!(
                "`store.checkpoint_frames` = {} is less than 16: the writer tells its state's hash, which a checkpoint is \
                 checked by, in every sixteenth frame only",
                self.store.checkpoint_frames
            );
        }
        Ok(())
    }

    /// All but the local issuer, whose key may not be made yet.
    fn check_issuers(&self) -> anyhow::Result<()> {
        Verifier::open(None, &self.issuers)?;
        let mut names: Vec<_> = self.issuers.iter().map(|issuer| &issuer.issuer).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|two| two.first() == two.last()) {
            bail!("`issuers` has {:?} twice", twice.first());
        }
        if !self.local_tokens && self.issuers.is_empty() {
            bail!("with `local_tokens = false` and no `[[issuers]]` no token would be accepted");
        }
        Ok(())
    }

    /// Checks tokens, by the settings.
    pub(crate) fn verifier(&self) -> anyhow::Result<Arc<Verifier>> {
        let local = self.keys_dir().join("token.pub");
        let local = self.local_tokens.then_some(local.as_path());
        Ok(Arc::new(Verifier::open(local, &self.issuers)?))
    }

    /// The proxies whose word on their clients' addresses counts.
    pub(crate) fn proxies(&self) -> anyhow::Result<Proxies> {
        let Bridge {
            trusted_proxies,
            forwarded_header,
            ..
        } = &self.bridge;
        Proxies::parse(trusted_proxies, *forwarded_header).context("`bridge.trusted_proxies`")
    }

    /// How subjects and streams are named.
    pub(crate) fn subjects(&self) -> Subjects {
        Subjects::new(&self.nats.prefix)
    }

    /// The log of this installation, in its newest epoch. Waits until NATS answers.
    pub(crate) async fn log(&self, client: &Client) -> Log {
        epoch::find(client, &self.subjects()).await
    }

    /// Where the keys are: `keys.dir`, or `keys` in the data folder.
    pub(crate) fn keys_dir(&self) -> PathBuf {
        if self.keys.dir.is_empty() {
            self.data.join("keys")
        } else {
            PathBuf::from(&self.keys.dir)
        }
    }

    /// Where the archive is: `store.database` with its password, or `archive.db` in the data folder.
    pub(crate) fn database(&self) -> anyhow::Result<Address> {
        let Store {
            database: DatabaseUrl(url),
            database_password: Secret(password),
            database_password_file: file,
            ..
        } = &self.store;
        let password = match (password.as_str(), file.as_os_str().is_empty()) {
            ("", true) => None,
            (password, true) => Some(password.to_owned()),
            ("", false) => Some(read_password(file)?),
            (_, false) => bail!("give `store.database_password` or `store.database_password_file`, not both"),
        };
        if url.is_empty() {
            if password.is_some() {
                bail!(
                    "a database's password is set, but no `store.database`: the archive is a SQLite file, which has none"
                );
            }
            return Ok(Address::file(&self.data.join("archive.db")));
        }
        Address::parse(url, password.map(Into::into)).context("`store.database`")
    }

    /// What happens to the archive's tables when they are older than this program.
    pub(crate) fn tables(&self) -> Tables {
        if self.store.migrate {
            Tables::Migrate
        } else {
            Tables::Refuse
        }
    }
}

/// The first line of a file, as secrets are mounted into containers.
pub(crate) fn read_password(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("`store.database_password_file` = {} cannot be read", file.display()))?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(password.to_owned()),
        _ => bail!("`store.database_password_file` = {} is empty", file.display()),
    }
}

/// An origin as browsers send it (RFC 6454): scheme, host, and the port where it is not the scheme's own.
fn check_origin(origin: &str) -> anyhow::Result<()> {
    let host = ["http://", "https://"]
        .iter()
        .find_map(|scheme| origin.strip_prefix(scheme));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    let is_host = host.is_some_and(|host| !host.is_empty() && host.chars().all(is_plain));
    if origin != "*" && !is_host {
        bail!(
            "`bridge.origins`: {origin:?} is no web origin; write https://chat.example or http://localhost:3000, without a \
             slash at the end, or \"*\" for every page"
        );
    }
    Ok(())
}

/// Where a running `up` tells its addresses.
pub(crate) fn endpoints_file(data: &Path) -> PathBuf {
    data.join("endpoints.json")
}

/// The addresses of a running `up`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Endpoints {
    /// The process that runs.
    #[serde(default)]
    pub(crate) pid: u32,
    pub(crate) http: String,
    /// The first server's.
    pub(crate) nats: String,
    /// All servers'.
    #[serde(default)]
    pub(crate) nats_urls: Vec<String>,
    pub(crate) ws: String,
    pub(crate) mqtt: String,
}

impl Endpoints {
    /// What a worker connects to: the URLs of all servers, separated by commas.
    pub(crate) fn nats_url(&self) -> String {
        match self.nats_urls.as_slice() {
            [] => self.nats.clone(),
            all => all.join(","),
        }
    }

    /// Those of the `up` that runs on this data folder.
    pub(crate) fn read(data: &Path) -> anyhow::Result<Self> {
        let file = endpoints_file(data);
        let text = std::fs::read_to_string(&file).with_context(|| {
            format!(
                "nothing runs on {}: start `natterjack up` there, or name a server with --url",
                data.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| format!("{} is not readable", file.display()))
    }
}

fn explain(error: &figment::Error) -> anyhow::Error {
    let lines: Vec<String> = error
        .clone()
        .into_iter()
        .map(|error| {
            let origin = error.metadata.as_ref().map(|metadata| {
                metadata
                    .source
                    .as_ref()
                    .map_or_else(|| metadata.name.to_string(), std::string::ToString::to_string)
            });
            let path = if error.path.is_empty() {
                String::new()
            } else {
                format!("`{}`: ", error.path.join("."))
            };
            format!(
                "{path}{} (in {})",
                error.kind,
                origin.unwrap_or_else(|| "the configuration".to_owned())
            )
        })
        .collect();
    anyhow::anyhow!(
        "{}; `natterjack config --default` shows every setting",
        lines.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_is_complete_and_valid() {
        let config: Config = Figment::from(Toml::string(DEFAULT_FILE)).extract().unwrap();
        config.check().unwrap();
        assert_eq!(config.listen.http.to_string(), "127.0.0.1:8080");
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = Figment::from(Toml::string(DEFAULT_FILE))
            .merge(Toml::string("[listen]\nhtpp = \"127.0.0.1:1\""))
            .extract::<Config>()
            .unwrap_err();
        assert!(explain(&error).to_string().contains("htpp"), "{}", explain(&error));
    }

    #[test]
    fn an_origin_is_written_as_browsers_send_it() {
        for good in [
            "*",
            "https://chat.example",
            "http://localhost:3000",
            "http://[::1]:8080",
        ] {
            check_origin(good).unwrap();
        }
        for bad in [
            "",
            "chat.example",
            "https://",
            "https://chat.example/",
            "https://*.example",
            "null",
        ] {
            let error = check_origin(bad).unwrap_err().to_string();
            assert!(error.contains("bridge.origins"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let shown = |toml: &str| {
            let config: Config = Figment::from(Toml::string(DEFAULT_FILE))
                .merge(Toml::string(toml))
                .extract()
                .unwrap();
            config.check().unwrap();
            format!("{config:?}\n{}", toml::to_string(&config).unwrap())
        };
        let within = shown("[store]\ndatabase = \"postgres://nj:geheim@db/chat\"");
        let apart = shown("[store]\ndatabase = \"mysql://nj@db/chat\"\ndatabase_password = \"geheim\"");
        assert!(
            within.contains("postgres://nj@db/chat") && apart.contains(HIDDEN),
            "{within}\n{apart}"
        );
        assert!(
            !within.contains("geheim") && !apart.contains("geheim"),
            "{within}\n{apart}"
        );
    }

    #[test]
    fn a_password_comes_from_one_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        let check = |toml: &str| {
            let toml = toml.replace("FILE", file.to_str().unwrap());
            let config: Config = Figment::from(Toml::string(DEFAULT_FILE))
                .merge(Toml::string(&format!("[store]\n{toml}")))
                .extract()
                .unwrap();
            config.database().map(drop).map_err(|error| format!("{error:#}"))
        };
        let server = "database = \"postgres://nj@db/chat\"\n";
        let missing = check(&format!("{server}database_password_file = 'FILE'")).unwrap_err();
        assert!(missing.contains("cannot be read"), "{missing}");
        for (text, works) in [("", false), ("\n", false), ("geheim\n", true), ("geheim", true)] {
            std::fs::write(&file, text).unwrap();
            let checked = check(&format!("{server}database_password_file = 'FILE'"));
            assert_eq!(checked.is_ok(), works, "{text:?}: {checked:?}");
        }
        for (toml, why) in [
            ("database_password = 'geheim'", "SQLite"),
            (
                "database = 'postgres://nj:geheim@db/chat'\ndatabase_password = 'geheim'",
                "twice",
            ),
            (
                "database_password = 'geheim'\ndatabase_password_file = 'FILE'",
                "not both",
            ),
            ("database = 'oracle://nj:geheim@db/chat'", "oracle"),
        ] {
            let error = check(toml).unwrap_err();
            assert!(error.contains(why) && !error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn an_open_address_needs_to_be_asked_for() {
        let open = Toml::string("[listen]\nhttp = \"0.0.0.0:8080\"");
        let mut config: Config = Figment::from(Toml::string(DEFAULT_FILE)).merge(open).extract().unwrap();
        assert!(config.check().unwrap_err().to_string().contains("--insecure"));
        config.insecure = true;
        config.check().unwrap();
    }
}
