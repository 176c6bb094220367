//! What is wrong with rows of the archive, decided without asking anybody.

use std::collections::{HashMap, HashSet};

use natterjack_nats_config::contract::{Event, EventLine, Seq};
use natterjack_nats_config::tail::Log;

use crate::archive::project::{self, Rows};
use crate::entity::{event, quarantine};

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The place in the log.
    pub seq: Seq,
    /// What is wrong there.
    pub fault: Fault,
}

/// What can be wrong at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The log has an event, the archive has not.
    #[error("the archive lacks this event")]
    Missing,
    /// Both have one, and they differ.
    #[error("the archive has another event than the log")]
    Differs,
    /// The archive has an event, the log has a frame without it.
    #[error("the archive has an event that the log has not")]
    Extra,
    /// What the log holds and is no event is not recorded.
    #[error("the archive lacks the record of something in the log that is no event")]
    Unrecorded,
    /// The bytes are not those whose hash was stored with them.
    #[error("the event's bytes do not match their hash: they were changed or damaged")]
    Damaged,
    /// An erasure covers it, and its words are there.
    #[error("the archive still has what was erased")]
    Unerased,
    /// It says that it was erased, and no erasure covers it.
    #[error("the event says that it was erased, and no erasure covers it")]
    Erased,
    /// An erasure is not noted as the archive's own events say it.
    #[error("an erasure is noted otherwise than the archive's events say")]
    Erasure,
    /// The columns say something else than the bytes.
    #[error("the columns say something else than the event's bytes")]
    Columns,
    /// The room's numbers or places do not follow on.
    #[error("the room's events do not follow on: `n` or `prev` is not that of the event before")]
    Order,
    /// What a message has become is not what the archive's own events make of it.
    #[error("the message is shown otherwise than the archive's events make it")]
    Standing,
    /// Where a room stands, or what is read of it, is not what the archive's own events make of it.
    #[error("where a room stands, or what is read of it, is not what the archive's events say")]
    Room,
    /// Who is in a room, and since when, is not what the archive's own events make of it.
    #[error("a membership, or its time, is noted otherwise than the archive's events say")]
    Member,
    /// The audit trail is not what the archive's own events make of it: a row was changed, put in or taken out, or one before it.
    #[error("the audit trail is not what the archive's events make of it: somebody changed it, or events before it")]
    Trail,
}

/// The last event of each room.
#[derive(Debug, Default)]
pub(super) struct Rooms(HashMap<(String, String), (i64, i64)>);

/// Compares what the log holds in some frames with what the archive has there.
pub(super) fn with_log(expected: &Rows, events: &[event::Model], kept: &[quarantine::Model]) -> Vec<Finding> {
    let mut found = Vec::new();
    let archived: HashMap<i64, &event::Model> = events.iter().map(|row| (row.seq, row)).collect();
    for row in &expected.events {
        match archived.get(&row.seq) {
            None => found.push(finding(row.seq, Fault::Missing)),
            Some(stored) if stored.bytes != row.bytes => found.push(finding(row.seq, Fault::Differs)),
            Some(stored) if *stored != row => found.push(finding(row.seq, Fault::Columns)),
            Some(_) => {}
        }
    }
    let wanted: HashSet<i64> = expected.events.iter().map(|row| row.seq).collect();
    let extra = events.iter().filter(|row| !wanted.contains(&row.seq));
    found.extend(extra.map(|row| finding(row.seq, Fault::Extra)));
    for row in &expected.quarantined {
        let is_there = kept
            .iter()
            .any(|kept| (kept.stream_seq, kept.line, &kept.hash) == (row.stream_seq, row.line, &row.hash));
        if !is_there {
            found.push(finding(row.stream_seq << 10 | row.line.max(0), Fault::Unrecorded));
        }
    }
    found.sort_by_key(|finding| finding.seq);
    found
}

/// Looks at an event that the log has not got any more.
pub(crate) fn alone(log: &Log, row: &event::Model) -> Option<Finding> {
    if project::hash(&row.bytes) != row.hash {
        return Some(finding(row.seq, Fault::Damaged));
    }
    let told = serde_json::from_slice::<Event>(&row.bytes).ok().and_then(|event| {
        let bytes = bytes::Bytes::copy_from_slice(&row.bytes);
        project::row(log, &EventLine { event, bytes }).ok()
    });
    (told.as_ref() != Some(row)).then(|| finding(row.seq, Fault::Columns))
}

impl Rooms {
    /// Whether an event follows its room's event before; gives the place of that one if not. In log order.
    pub(super) fn follow(&mut self, row: &event::Model) -> Option<Seq> {
        let key = (row.tenant.clone(), row.room.clone());
        let (n, seq) = self.0.insert(key, (row.n, row.seq)).unwrap_or_default();
        (row.n != n + 1 || row.prev != seq).then(|| Seq(seq.unsigned_abs()))
    }
}

pub(super) fn finding(seq: i64, fault: Fault) -> Finding {
    Finding {
        seq: Seq(seq.unsigned_abs()),
        fault,
    }
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::Subjects;

    use super::*;

    fn rows(texts: &[&str]) -> Rows {
        let log = Log::first(Subjects::default());
        let lines: Vec<String> = (0..)
            .zip(texts)
            .map(|(index, text)| {
                let seq = Seq::of(1, index);
                format!(
                    r#"{{"v":1,"seq":{seq},"n":{},"prev":{},"id":"x","tenant":"main","room":"lobby","from":"alice","kind":"msg","at":"2026-11-23T06:00:00.123Z","body":"{text}"}}"#,
                    index + 1,
                    if index == 0 { 0 } else { seq.0 - 1 }
                )
            })
            .collect();
        project::frame(&log, 1, &lines.join("\n").into())
    }

    #[test]
    fn each_fault_is_seen_and_named() {
        let expected = rows(&["a", "b", "c"]);
        let archived = expected.events.clone();
        assert_eq!(with_log(&expected, &archived, &[]), []);
        let change = |change: &dyn Fn(&mut Vec<event::Model>)| {
            let mut archived = archived.clone();
            change(&mut archived);
            with_log(&expected, &archived, &[])
        };
        let at = |index: i64, fault| vec![finding(1024 + index, fault)];
        assert_eq!(change(&|rows| drop(rows.remove(1))), at(1, Fault::Missing));
        assert_eq!(change(&|rows| rows[1].bytes.push(b' ')), at(1, Fault::Differs));
        assert_eq!(
            change(&|rows| "Lobby".clone_into(&mut rows[2].room)),
            at(2, Fault::Columns)
        );
        let extra = event::Model {
            seq: 1027,
            ..archived[2].clone()
        };
        assert_eq!(change(&|rows| rows.push(extra.clone())), at(3, Fault::Extra));
        let junk = project::frame(&Log::first(Subjects::default()), 1, &"junk".into());
        assert_eq!(with_log(&junk, &[], &[]), at(0, Fault::Unrecorded));
        assert_eq!(with_log(&junk, &[], &junk.quarantined), []);
    }

    #[test]
    fn an_event_without_its_log_is_looked_at_too() {
        let log = Log::first(Subjects::default());
        let good = rows(&["a"]).events.remove(0);
        assert_eq!(alone(&log, &good), None);
        let mut damaged = good.clone();
        damaged.bytes[60] ^= 1;
        assert_eq!(alone(&log, &damaged), Some(finding(1024, Fault::Damaged)));
        let moved = event::Model {
            seq: 1025,
            ..good.clone()
        };
        assert_eq!(alone(&log, &moved), Some(finding(1025, Fault::Columns)));
    }

    #[test]
    fn a_rooms_events_follow_on() {
        let all = rows(&["a", "b", "c"]).events;
        let places = |rows: &[&event::Model]| {
            let mut rooms = Rooms::default();
            rows.iter().filter_map(|row| rooms.follow(row)).collect::<Vec<_>>()
        };
        assert_eq!(places(&[&all[0], &all[1], &all[2]]), []);
        assert_eq!(places(&[&all[0], &all[2]]), [Seq(1024)]);
        assert_eq!(places(&[&all[1]]), [Seq(0)]);
    }
}
