use std::collections::{HashMap, HashSet};

use super::{Verdict, What, entry};
use crate::history::{History, Name, Reader, ReaderKind};

/// What each reader was handed, against the log (I3, I5, and the half of I1 that says that it reaches every reader).
pub(super) fn check(history: &History, verdict: &mut Verdict) {
    for reader in &history.readers {
        contents(history, reader, verdict);
        order(history, reader, verdict);
        match reader.kind {
            ReaderKind::Cursor | ReaderKind::Repaired if reader.whole => completeness(history, reader, verdict),
            ReaderKind::Piece => piece(history, reader, verdict),
            _ => {}
        }
    }
}

fn contents(history: &History, reader: &Reader, verdict: &mut Verdict) {
    for got in &reader.got {
        match entry(history, got.seq) {
            None => verdict.add(What::Phantom, || format!("{}: seq {}", reader.name, got.seq)),
            Some(entry) if entry.hash != got.hash => {
                verdict.add(What::BytesDiffer, || format!("{}: seq {}", reader.name, got.seq));
            }
            Some(_) => {}
        }
    }
}

/// By cursor the order is the log's; live it is each room's, since every room is a subscription of its own.
fn order(history: &History, reader: &Reader, verdict: &mut Verdict) {
    let one = Name::from("");
    let mut last: HashMap<&Name, u64> = HashMap::new();
    let mut seen = HashSet::with_capacity(reader.got.len());
    for got in &reader.got {
        let lane = match reader.kind {
            ReaderKind::Cursor | ReaderKind::Piece => &one,
            ReaderKind::Repaired | ReaderKind::Live => match entry(history, got.seq) {
                Some(entry) => &entry.room,
                None => continue,
            },
        };
        if !seen.insert(got.seq) {
            verdict.add(What::DeliveredTwice, || {
                format!("{}: seq {} again at {} ms", reader.name, got.seq, got.at)
            });
            continue;
        }
        let before = last.insert(lane, got.seq).unwrap_or_default();
        if got.seq < before {
            verdict.add(What::DeliveredOutOfOrder, || {
                format!("{}: seq {} behind seq {before} at {} ms", reader.name, got.seq, got.at)
            });
        }
    }
}

fn completeness(history: &History, reader: &Reader, verdict: &mut Verdict) {
    let first = reader.got.iter().map(|got| got.seq).min();
    let since = reader.since.or(first.map(|first| first - 1)).unwrap_or_default();
    let got: HashSet<u64> = reader.got.iter().map(|got| got.seq).collect();
    let wanted = history
        .log
        .iter()
        .filter(|entry| entry.seq > since && reader.rooms.contains(&entry.room));
    for entry in wanted.filter(|entry| !got.contains(&entry.seq)) {
        verdict.add(What::Missed, || {
            format!(
                "{}: seq {}, n {} of room {}",
                reader.name, entry.seq, entry.n, entry.room
            )
        });
    }
}

/// What follows each other in ROOMS follows each other in the log.
fn piece(history: &History, reader: &Reader, verdict: &mut Verdict) {
    let place = |seq: u64| history.log.binary_search_by_key(&seq, |entry| entry.seq).ok();
    for (before, after) in reader.got.iter().zip(reader.got.iter().skip(1)) {
        let (Some(first), Some(second)) = (place(before.seq), place(after.seq)) else {
            continue;
        };
        if second != first + 1 {
            verdict.add(What::RoomsDiffer, || {
                format!(
                    "{}: behind seq {} came seq {} at {} ms, {first} and {second} in the log",
                    reader.name, before.seq, after.seq, after.at
                )
            });
        }
    }
}
