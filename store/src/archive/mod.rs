//! The archive: every event of the log, in SQL, for as long as it is wanted.
//!
//! [`run`] follows the log by a durable consumer and stores what it reads. The consumer is no fence, and its ack floor
//! is no truth: the `watermark` row is, and it moves in the same transaction as the events, by compare-and-set. So a
//! paused worker that comes back, two workers at once, or a kill between commit and ack neither double nor lose anything.

mod address;
mod batch;
mod catch_up;
mod consume;
mod database;
mod insert;
pub(crate) mod keeper;
pub(crate) mod members;
pub(crate) mod now;
pub(crate) mod project;
mod release;
pub(crate) mod replies;
pub(crate) mod rooms;
mod schema;
pub(crate) mod sql;
mod step;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod trail;
mod worker;

pub use address::{Address, AddressError};
pub(crate) use database::engine_error;
pub use database::{Database, OpenError, Tables};
pub(crate) use insert::Insert;
pub use schema::Schema;
pub use worker::{ArchiveConfig, ArchiveError, Progress, run};
