//! Compares the archive with the log: the same events at the same places, byte for byte, in the same order (I4).
//!
//! What was trimmed from the log is judged by itself: by the hash that was stored with each event, by its columns, and by
//! each room's numbers. What later events made of messages is compared with the archive's own events.

pub(crate) mod compare;
pub(crate) mod read;
mod repair;

#[cfg(test)]
mod tests;

use async_nats::Client;
use natterjack_nats_config::contract::Seq;
use natterjack_nats_config::tail::{Bounds, EndError, Log};
use sea_orm::DbErr;

use self::compare::Rooms;
pub use self::compare::{Fault, Finding};
use crate::archive::members::{self, Members};
use crate::archive::now::{self, Changes};
use crate::archive::project::Rows;
use crate::archive::replies::{self, Replies};
use crate::archive::rooms::{self, Standings};
use crate::archive::trail::{self, Trail};
use crate::archive::{Database, sql};
use crate::entity::event;
use crate::erasure::{self, Erasing, Known};
use crate::retention::{self, Horizons};

/// Frames that are compared at a time.
const FRAMES: usize = 64;
/// The most findings that are kept to be shown; all are counted.
const SHOWN: usize = 100;

/// What a comparison came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Events of the archive that were looked at.
    pub events: u64,
    /// Frames of the log that were compared with the archive.
    pub frames: u64,
    /// Frames that the archive has yet to read.
    pub behind: u64,
    /// How much is wrong.
    pub faults: u64,
    /// How much of that was put right.
    pub repaired: u64,
    /// The first findings.
    pub findings: Vec<Finding>,
}

/// The comparison was not finished.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The log is not read.
    #[error("the log is not read: {0}")]
    Log(String),
    /// The database fails.
    #[error("the archive's database: {0}")]
    Database(#[from] DbErr),
    /// The archive is of another log, or of a later epoch.
    #[error(
        "the archive has frames up to {archived}, the log ends at {last}: one of them was replaced. Give the archive of \
         this log"
    )]
    Ahead {
        /// Up to where the archive is.
        archived: u64,
        /// The log's last frame.
        last: u64,
    },
}

impl From<EndError> for VerifyError {
    fn from(error: EndError) -> Self {
        Self::Log(error.to_string())
    }
}

/// Compares everything that is archived when it begins. `repair` puts right what the log still has; what is replaced is
/// kept in quarantine. `progress` is told what is done, and of how much, in frames.
pub async fn verify(
    client: &Client,
    database: &Database,
    log: &Log,
    repair: bool,
    progress: impl Fn(u64, u64),
) -> Result<Verified, VerifyError> {
    let archived = sql::archived(database.connection(), log).await?.frame();
    let Bounds { first, last, .. } = log.bounds(client).await?;
    if archived > last {
        return Err(VerifyError::Ahead { archived, last });
    }
    let mut verifying = Verifying {
        database,
        log,
        repair,
        rooms: Rooms::default(),
        changes: Changes::default(),
        standings: Standings::default(),
        replies: Replies::default(),
        trail: Trail::default(),
        members: Members::default(),
        erasing: Erasing::default(),
        known: Known::load(database.connection(), log).await?,
        erase_again: false,
        archived: sql::bound(Seq::end_of_frame(archived)),
        verified: Verified {
            behind: last - archived,
            ..Verified::default()
        },
    };
    verifying
        .alone(first, &|done| progress(done.min(archived), archived))
        .await?;
    let mut frames = read::frames(client, log, first, archived).await?;
    while let Some(part) = frames.next(FRAMES).await? {
        let last = part.last;
        verifying.with_log(part).await?;
        progress(last, archived);
    }
    verifying.standing().await?;
    Ok(verifying.verified)
}

struct Verifying<'a> {
    database: &'a Database,
    log: &'a Log,
    repair: bool,
    rooms: Rooms,
    /// What all events so far come to: a few hundred bytes for each message that was changed.
    changes: Changes,
    standings: Standings,
    replies: Replies,
    trail: Trail,
    members: Members,
    erasing: Erasing,
    /// All erasures. They may go on, and others come, meanwhile.
    known: Known,
    /// Something that the log has not got any more is there although it is erased.
    erase_again: bool,
    /// The end of what is compared; the archive may go on meanwhile.
    archived: i64,
    verified: Verified,
}

impl Verifying<'_> {
    /// Looks at the events of frames before `first`.
    async fn alone(&mut self, first: u64, done: &impl Fn(u64)) -> Result<(), VerifyError> {
        let mut after = -1;
        loop {
            let events = read::events_after(self.database, self.log, after, first).await?;
            let Some(last) = events.last() else { return Ok(()) };
            after = last.seq;
            for row in &events {
                if let Some(finding) = compare::alone(self.log, row) {
                    self.note(finding);
                }
            }
            for finding in self.unerased(&events).await? {
                self.erase_again |= self.repair && finding.fault == Fault::Unerased;
                self.note(finding);
            }
            self.order(&events).await?;
            done(after.unsigned_abs() >> 10);
        }
    }

    async fn with_log(&mut self, mut part: read::Part) -> Result<(), VerifyError> {
        let (mut events, kept) = read::archived(self.database, self.log, &part).await?;
        let db = self.database.connection();
        retention::forgive(db, self.log, (&mut part.rows.events, &events)).await?;
        let wrongly = self.unerased(&events).await?;
        self.erase_expected(&mut part.rows.events, &events);
        let mut found = compare::with_log(&part.rows, &events, &kept);
        // What is told already.
        found.retain(|finding| wrongly.iter().all(|told| told.seq != finding.seq));
        found.extend(wrongly);
        self.verified.frames += part.frames.len() as u64;
        if !found.is_empty() {
            let faults = found.len() as u64;
            for finding in found {
                self.note(finding);
            }
            if self.repair {
                repair::repair(self.database, self.log, &part, &events).await?;
                self.verified.repaired += faults;
                events.clone_from(&part.rows.events);
            }
        }
        self.order(&events).await
    }

    /// A room's numbers may only leave out what could not be stored.
    async fn order(&mut self, events: &[event::Model]) -> Result<(), VerifyError> {
        self.verified.events += events.len() as u64;
        self.changes.extend(Changes::of(events));
        self.standings.extend(Standings::of(events));
        self.replies.extend(Replies::of(events));
        self.trail.extend(events);
        self.members.extend(events);
        self.erasing.extend(Erasing::of(events));
        for row in events {
            let Some(before) = self.rooms.follow(row) else { continue };
            let upto = row.seq.unsigned_abs() >> 10;
            let horizon = retention::of_room(self.database.connection(), self.log, (&row.tenant, &row.room)).await?;
            // All that is missing lies before it.
            if sql::bound(horizon) > row.prev {
                continue;
            }
            if !read::anything_apart(self.database, self.log, (before.frame(), upto)).await? {
                self.note(compare::finding(row.seq, Fault::Order));
            }
        }
        Ok(())
    }

    /// What is there although it is erased, or is not there although it is not.
    async fn unerased(&mut self, events: &[event::Model]) -> Result<Vec<Finding>, VerifyError> {
        let found = unerased(&self.known, events);
        if found.is_empty() {
            return Ok(found);
        }
        // It may be erased since.
        let db = self.database.connection();
        self.known = Known::load(db, self.log).await?;
        let places: Vec<i64> = found.iter().map(|finding| sql::bound(finding.seq)).collect();
        let now = now::events_of(self.log, &places).all(db).await?;
        Ok(unerased(&self.known, &now))
    }

    /// Takes for what the log has what is left of it.
    fn erase_expected(&self, expected: &mut [event::Model], archived: &[event::Model]) {
        for row in expected {
            let Some((left, is_unfinished)) = self.known.without(row) else {
                continue;
            };
            if !is_unfinished || archived.contains(&left) {
                *row = left;
            }
        }
    }

    /// Messages must stand as the events make them.
    async fn standing(&mut self) -> Result<(), VerifyError> {
        let db = self.database.connection();
        let horizons = Horizons::load(db, self.log).await?;
        let (log, upto) = (self.log, self.archived);
        let mut wrong = now::differing(db, log, &self.changes, (upto, &horizons)).await?;
        wrong.extend(replies::differing(db, log, &self.replies, (upto, &horizons)).await?);
        let wrong_rooms = rooms::differing(db, log, &self.standings, (upto, &horizons)).await?;
        let wrong_trail = trail::differing(db, log, &self.trail, upto).await?;
        let wrong_members = members::differing(db, log, &self.members, upto).await?;
        let wrong_erasures = erasure::differing(db, log, &self.erasing, upto).await?;
        let faults =
            (wrong.len() + wrong_trail.len() + wrong_members.len() + wrong_erasures.len()) as u64 + wrong_rooms;
        if faults == 0 && !self.erase_again {
            return Ok(());
        }
        for _ in 0..wrong_rooms {
            self.note(compare::finding(self.archived, Fault::Room));
        }
        for seq in wrong {
            self.note(compare::finding(seq, Fault::Standing));
        }
        for seq in wrong_trail {
            self.note(compare::finding(seq, Fault::Trail));
        }
        for seq in wrong_members {
            self.note(compare::finding(seq, Fault::Member));
        }
        for seq in wrong_erasures {
            self.note(compare::finding(seq, Fault::Erasure));
        }
        if self.repair {
            repair::rebuild(self.database, self.log).await?;
            self.verified.repaired += faults;
        }
        Ok(())
    }

    fn note(&mut self, finding: Finding) {
        self.verified.faults += 1;
        if self.verified.findings.len() < SHOWN {
            self.verified.findings.push(finding);
        }
    }
}

/// What of some events is there although it is erased, and what is not although it is not.
fn unerased(known: &Known, events: &[event::Model]) -> Vec<Finding> {
    let wrong = events.iter().filter_map(|row| {
        if !known.explains(row) {
            return Some(compare::finding(row.seq, Fault::Erased));
        }
        let (left, is_unfinished) = known.without(row)?;
        (left != *row && !is_unfinished).then(|| compare::finding(row.seq, Fault::Unerased))
    });
    wrong.collect()
}

/// Adds the rows of one more frame.
fn extend(rows: &mut Rows, more: Rows) {
    rows.events.extend(more.events);
    rows.quarantined.extend(more.quarantined);
}
