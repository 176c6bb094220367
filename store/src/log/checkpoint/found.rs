use natterjack_nats_config::checkpoint::Checkpoints;
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{MANIFEST_VERSION, Manifest, Part, Piece};

use super::codec::{Encoded, encode};
use super::make::{NotMade, check};
use crate::log::state::{STATE_VERSION, State};

/// Where the first checkpoint of a log goes.
const SLOT: usize = 0;

/// Puts a state away as the first checkpoint of a log that has no frame yet. No writer has told its hash: it counts because
/// what is read back has the hash of what was put away, and all who begin with it tell that one.
pub(crate) async fn put(checkpoints: &Checkpoints, state: State, maker: &str) -> Result<(), NotMade> {
    let Encoded { policy, writer } = encode(&state)?;
    let manifest = Manifest {
        v: MANIFEST_VERSION,
        state_version: STATE_VERSION,
        end: state.end(),
        frame_id: String::new(),
        at_ms: state.at_ms(),
        hash: state.stamp().hash,
        policy: Piece::of(&policy),
        writer: Piece::of(&writer),
        log_first: state.end() + 1,
        log_bytes: 0,
        maker: maker.to_owned(),
        made_at_ms: clock::now_ms(),
    };
    checkpoints.clear(SLOT).await?;
    checkpoints.put(SLOT, Part::Policy, &policy).await?;
    checkpoints.put(SLOT, Part::Writer, &writer).await?;
    check(checkpoints, SLOT, &manifest).await?;
    Ok(checkpoints.confirm(SLOT, &manifest).await?)
}
