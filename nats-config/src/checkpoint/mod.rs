//! Checkpoints of the log's state in an object store bucket: who starts takes up the newest one, and reads the log from
//! there on.
//!
//! What is in a part is the business of who makes it. Here is where the parts are, whether they are whole, and which one
//! to begin with.

mod begin;
mod bucket;

pub use begin::{BeginError, begin};
pub use bucket::{CheckpointError, Checkpoints, Kept, next_slot};
