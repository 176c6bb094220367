//! The writer: the only one who decides what goes into the log, in what order and under which number.
//!
//! `state`, `recent`, `admit`, `target`, `ephemera` and `heads` are pure. `append` puts one frame into the log, `leader` runs the loop,
//! `fan_out` hands the events on to their rooms, through `fan_batch`; `checkpoint` puts the state away.

mod admit;
mod append;
mod broken;
mod checkpoint;
mod ephemera;
mod fan_batch;
mod fan_out;
mod heads;
mod intake;
mod keeper;
mod keys;
mod leader;
mod log_time;
mod notice;
mod recent;
mod roles;
mod rooms;
mod state;
mod target;
#[cfg(test)]
mod tests;
mod tokens;
mod writer;

pub(crate) use broken::broken;
pub(crate) use checkpoint::begin as begin_state;
pub use checkpoint::{CheckpointConfig, TrimConfig, keep_checkpoints, keep_trimmed};
pub(crate) use notice::Asker;
pub use state::Diverged;
pub use writer::{Bootstrap, WriterConfig, WriterError, run};
