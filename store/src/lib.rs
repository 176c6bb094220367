//! Keeps what was said: the writer of the log, the archive and history.

pub mod archive;
pub mod audit;
mod entity;
pub mod history;
pub mod log;
mod migration;
