//! What a process can be: everything (`up`), or one role.

pub(crate) mod authz;
pub(crate) mod banner;
pub(crate) mod bridge;
pub(crate) mod data;
pub(crate) mod store;
pub(crate) mod up;

use natterjack_nats_config::client::{Login, LoginError, Seed};

use crate::config::{Config, Global};
use crate::process::start_logging;

/// The configuration of a role, with logging started by it.
fn load(global: &Global) -> anyhow::Result<Config> {
    let config = Config::load(global)?;
    start_logging(&config.logging)?;
    Ok(config)
}

/// How a worker signs in, with the seed that the keys folder holds under its name.
fn login(config: &Config, url: &str, role: &'static str) -> Result<Login, LoginError> {
    let seed = Seed::read(&config.keys_dir().join(format!("{role}.nk")))?;
    Ok(Login {
        url: url.to_owned(),
        role,
        seed,
    })
}

/// A name for this worker that no other has: the role and a random part.
fn worker_name(role: &str) -> String {
    format!("{role}-{:08x}", rand::random::<u32>())
}
