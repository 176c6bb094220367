//! The writer: the only one who decides what goes into the log, in what order and under which number.
//!
//! `state`, `recent`, `admit`, `target`, `rates`, `ephemera` and `heads` are pure. `append` puts one frame into the log, `leader` runs the loop,
//! `fan_out` hands the events on to their rooms, through `fan_batch`; `checkpoint` puts the state away, `renew` makes it anew;
//! `standing` tells which stores could take over.

mod admit;
mod api_keys;
mod append;
mod behalf;
mod broken;
mod checkpoint;
mod claims;
mod ephemera;
mod erase;
mod fan_batch;
mod fan_erased;
mod fan_out;
mod heads;
mod intake;
mod keeper;
mod keys;
mod leader;
mod log_time;
mod notice;
mod rates;
mod recent;
mod renew;
mod roles;
mod rooms;
mod standing;
mod state;
mod target;
#[cfg(test)]
mod tests;
mod tokens;
mod writer;

pub(crate) use broken::broken;
pub(crate) use checkpoint::begin as begin_state;
pub use checkpoint::{CheckpointConfig, TrimConfig, keep_checkpoints, keep_trimmed};
pub(crate) use fan_out::rooms_reached;
pub(crate) use notice::Asker;
pub(crate) use renew::{RenewError, Renewal};
pub use state::Diverged;
pub use writer::{Bootstrap, WriterConfig, WriterError, run};
