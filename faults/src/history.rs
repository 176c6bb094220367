//! What happened in a run, as plain data: who asked for what and what was answered, who heard what, and what stands in the
//! log, in the archive and in ROOMS in the end.

use std::sync::Arc;

/// The name of a user, a room, a reader. Many records share one.
pub(crate) type Name = Arc<str>;

/// Milliseconds since the run began, by the harness's monotonic clock.
pub(crate) type Ms = u64;

/// Everything that the checker judges.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Every message that somebody tried to send.
    pub(crate) sends: Vec<Send>,
    /// Every change of a membership.
    pub(crate) changes: Vec<Change>,
    /// What each reader was handed.
    pub(crate) readers: Vec<Reader>,
    /// The log in the end, in its own order.
    pub(crate) log: Vec<Entry>,
    /// The archive in the end: each event's `seq` and bytes, by `seq`.
    pub(crate) archive: Vec<Line>,
    /// What the stream ROOMS holds in the end, in its own order.
    pub(crate) rooms: Vec<Line>,
    /// What the history of a room answered in the end.
    pub(crate) pages: Vec<Page>,
    /// When an acknowledgement reached its sender, in order.
    pub(crate) acks: Vec<Ms>,
    /// The faults, in order.
    pub(crate) faults: Vec<Fault>,
    /// When the senders were told to stop.
    pub(crate) load_until: Ms,
    /// What of the log cannot be read.
    pub(crate) damage: Vec<String>,
    /// Why the house does not work again although every fault is healed.
    pub(crate) not_recovered: Option<String>,
}

/// One message and what its sender knows of it, after all attempts.
#[derive(Debug, Clone)]
pub(crate) struct Send {
    pub(crate) user: Name,
    pub(crate) room: Name,
    pub(crate) key: String,
    /// When the first attempt began.
    pub(crate) from: Ms,
    /// When the outcome was known, or the sender gave up.
    pub(crate) to: Ms,
    pub(crate) outcome: Outcome,
    /// Receipts of later repetitions with the same key.
    pub(crate) again: Vec<Receipt>,
}

/// What became of a request, as its sender knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It stands in the log: the receipt.
    Ok(Receipt),
    /// It was refused for good by every attempt, with this code.
    Failed(String),
    /// At least one attempt may have been written.
    Unknown,
}

/// A receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) seq: u64,
    pub(crate) n: u64,
    pub(crate) id: u128,
    pub(crate) at_ms: i64,
}

/// A membership that was given or taken away.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) user: Name,
    pub(crate) room: Name,
    /// Whether the user is a member behind it.
    pub(crate) member: bool,
    pub(crate) from: Ms,
    pub(crate) to: Ms,
    /// The receipt's `seq`, if there was one.
    pub(crate) seq: Option<u64>,
    /// Whether the answer was `done`: no session of the user hears anything later of the room.
    pub(crate) done: bool,
}

/// One reader and everything that it was handed, in order.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) name: Name,
    pub(crate) user: Name,
    pub(crate) kind: ReaderKind,
    /// The rooms that it reads.
    pub(crate) rooms: Vec<Name>,
    /// It began behind this place. `None`: at an unknown moment, so what came before its first event is not missed.
    pub(crate) since: Option<u64>,
    /// Whether it may read its rooms from beginning to end of the run; if not, only what it was handed is judged.
    pub(crate) whole: bool,
    pub(crate) got: Vec<Got>,
}

/// What is promised to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReaderKind {
    /// By cursor: everything, in the order of the log, each once.
    Cursor,
    /// Live, and gaps in `n` repaired by cursor: everything, in the order of each room, each once.
    Repaired,
    /// Live, at most once: the order of each room, each once, losses allowed.
    Live,
    /// Of the stream ROOMS, without a gap in its own sequence: a piece of the log without a gap.
    Piece,
}

/// One event as it was handed to a reader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Got {
    pub(crate) at: Ms,
    pub(crate) seq: u64,
    /// Of the exact bytes.
    pub(crate) hash: u64,
}

/// One event of the log.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Where it stands: what its `seq` must say.
    pub(crate) place: u64,
    pub(crate) seq: u64,
    pub(crate) n: u64,
    pub(crate) prev: u64,
    pub(crate) id: u128,
    pub(crate) at_ms: i64,
    pub(crate) room: Name,
    pub(crate) from: Name,
    pub(crate) key: Option<String>,
    /// Whether it is a message; all else says who may do what.
    pub(crate) message: bool,
    /// Of a membership: whose, and whether the user is a member behind it.
    pub(crate) member: Option<(Name, bool)>,
    /// Of the exact bytes.
    pub(crate) hash: u64,
}

/// An event somewhere else than in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) seq: u64,
    /// Of the exact bytes.
    pub(crate) hash: u64,
}

/// A room's messages as history answered them, oldest first.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) room: Name,
    /// The page begins behind this place and reaches to the end.
    pub(crate) after: u64,
    pub(crate) lines: Vec<Line>,
}

/// One injected fault.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) kind: String,
    /// What it hit, for people.
    pub(crate) target: String,
    pub(crate) from: Ms,
    /// When it was healed.
    pub(crate) to: Ms,
    /// The longest time without acknowledgements that is allowed while it lasts and just behind it; none: not judged.
    pub(crate) bound: Option<Ms>,
}

/// A hash of exact bytes; the same in every process of one build.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
