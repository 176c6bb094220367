//! When one of log and archive is lost, or they are not of one history: a log made anew from the archive, or an archive from
//! the log. Nothing is thrown away: what the other side had is kept apart, under the epoch that it came from or a label, and
//! `archive export --epoch` writes it out (ADR 21).

mod archive;
mod difference;
mod held;
mod log;
mod rekey;

#[cfg(test)]
mod tests;

use natterjack_nats_config::contract::Subjects;
use natterjack_nats_config::epoch::NoList;
use natterjack_nats_config::lease::LeaseError;
use natterjack_nats_config::stream::StreamError;
use natterjack_nats_config::tail::{EndError, Log};
use sea_orm::DbErr;

pub use archive::{Past, rebuild_archive};
pub use log::rebuild_log;

use crate::log::RenewError;
use crate::verify::VerifyError;

/// What a rebuild needs to know.
#[derive(Debug, Clone)]
pub struct RebuildConfig {
    /// How subjects and streams are named.
    pub subjects: Subjects,
    /// Copies of each stream: 1 or 3.
    pub replicas: usize,
    /// The `max_bytes` of a log that is made.
    pub log_max_bytes: i64,
    /// Names whoever does it, in leases.
    pub worker: String,
    /// The least number that a new epoch gets: seconds since 1970. No epoch's number is ever given twice, also where an old
    /// backup is restored twice.
    pub now: u32,
}

/// What a rebuild came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The log.
    pub log: Log,
    /// The last frame that the archive now has.
    pub upto: u64,
    /// How many events were taken over.
    pub events: u64,
    /// How many events are kept apart, and under which epoch or label.
    pub apart: Option<(u64, i64)>,
}

/// Why nothing more is done. Done again it begins from the start, and loses nothing.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The archive's database fails.
    #[error("the archive's database: {0}")]
    Database(#[from] DbErr),
    /// NATS does not do what it is asked for.
    #[error("NATS: {0}")]
    Nats(String),
    /// The archive has never followed a log.
    #[error(
        "the archive is empty: there is nothing that a log could be made of. Restore a backup: `natterjack restore`"
    )]
    Empty,
    /// Both are there and agree.
    #[error(
        "the log {stream} is there, and it is the archive's: nothing has to be made anew. Start the stores, and the archive \
         catches up by itself"
    )]
    Agree {
        /// The log's stream.
        stream: String,
    },
    /// Somebody works.
    #[error("somebody holds the lease {0}: stop all stores first")]
    Busy(String),
    /// Another worker may have taken over meanwhile.
    #[error("a lease was lost meanwhile: is a store running? Stop all stores, and begin again")]
    Lost,
    /// There is no log.
    #[error("there is no log to make an archive of: `natterjack rebuild log` makes one from the archive")]
    NoLog,
    /// What was trimmed from the log is in nothing that belongs to it.
    #[error(
        "the log begins at frame {first}, and the archive has nothing in common with it: what came before can only come from \
         a backup of this log. Name it with --backup, or say --without-past"
    )]
    NoPast {
        /// The log's first frame.
        first: u64,
    },
    /// A row that was read is no event.
    #[error("the archive's event {seq} cannot be read: `natterjack verify` says more")]
    Damaged {
        /// Its place.
        seq: i64,
    },
}

impl From<NoList> for RebuildError {
    fn from(error: NoList) -> Self {
        Self::Nats(error.to_string())
    }
}

impl From<EndError> for RebuildError {
    fn from(error: EndError) -> Self {
        Self::Nats(error.to_string())
    }
}

impl From<StreamError> for RebuildError {
    fn from(error: StreamError) -> Self {
        Self::Nats(error.to_string())
    }
}

impl From<LeaseError> for RebuildError {
    fn from(error: LeaseError) -> Self {
        Self::Nats(error.to_string())
    }
}

impl From<RenewError> for RebuildError {
    fn from(error: RenewError) -> Self {
        Self::Nats(error.to_string())
    }
}

impl From<VerifyError> for RebuildError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Database(error) => Self::Database(error),
            error => Self::Nats(error.to_string()),
        }
    }
}
