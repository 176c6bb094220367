use bytes::Bytes;
use natterjack_nats_config::contract::{EventLine, events_of};
use natterjack_nats_config::tail::Log;
use sha2::{Digest, Sha256};

use crate::entity::{event, quarantine};

/// The version of events that is stored.
const VERSION: u8 = 1;
/// The line number of a quarantined whole frame.
const WHOLE_FRAME: i64 = -1;

/// What a frame, or the lack of some, comes to in SQL. Nothing in here fails: what cannot be an event is kept as it is.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) events: Vec<event::Model>,
    pub(crate) quarantined: Vec<quarantine::Model>,
}

/// Events that do not fit their columns. The limits hold on every engine, so that no engine refuses a row which another
/// one takes: a refusal would look like a database error and be tried again for ever.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("{what} is longer than {limit} bytes")]
    TooLong { what: &'static str, limit: usize },
    #[error("{what} holds a NUL character")]
    Nul { what: &'static str },
    #[error("{what} is larger than 2^63-1")]
    TooLarge { what: &'static str },
    #[error("the event is of version {0}, which this program does not know")]
    Version(u8),
}

/// The rows of one frame.
pub(crate) fn frame(log: &Log, stream_seq: u64, bytes: &Bytes) -> Rows {
    let mut rows = Rows::default();
    match events_of(stream_seq, bytes) {
        Ok(lines) => {
            for (line, event) in lines.iter().enumerate() {
                match row(log, event) {
                    Ok(row) => rows.events.push(row),
                    Err(unfit) => rows.quarantined.push(quarantined(
                        log,
                        (stream_seq, i64::try_from(line).unwrap_or(WHOLE_FRAME)),
                        unfit.to_string(),
                        &event.bytes,
                    )),
                }
            }
        }
        Err(error) => {
            rows.quarantined
                .push(quarantined(log, (stream_seq, WHOLE_FRAME), error.to_string(), bytes));
        }
    }
    rows
}

/// The record of a message of the log that no writer wrote. Every reader of the log passes over it.
pub(crate) fn foreign(log: &Log, stream_seq: u64, bytes: &Bytes) -> Rows {
    let reason = "no writer wrote this".to_owned();
    Rows {
        events: Vec::new(),
        quarantined: vec![quarantined(log, (stream_seq, WHOLE_FRAME), reason, bytes)],
    }
}

/// The beginning of the reason that stands at frames which the log had not got any more; their last one stands in place of
/// their bytes.
pub(crate) const ABSENT: &str = "the log has no frames";

/// The record of frames that the log has not got any more: `first` up to, but not with, `next`.
pub(crate) fn absent(log: &Log, first: u64, next: u64) -> Rows {
    let last = next.saturating_sub(1);
    let reason = format!("{ABSENT} {first} to {last}");
    let bytes = Bytes::from(last.to_string());
    Rows {
        events: Vec::new(),
        quarantined: vec![quarantined(log, (first, WHOLE_FRAME), reason, &bytes)],
    }
}

/// The record of frames that a new epoch does not count again, because a log that is not the archive's had them: `first` to
/// `last`.
pub(crate) fn passed_over(log: &Log, first: u64, last: u64) -> quarantine::Model {
    let reason = format!("a new epoch begins behind frames {first} to {last}, which another log has");
    quarantined(log, (first, WHOLE_FRAME), reason, &Bytes::from(last.to_string()))
}

/// The record of an event at a place where the archive has another one.
pub(crate) fn fork(row: event::Model) -> quarantine::Model {
    quarantine::Model {
        epoch: row.epoch,
        shard: row.shard,
        stream_seq: row.seq >> 10,
        line: row.seq & 1023,
        hash: row.hash,
        reason: "fork: the archive has another event at this place".to_owned(),
        bytes: row.bytes,
    }
}

/// The hash that stands beside each archived line.
pub(crate) fn hash(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

/// The row of one event.
pub(crate) fn row(log: &Log, line: &EventLine) -> Result<event::Model, Unfit> {
    let event = &line.event;
    if event.v != VERSION {
        return Err(Unfit::Version(event.v));
    }
    Ok(event::Model {
        epoch: i64::from(log.epoch),
        shard: i64::from(log.shard),
        seq: number("seq", event.seq.0)?,
        tenant: event.tenant.to_string(),
        room: event.room.to_string(),
        n: number("n", event.n)?,
        prev: number("prev", event.prev.0)?,
        id: text("id", &event.id, 64)?,
        from_user: event.from.to_string(),
        kind: event.kind.as_str().to_owned(),
        at: text("at", &event.at, 32)?,
        key: event.key.as_deref().map(|key| text("key", key, 128)).transpose()?,
        bytes: line.bytes.to_vec(),
        hash: hash(&line.bytes),
    })
}

fn quarantined(log: &Log, (stream_seq, line): (u64, i64), reason: String, bytes: &Bytes) -> quarantine::Model {
    quarantine::Model {
        epoch: i64::from(log.epoch),
        shard: i64::from(log.shard),
        stream_seq: i64::try_from(stream_seq).unwrap_or(i64::MAX),
        line,
        hash: hash(bytes),
        reason,
        bytes: bytes.to_vec(),
    }
}

fn number(what: &'static str, value: u64) -> Result<i64, Unfit> {
    i64::try_from(value).map_err(|_| Unfit::TooLarge { what })
}

fn text(what: &'static str, value: &str, limit: usize) -> Result<String, Unfit> {
    if value.len() > limit {
        return Err(Unfit::TooLong { what, limit });
    }
    if value.contains('\0') {
        return Err(Unfit::Nul { what });
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::{Seq, Subjects};

    use super::*;

    fn log() -> Log {
        Log {
            subjects: Subjects::default(),
            shard: 3,
            epoch: 7,
        }
    }

    fn line(index: usize, n: u64, rest: &str) -> String {
        let seq = Seq::of(42, index);
        format!(
            r#"{{"v":1,"seq":{seq},"n":{n},"prev":0,"id":"x","tenant":"main","room":"lobby","from":"alice","kind":"msg","at":"2026-11-23T06:00:00.123Z"{rest},"body":{{"text":"hi"}}}}"#
        )
    }

    #[test]
    fn a_row_holds_the_line_as_it_stands() {
        let (one, two) = (line(0, 1, r#","key":"a'b""#), line(1, 2, ""));
        let rows = frame(&log(), 42, &Bytes::from(format!("{one}\n{two}\n")));
        assert!(rows.quarantined.is_empty());
        let [first, second] = rows.events.as_slice() else {
            panic!("{rows:?}")
        };
        assert_eq!((first.epoch, first.shard, first.seq), (7, 3, 42 << 10));
        assert_eq!((second.seq, second.key.as_deref()), (42 << 10 | 1, None));
        assert_eq!((&first.bytes[..], first.key.as_deref()), (one.as_bytes(), Some("a'b")));
        assert_eq!(first.hash, hash(one.as_bytes()));
    }

    #[test]
    fn a_leader_frame_has_no_rows() {
        assert_eq!(frame(&log(), 42, &Bytes::new()), Rows::default());
    }

    #[test]
    fn a_frame_that_cannot_be_read_is_kept_whole() {
        for bad in ["not json".to_owned(), format!("{}\n{{", line(0, 1, "")), line(1, 1, "")] {
            let rows = frame(&log(), 42, &Bytes::from(bad.clone()));
            assert!(rows.events.is_empty(), "{bad}");
            let [kept] = rows.quarantined.as_slice() else {
                panic!("{rows:?}")
            };
            assert_eq!(
                (kept.stream_seq, kept.line, &kept.bytes[..]),
                (42, WHOLE_FRAME, bad.as_bytes())
            );
            assert!(kept.reason.contains("42"), "{}", kept.reason);
        }
    }

    #[test]
    fn an_event_that_fits_no_column_is_kept_and_its_neighbours_are_stored() {
        for (unfit, why) in [
            (line(1, 2, &format!(r#","key":"{}""#, "k".repeat(129))), "key"),
            (line(1, 2, r#","key":"a\u0000b""#), "NUL"),
            (line(1, u64::MAX, ""), "n is larger"),
            (line(1, 2, "").replace(r#""v":1"#, r#""v":2"#), "version 2"),
        ] {
            let bytes = Bytes::from(format!("{}\n{unfit}\n{}", line(0, 1, ""), line(2, 3, "")));
            let rows = frame(&log(), 42, &bytes);
            assert_eq!(rows.events.iter().map(|row| row.seq & 1023).collect::<Vec<_>>(), [0, 2]);
            let [kept] = rows.quarantined.as_slice() else {
                panic!("{rows:?}")
            };
            assert_eq!((kept.line, &kept.bytes[..]), (1, unfit.as_bytes()));
            assert!(kept.reason.contains(why), "{}", kept.reason);
        }
    }

    #[test]
    fn what_the_log_has_not_got_is_recorded() {
        let rows = absent(&log(), 5, 9);
        let [kept] = rows.quarantined.as_slice() else {
            panic!("{rows:?}")
        };
        assert_eq!(
            (kept.stream_seq, kept.reason.as_str()),
            (5, "the log has no frames 5 to 8")
        );
    }
}
