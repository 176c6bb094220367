//! Talking to a bridge over HTTP, as every command does that is a client.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use natterjack_authz::token::Issuer;
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Id, Principal, Problem};
use serde::Serialize;
use serde_json::Value;
use ureq::tls::TlsConfig;

use crate::config::{Config, Endpoints, Global};

/// The longest a poll stays parked, and some more.
const TIMEOUT: Duration = Duration::from_mins(1);
/// How long a token lives that a command makes for itself.
const TOKEN_TTL: Duration = Duration::from_hours(1);

/// Which server, and as whom.
#[derive(Debug, Args)]
pub(crate) struct Server {
    /// The bridge's address, for example <https://chat.example.org> [default: the `up` on this data folder]
    #[arg(long, env = "NATTERJACK_URL")]
    url: Option<String>,
    /// A token to present [default: one made with the data folder's own key for --user]
    #[arg(long, env = "NATTERJACK_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Who to be, where the token is made here [default: the admin]
    #[arg(long, env = "NATTERJACK_USER")]
    user: Option<Id>,
}

/// Whom to believe that it is the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Who has a certificate for that name, by Mozilla's roots.
    Roots,
    /// Who listens where the `up` on this data folder says that it does, as without TLS: its certificate is for the name that
    /// others know it by, not for this address.
    ThisMachine,
}

/// A connection to a bridge.
pub(crate) struct Connection {
    agent: ureq::Agent,
    base: String,
    token: String,
}

impl Server {
    pub(crate) fn connect(&self, global: &Global) -> anyhow::Result<Connection> {
        let config = Config::load(global)?;
        let (base, trust) = match &self.url {
            Some(url) => (url.trim_end_matches('/').to_owned(), Trust::Roots),
            None => (Endpoints::read(&config.data)?.http, Trust::ThisMachine),
        };
        let token = match &self.token {
            Some(token) => token.clone(),
            None => own_token(&config, self.user.as_ref())?,
        };
        Ok(Connection::new(base, token, trust))
    }

    /// The bridge of a running `up`.
    pub(crate) fn of(endpoints: &Endpoints, token: &str) -> Connection {
        Connection::new(endpoints.http.clone(), token.to_owned(), Trust::ThisMachine)
    }
}

impl Connection {
    fn new(base: String, token: String, trust: Trust) -> Self {
        let tls = TlsConfig::builder()
            .disable_verification(trust == Trust::ThisMachine)
            .build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .user_agent(concat!("natterjack/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self { agent, base, token }
    }

    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = self
            .agent
            .get(format!("{}{path}", self.base))
            .header("Authorization", self.bearer());
        self.answer(request.call())
    }

    pub(crate) fn put(&self, path: &str, body: &impl Serialize) -> anyhow::Result<Value> {
        let request = self
            .agent
            .put(format!("{}{path}", self.base))
            .header("Authorization", self.bearer());
        self.answer(request.send_json(body))
    }

    pub(crate) fn post(&self, path: &str, body: &impl Serialize) -> anyhow::Result<Value> {
        let request = self
            .agent
            .post(format!("{}{path}", self.base))
            .header("Authorization", self.bearer());
        self.answer(request.send_json(body))
    }

    pub(crate) fn delete(&self, path: &str) -> anyhow::Result<Value> {
        let request = self
            .agent
            .delete(format!("{}{path}", self.base))
            .header("Authorization", self.bearer());
        self.answer(request.call())
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn answer(&self, response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> anyhow::Result<Value> {
        let mut response = response.with_context(|| format!("no answer from {}", self.base))?;
        let status = response.status();
        let text = response
            .body_mut()
            .read_to_string()
            .context("the answer cannot be read")?;
        if status.is_success() {
            return serde_json::from_str(&text).context("the answer is no JSON; is this a Natterjack bridge?");
        }
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => bail!("{problem}"),
            Err(_) => Err(anyhow!("{} answered {status}", self.base)),
        }
    }
}

/// A token made with the data folder's own key, for the admin if no user is named.
pub(crate) fn own_token(config: &Config, user: Option<&Id>) -> anyhow::Result<String> {
    let user = user.unwrap_or(&config.admin).clone();
    let issuer = Issuer::load(&config.keys_dir()).with_context(|| {
        format!(
            "no token can be made in {}; give one with --token",
            config.data.display()
        )
    })?;
    let principal = Principal {
        tenant: config.tenant.clone(),
        user,
    };
    Ok(issuer.issue(&principal, TOKEN_TTL, clock::now_ms())?)
}
