//! The checker: a pure function of what happened. It knows nothing of how anything works, only what was promised
//! (invariants I1 to I6 and I9).

mod gaps;
mod log;
mod members;
mod readers;
mod sends;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::history::{Entry, History};

pub(crate) use gaps::{Gap, gaps};

/// How many examples of one kind of violation are kept.
const EXAMPLES: usize = 5;

/// A promise that was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum What {
    /// I1: a receipt was given, and the log does not have the event.
    LostFromLog,
    /// I1: a receipt was given, and another event stands at its place.
    ReceiptWrong,
    /// I1, I5: a reader by cursor passed over an event.
    Missed,
    /// I2: two events with the key of one sender.
    WrittenTwice,
    /// I2: one key, two different receipts.
    ReceiptsDiffer,
    /// I2: it was refused for good, and stands in the log.
    RefusedButWritten,
    /// An event that nobody asked for.
    FromNowhere,
    /// I3: an event does not stand where it says, or cannot be read.
    Misplaced,
    /// I3: the log's sequences do not grow, or its times go back.
    LogOutOfOrder,
    /// I3: a room's `n` does not count 1, 2, 3 …, or `prev` does not name the event before.
    ChainBroken,
    /// I3: a reader was handed an event that the log does not have.
    Phantom,
    /// I3: a reader was handed other bytes than the log has.
    BytesDiffer,
    /// I3, I5: a reader was handed an event twice.
    DeliveredTwice,
    /// I3, I5: a reader was handed events in another order.
    DeliveredOutOfOrder,
    /// I3: ROOMS holds something else than the last events of each room, each once and in order.
    RoomsDiffer,
    /// I4: an event of the log is not in the archive.
    NotArchived,
    /// I4: the archive has what the log does not have, or other bytes.
    ArchiveDiffers,
    /// I4: history answers something else than the log has.
    HistoryDiffers,
    /// I6: an event of a removed member behind the removal.
    WroteAfterRemoval,
    /// I6: a removed member was handed a later event of the room after the removal was answered `done`.
    HeardAfterRemoval,
    /// A member whose membership was acknowledged before was refused as a stranger: decided by an old state.
    WronglyRefused,
    /// All faults are healed, and the house does not work.
    NotRecovered,
    /// I9: no acknowledgement for longer than the fault allows.
    TooLongWithoutAcks,
}

/// All violations of a run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Verdict {
    /// By kind.
    pub(crate) violations: BTreeMap<What, Found>,
}

/// Violations of one kind.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    pub(crate) count: u64,
    /// The first few, in words.
    pub(crate) examples: Vec<String>,
}

/// Judges a whole run.
pub(crate) fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    if let Some(reason) = &history.not_recovered {
        verdict.add(What::NotRecovered, || reason.clone());
    }
    log::check(history, &mut verdict);
    sends::check(history, &mut verdict);
    readers::check(history, &mut verdict);
    members::check(history, &mut verdict);
    gaps::check(history, &mut verdict);
    verdict
}

impl Verdict {
    /// Notes a violation; its words are made only while examples are wanted.
    pub(crate) fn add(&mut self, what: What, words: impl FnOnce() -> String) {
        let found = self.violations.entry(what).or_default();
        found.count += 1;
        if found.examples.len() < EXAMPLES {
            found.examples.push(words());
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.violations.values().map(|found| found.count).sum()
    }
}

impl What {
    /// As it is written in reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::LostFromLog => "lost-from-log",
            Self::ReceiptWrong => "receipt-wrong",
            Self::Missed => "missed",
            Self::WrittenTwice => "written-twice",
            Self::ReceiptsDiffer => "receipts-differ",
            Self::RefusedButWritten => "refused-but-written",
            Self::FromNowhere => "from-nowhere",
            Self::Misplaced => "misplaced",
            Self::NotRecovered => "not-recovered",
            Self::LogOutOfOrder => "log-out-of-order",
            Self::ChainBroken => "chain-broken",
            Self::Phantom => "phantom",
            Self::BytesDiffer => "bytes-differ",
            Self::DeliveredTwice => "delivered-twice",
            Self::DeliveredOutOfOrder => "delivered-out-of-order",
            Self::RoomsDiffer => "rooms-differ",
            Self::NotArchived => "not-archived",
            Self::ArchiveDiffers => "archive-differs",
            Self::HistoryDiffers => "history-differs",
            Self::WroteAfterRemoval => "wrote-after-removal",
            Self::HeardAfterRemoval => "heard-after-removal",
            Self::WronglyRefused => "wrongly-refused",
            Self::TooLongWithoutAcks => "too-long-without-acks",
        }
    }
}

/// The log's event of this sequence. The log is in order; where it is not, that is a violation of its own.
fn entry(history: &History, seq: u64) -> Option<&Entry> {
    let at = history.log.binary_search_by_key(&seq, |entry| entry.seq).ok()?;
    history.log.get(at)
}
