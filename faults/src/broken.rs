//! Safeguards that can be broken, to see that the harness finds it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;

use crate::nemesis::Kind;

/// A safeguard to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// The writer appends wherever the log ends, without regard to another writer's frames
    ExpectedSequence,
    /// A new writer decides before its barrier has landed
    Barrier,
    /// After an unknown outcome a refusal is taken for a proof that the frame does not stand in the log
    RefusedMeansLost,
    /// The fan-out begins at the end of the log, not where ROOMS ends
    FanOutResume,
    /// The server flushes every two minutes, not always (needs root)
    SyncAlways,
}

/// A run in which a broken safeguard must be found.
#[derive(Debug, Clone)]
pub(crate) struct Exposure {
    pub(crate) faults: Vec<Kind>,
    pub(crate) duration: Duration,
    pub(crate) quick: bool,
    pub(crate) seed: u64,
}

impl Switch {
    /// As it is written on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What the program under test is told, if it is the program that is broken.
    pub(crate) fn setting(self) -> Option<(String, String)> {
        (self != Self::SyncAlways).then(|| ("NATTERJACK_FAULT".to_owned(), self.name()))
    }

    /// The faults that show it.
    pub(crate) fn exposure(self) -> Exposure {
        // A writer that sleeps must sleep longer than its lease.
        let (kind, seconds, quick) = match self {
            Self::ExpectedSequence => (Kind::StopWriter, 60, false),
            Self::Barrier => (Kind::LateFrame, 20, true),
            Self::RefusedMeansLost => (Kind::LoseAcks, 30, true),
            Self::FanOutResume => (Kind::KillWriter, 30, true),
            Self::SyncAlways => (Kind::PowerCut, 20, true),
        };
        Exposure {
            faults: vec![kind],
            duration: Duration::from_secs(seconds),
            quick,
            seed: 1,
        }
    }
}

/// Where the program with breakable safeguards is kept, beside the real one.
pub(crate) fn breakable(program: &Path) -> PathBuf {
    program.with_file_name("natterjack-breakable")
}
