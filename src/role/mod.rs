//! What a process can be: everything (`up`), or one role.

pub(crate) mod authz;
pub(crate) mod background;
mod banner;
pub(crate) mod bridge;
pub(crate) mod data;
pub(crate) mod servers;
pub(crate) mod standstill;
pub(crate) mod store;
pub(crate) mod tls;
pub(crate) mod up;

use natterjack_nats_config::client::{Login, LoginError, Seed, connect};
use natterjack_nats_config::tail::Log;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Global};
use crate::process::{block_on, start_logging};

/// Runs one role by itself, against the NATS of the configuration.
fn run_alone<F>(
    global: &Global,
    work: impl FnOnce(Config, String, watch::Sender<bool>, CancellationToken) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let config = Config::load(global)?;
    start_logging(&config.logging)?;
    let url = config.nats.url.clone();
    block_on(|shutdown| work(config, url, watch::Sender::new(false), shutdown))
}

/// How a worker signs in, with the seed that the keys folder holds under its name.
pub(crate) fn login(config: &Config, url: &str, role: &'static str) -> Result<Login, LoginError> {
    let seed = Seed::read(&config.keys_dir().join(format!("{role}.nk")))?;
    Ok(Login {
        url: url.to_owned(),
        role,
        seed,
    })
}

/// The log, for a role that signs in only later.
async fn find_log(config: &Config, login: &Login) -> Result<Log, LoginError> {
    let client = connect(login).await?;
    Ok(config.log(&client).await)
}

/// A name for this worker that no other has: the role and a random part.
fn worker_name(role: &str) -> String {
    format!("{role}-{:08x}", rand::random::<u32>())
}
