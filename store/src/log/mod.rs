//! The writer: the only one who decides what goes into the log, in what order and under which number.
//!
//! `state`, `admit`, `ephemera` and `heads` are pure. `append` puts one frame into the log, `leader` runs the loop,
//! `fan_out` hands the events on to their rooms, through `fan_batch`.

mod admit;
mod append;
mod broken;
mod ephemera;
mod fan_batch;
mod fan_out;
mod heads;
mod intake;
mod keeper;
mod keys;
mod leader;
mod log_time;
mod state;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use intake::answer_single;
pub use writer::{Bootstrap, WriterConfig, WriterError, run};
