//! Signing in to NATS as a worker.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event as ClientEvent};
use nkeys::KeyPair;

use crate::contract::Subjects;
use crate::this_machine::trusting_this_machine;

/// How a worker signs in.
#[derive(Clone)]
pub struct Login {
    /// One or more URLs, separated by commas: `nats://host:port`, or `tls://host:port`.
    pub url: String,
    /// `store`, `devices`, `bridge` or `authz`: names the connection and its inbox `_INBOX_{role}`.
    pub role: &'static str,
    /// The seed of the worker's nkey.
    pub seed: Seed,
}

/// An nkey seed, which never shows in logs.
#[derive(Clone)]
pub struct Seed(Arc<str>);

/// A sign-in that failed; nothing has been started.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The file cannot be read.
    #[error("cannot read the nkey seed {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file holds no seed.
    #[error("{what} holds no nkey seed (a line that starts with SU); `nsc generate nkey --user` makes one")]
    Seed {
        /// Where it was read from.
        what: String,
    },
    /// NATS refused or could not be reached.
    #[error("cannot sign in to NATS as {role}: {source}")]
    Connect {
        /// The worker.
        role: &'static str,
        /// What the client says.
        source: async_nats::ConnectError,
    },
}

impl Seed {
    /// Takes a seed from text; `what` names its origin in the error.
    pub fn parse(text: &str, what: &str) -> Result<Self, LoginError> {
        let wrong = || LoginError::Seed { what: what.to_owned() };
        let seed = text
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with('S'))
            .ok_or_else(wrong)?;
        KeyPair::from_seed(seed).map_err(|_| wrong())?;
        Ok(Self(seed.into()))
    }

    /// Reads a seed from a file.
    pub fn read(path: &std::path::Path) -> Result<Self, LoginError> {
        let text = std::fs::read_to_string(path).map_err(|source| LoginError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// The seed itself, to sign with.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(…)")
    }
}

/// How often a silent server is asked whether it is there; after three questions without an answer the client goes to another
/// one. A server that hangs says nothing by itself.
const PING_EVERY: Duration = Duration::from_secs(2);
/// How long a server may take to let a worker in before the next one is tried.
const SIGN_IN_WITHIN: Duration = Duration::from_secs(3);

/// How long a question waits for its answer, unless it says otherwise. JetStream never answers what it was asked while it had no
/// leader (an election takes 4 to 8 seconds), so that must be asked again soon.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Connects a worker. It keeps reconnecting by itself for ever; what the server refuses is logged.
pub async fn connect(login: &Login) -> Result<Client, LoginError> {
    let role = login.role;
    let urls: Vec<&str> = login.url.split(',').map(str::trim).collect();
    let options = ConnectOptions::with_nkey(login.seed.expose().to_owned())
        .name(format!("natterjack {role}"))
        .custom_inbox_prefix(Subjects::worker_inbox(role))
        .request_timeout(Some(ANSWER_WITHIN))
        .connection_timeout(SIGN_IN_WITHIN)
        .ping_interval(PING_EVERY)
        .reconnect_delay_callback(|attempt| Duration::from_millis((10 << attempt.min(7)).min(1000)))
        .subscription_capacity(64 * 1024)
        .event_callback(move |event| async move { log_event(role, &event) });
    trusting_this_machine(options, &login.url)
        .connect(urls)
        .await
        .map_err(|source| LoginError::Connect { role, source })
}

fn log_event(role: &'static str, event: &ClientEvent) {
    match event {
        ClientEvent::Connected => tracing::debug!(role, "connected to NATS"),
        ClientEvent::Disconnected => tracing::warn!(role, "lost the connection to NATS, reconnecting"),
        ClientEvent::ServerError(error) => tracing::error!(role, %error, "NATS refused something"),
        other => tracing::debug!(role, event = %other, "NATS client"),
    }
}
