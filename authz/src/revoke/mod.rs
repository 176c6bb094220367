//! The end of connections whose rights have changed.
//!
//! Every authz worker follows the log by itself and closes what was opened before a change; whoever changed something
//! asks all of them, by [`settle`], whether they are past it.

mod connections;
mod settle;
mod sweep;

pub use settle::{Settled, SettledState, settle};

pub(crate) use connections::Connections;
pub(crate) use settle::{REGISTERED, answer_settle, settle_subject};
pub(crate) use sweep::{Sweeper, Swept};
