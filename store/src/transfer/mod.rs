//! The archive on the move: from one engine to another as it stands, and a room as JSON lines, out and in again.

mod copy;
mod lines;
mod top_up;
mod user;

#[cfg(test)]
mod tests;

use sea_orm::DbErr;

pub use copy::copy;
pub use lines::{Exported, Header, export, import};
pub use top_up::{ToppedUp, top_up};
pub use user::{ExportedUser, export_user};

/// Why nothing more is moved. What was moved so far stays, and is whole up to the watermark.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A database fails.
    #[error("the archive's database: {0}")]
    Database(#[from] DbErr),
    /// The log is not read.
    #[error("the log is not read: {0}")]
    Log(String),
    /// There is nothing to move.
    #[error("the archive is empty: it has never followed this log")]
    Nothing,
    /// The target has something else already.
    #[error("the target is no empty archive: {0}")]
    Target(String),
    /// Somebody else writes to the target.
    #[error("another program writes to the target: stop it, and begin again")]
    Overtaken,
    /// What is read is no export, or not all of it.
    #[error("line {line} of the export: {why}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// What is exported cannot be written, or what is imported cannot be read.
    #[error(transparent)]
    File(#[from] std::io::Error),
}
