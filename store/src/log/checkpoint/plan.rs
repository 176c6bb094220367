use natterjack_nats_config::contract::{CHECKPOINTS_KEPT, Manifest};
use natterjack_nats_config::tail::Bounds;

use crate::log::state::STAMP_EVERY;

/// Frames that stay although a checkpoint has taken them in: the one whose id shows that log and checkpoint belong
/// together, and those that a worker reads which began a moment ago from that checkpoint.
const MARGIN: u64 = STAMP_EVERY;

/// How much log there may be behind the newest checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Every {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
}

/// What stays of the log although it could go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keep {
    /// The last so many bytes, or some more.
    pub(crate) bytes: u64,
    /// The last so many milliseconds of log time.
    pub(crate) ms: i64,
}

/// How far those are who read the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Readers {
    /// The last frame that is archived, by the database's word.
    pub(crate) archive: u64,
    /// The frame of the last event that the rooms hold.
    pub(crate) rooms: u64,
}

/// Whether it is time for another checkpoint. The writer's own process waits a quarter longer, so that one that stands by
/// does it where there is one.
pub(crate) fn is_due(every: Every, newest: Option<&Manifest>, log: Bounds, is_writer: bool) -> bool {
    let end = newest.map_or(0, |newest| newest.end);
    let frames = log.last.saturating_sub(end);
    let quarters = if is_writer { 5 } else { 4 };
    let is_much = |amount: u64, limit: u64| amount >= limit.max(1).saturating_mul(quarters) / 4;
    let is_possible = point(log.last).is_some_and(|point| point > end + 1);
    is_possible && (is_much(frames, every.frames) || is_much(bytes_since(newest, log, frames), every.bytes))
}

/// The frame before which the state is put away: the last one in which the writer tells its state's hash.
pub(crate) fn point(last: u64) -> Option<u64> {
    let point = last - last % STAMP_EVERY;
    (point > 0).then_some(point)
}

/// The first frame that has to stay; `None` if nothing is to be trimmed. `kept` are the checkpoints, the newest first.
pub(crate) fn trim_to(log: Bounds, kept: &[Manifest], readers: Readers, keep: Keep) -> Option<u64> {
    // One checkpoint alone is not enough to lean on.
    let kept = kept
        .get(..kept.len().min(CHECKPOINTS_KEPT))
        .filter(|kept| kept.len() > 1)?;
    let (newest, oldest) = (kept.first()?, kept.last()?);
    if newest.at_ms.saturating_sub(oldest.at_ms) < keep.ms {
        return None;
    }
    let needed = oldest
        .end
        .min(readers.archive)
        .min(readers.rooms)
        .saturating_sub(MARGIN);
    let frames = (log.last + 1).saturating_sub(log.first).max(1);
    let surplus = log.bytes.checked_sub(keep.bytes).filter(|surplus| *surplus > 0)?;
    // By the average size of a frame; the next look corrects what that was off.
    let spare = u128::from(surplus) * u128::from(frames) / u128::from(log.bytes.max(1));
    let wanted = log.first.saturating_add(u64::try_from(spare).unwrap_or(u64::MAX));
    let to = needed.min(wanted);
    // A purge costs the server some work whatever its size, so it waits until it is worth it.
    (to >= log.first + STAMP_EVERY && to - log.first >= frames / 100).then_some(to)
}

/// How much was written since: exactly while nothing was trimmed since, else by the average size of a frame.
fn bytes_since(newest: Option<&Manifest>, log: Bounds, frames: u64) -> u64 {
    match newest {
        None => log.bytes,
        Some(newest) if newest.log_first == log.first => log.bytes.saturating_sub(newest.log_bytes),
        Some(_) => {
            let held = (log.last + 1).saturating_sub(log.first).max(1);
            (log.bytes / held).saturating_mul(frames)
        }
    }
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::{MANIFEST_VERSION, Piece};

    use super::*;

    const EVERY: Every = Every {
        frames: 100,
        bytes: 10_000,
    };

    fn manifest(end: u64, at_ms: i64) -> Manifest {
        Manifest {
            v: MANIFEST_VERSION,
            state_version: 1,
            end,
            frame_id: String::new(),
            at_ms,
            hash: String::new(),
            policy: Piece::default(),
            writer: Piece::default(),
            log_first: 1,
            log_bytes: end * 10,
            maker: String::new(),
            made_at_ms: 0,
        }
    }

    fn log(first: u64, last: u64, bytes: u64) -> Bounds {
        Bounds { first, last, bytes }
    }

    #[test]
    fn a_checkpoint_is_due_after_so_many_frames_or_bytes_and_later_for_the_writer() {
        let made = manifest(1000, 0);
        let table = [
            ("an empty log", None, log(1, 0, 0), (false, false)),
            ("no frame tells a hash yet", None, log(1, 15, 99_999), (false, false)),
            ("enough frames", None, log(1, 100, 10), (true, false)),
            ("enough frames for the writer", None, log(1, 125, 10), (true, true)),
            ("nothing new", Some(&made), log(1, 1000, 10_000), (false, false)),
            ("not enough", Some(&made), log(1, 1099, 19_999), (false, false)),
            ("enough bytes", Some(&made), log(1, 1050, 20_000), (true, false)),
            (
                "enough bytes for the writer",
                Some(&made),
                log(1, 1050, 22_500),
                (true, true),
            ),
            (
                "trimmed since, small frames",
                Some(&made),
                log(900, 1099, 20_000),
                (false, false),
            ),
            (
                "trimmed since, large frames",
                Some(&made),
                log(1000, 1098, 99_000),
                (true, true),
            ),
            (
                "many bytes but no new hash",
                Some(&made),
                log(1, 1001, 99_999),
                (false, false),
            ),
        ];
        for (name, newest, log, expected) in table {
            let due = |is_writer| is_due(EVERY, newest, log, is_writer);
            assert_eq!((due(false), due(true)), expected, "{name}");
        }
    }

    const KEEP: Keep = Keep {
        bytes: 1000,
        ms: 600_000,
    };
    const ALL: Readers = Readers {
        archive: 1000,
        rooms: 1000,
    };

    /// As many checkpoints as are asked for, the newest first.
    fn made(count: usize) -> Vec<Manifest> {
        let all = [(900, 3_000_000), (800, 2_000_000), (700, 1_000_000), (100, 0)];
        all.iter()
            .take(count)
            .map(|(end, at_ms)| manifest(*end, *at_ms))
            .collect()
    }

    #[test]
    fn the_log_is_trimmed_behind_the_oldest_checkpoint_and_every_reader() {
        let large = log(1, 1000, 100_000);
        let readers = |archive, rooms| Readers { archive, rooms };
        let table = [
            ("behind the oldest that is kept", 3, ALL, Some(684)),
            ("the fourth is not kept", 4, ALL, Some(684)),
            ("two are enough", 2, ALL, Some(784)),
            ("one is not", 1, ALL, None),
            ("none", 0, ALL, None),
            ("behind the archive", 3, readers(500, 1000), Some(484)),
            ("no archive", 3, readers(0, 1000), None),
            ("behind the rooms", 3, readers(1000, 300), Some(284)),
        ];
        for (name, count, readers, expected) in table {
            assert_eq!(trim_to(large, &made(count), readers, KEEP), expected, "{name}");
        }
    }

    #[test]
    fn the_log_keeps_what_it_is_told_to_keep() {
        let large = log(1, 1000, 100_000);
        let keep = |bytes, ms| Keep { bytes, ms };
        let table = [
            ("the window of keys", large, keep(1000, 2_000_001), None),
            ("so many bytes", large, keep(50_000, 0), Some(501)),
            ("it is small", log(1, 1000, 1000), KEEP, None),
            ("it was trimmed just now", log(680, 1000, 100_000), KEEP, None),
            ("too little to be worth it", log(1, 1000, 1005), KEEP, None),
            ("an empty log", log(1, 0, 0), KEEP, None),
        ];
        for (name, log, keep, expected) in table {
            assert_eq!(trim_to(log, &made(3), ALL, keep), expected, "{name}");
        }
    }
}
