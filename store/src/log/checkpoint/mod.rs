//! Checkpoints: the writer's state at a frame, put away, so that nobody has to read the log from its beginning and the
//! log can be trimmed.
//!
//! `codec` and `plan` are pure. `make` makes a checkpoint out of the one before and the log since, beside the writer and
//! not out of its memory: the writer never waits for it, and the state is folded twice. It counts once what was stored was
//! read back and has the hash that the writer told in the log. `trim` removes what nobody needs any more.

pub(crate) mod codec;
pub(crate) mod found;
mod make;
mod plan;
mod trim;

use async_nats::Client;
use natterjack_nats_config::checkpoint::{self, BeginError};
use natterjack_nats_config::contract::{Manifest, Part};
use natterjack_nats_config::tail::Log;

pub use make::{CheckpointConfig, keep_checkpoints};
pub use trim::{TrimConfig, keep_trimmed};

use super::state::State;
use codec::{Encoded, decode};

/// The state to begin with: the newest checkpoint that can be used, else that before the log's first frame.
pub(crate) async fn begin(client: &Client, log: &Log) -> Result<State, BeginError> {
    let found = checkpoint::begin(client, log, &[Part::Policy, Part::Writer], read).await?;
    Ok(found.map_or_else(State::default, |(_, state)| state))
}

/// The state in a checkpoint's parts, if it is the one of the manifest.
fn read(manifest: &Manifest, parts: Vec<Vec<u8>>) -> Result<State, String> {
    let [policy, writer] = <[Vec<u8>; 2]>::try_from(parts).map_err(|_| "it has not two parts".to_owned())?;
    let state = decode(&Encoded { policy, writer }).map_err(|error| error.to_string())?;
    if state.end() != manifest.end || state.stamp().hash != manifest.hash {
        return Err("its state is not the one that was confirmed".to_owned());
    }
    Ok(state)
}
