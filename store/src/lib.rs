//! Keeps what was said: the writer of the log, the archive and history.

pub mod archive;
mod entity;
pub mod history;
pub mod log;
mod migration;
