//! The configuration: built-in defaults, then a file, then the environment, then flags. Unknown keys are refused.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::Dict;
use natterjack_nats_config::contract::{Id, Subjects};
use natterjack_nats_config::tail::Log;
use serde::{Deserialize, Serialize};

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
    pub(crate) listen: Listen,
    pub(crate) nats: Nats,
    pub(crate) keys: Keys,
    pub(crate) store: Store,
    pub(crate) bridge: Bridge,
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
    pub(crate) database: String,
    pub(crate) log_max_bytes: u64,
    pub(crate) trim: bool,
    pub(crate) log_keep_bytes: u64,
    pub(crate) log_keep_secs: u64,
    pub(crate) checkpoint_frames: u64,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) audit_every: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bridge {
    pub(crate) origins: Vec<String>,
    pub(crate) max_connections: usize,
    pub(crate) ring_bytes: usize,
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
            &["config", "url", "token", "user", "fault"]
        } else {
            &["config", "url", "token", "user"]
        };
        figment = figment.merge(Env::prefixed("NATTERJACK_").ignore(not_settings).split("__"));
        figment = figment.merge(Serialized::defaults(flags));
        if let Some(data) = &global.data {
            figment = figment.merge(("data", data));
        }
        if let Some(url) = &global.nats_url {
            figment = figment.merge(("nats.url", url));
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
            if !address.ip().is_loopback() && !self.insecure {
                bail!(
                    "`listen.{name}` = {address} is reached from other machines, but there is no TLS: put a TLS proxy in \
                     front and listen on 127.0.0.1, or say --insecure"
                );
            }
        }
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
        if self.store.checkpoint_frames < 16 {
            bail!(
                "`store.checkpoint_frames` = {} is less than 16: the writer tells its state's hash, which a checkpoint is \
                 checked by, in every sixteenth frame only",
                self.store.checkpoint_frames
            );
        }
        Ok(())
    }

    /// The log of this installation.
    pub(crate) fn log(&self) -> Log {
        Log::first(Subjects::new(&self.nats.prefix))
    }

    /// Where the keys are: `keys.dir`, or `keys` in the data folder.
    pub(crate) fn keys_dir(&self) -> PathBuf {
        if self.keys.dir.is_empty() {
            self.data.join("keys")
        } else {
            PathBuf::from(&self.keys.dir)
        }
    }

    /// Where the archive is: `store.database`, or `archive.db` in the data folder.
    pub(crate) fn database(&self) -> String {
        if self.store.database.is_empty() {
            return self.data.join("archive.db").display().to_string();
        }
        self.store.database.clone()
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
    fn an_open_address_needs_to_be_asked_for() {
        let open = Toml::string("[listen]\nhttp = \"0.0.0.0:8080\"");
        let mut config: Config = Figment::from(Toml::string(DEFAULT_FILE)).merge(open).extract().unwrap();
        assert!(config.check().unwrap_err().to_string().contains("--insecure"));
        config.insecure = true;
        config.check().unwrap();
    }
}
