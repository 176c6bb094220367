//! Where a reader of rights begins: at the newest checkpoint's policy part.

use async_nats::Client;
use natterjack_nats_config::checkpoint::{self, BeginError};
use natterjack_nats_config::contract::{Manifest, Part, Seq};
use natterjack_nats_config::tail::Log;

use crate::policy::View;

/// The view of the newest checkpoint that can be used; an empty one if the log is there from its first frame and nobody
/// made a checkpoint yet. Go on with the frame behind `view.seq()`. Waits until NATS answers.
pub async fn begin_view(client: &Client, log: &Log) -> Result<View, BeginError> {
    let found = checkpoint::begin(client, log, &[Part::Policy], read).await?;
    let mut view = found.map(|(_, view)| view).unwrap_or_default();
    view.keep_all();
    Ok(view)
}

fn read(manifest: &Manifest, parts: Vec<Vec<u8>>) -> Result<View, String> {
    let bytes = parts.into_iter().next().unwrap_or_default();
    let view = View::from_bytes(&bytes).map_err(|error| error.to_string())?;
    if view.seq() != Seq::end_of_frame(manifest.end) {
        return Err(format!("its view is of {}, not of frame {}", view.seq(), manifest.end));
    }
    Ok(view)
}
