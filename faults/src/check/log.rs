use std::collections::HashMap;

use natterjack_nats_config::stream::ROOM_EVENTS_KEPT;

use super::{Verdict, What};
use crate::history::{Entry, History, Line, Name, Page};

/// How many events of a room ROOMS holds.
#[expect(clippy::cast_possible_truncation, reason = "it is 1000")]
const KEPT: usize = ROOM_EVENTS_KEPT as usize;

/// The log in itself (I3), and the copies that must equal it (I3 for ROOMS, I4 for archive and history).
pub(super) fn check(history: &History, verdict: &mut Verdict) {
    order(history, verdict);
    chains(history, verdict);
    archive(history, verdict);
    rooms(history, verdict);
    for page in &history.pages {
        page_of_history(history, page, verdict);
    }
}

fn order(history: &History, verdict: &mut Verdict) {
    for damage in &history.damage {
        verdict.add(What::Misplaced, || damage.clone());
    }
    for entry in history.log.iter().filter(|entry| entry.seq != entry.place) {
        verdict.add(What::Misplaced, || {
            format!(
                "seq {} of room {} stands at the place of seq {}",
                entry.seq, entry.room, entry.place
            )
        });
    }
    for (before, after) in history.log.iter().zip(history.log.iter().skip(1)) {
        if after.seq <= before.seq {
            verdict.add(What::LogOutOfOrder, || {
                format!("seq {} stands behind seq {}", after.seq, before.seq)
            });
        }
        if after.at_ms < before.at_ms {
            verdict.add(What::LogOutOfOrder, || {
                format!("the time of seq {} is before that of seq {}", after.seq, before.seq)
            });
        }
    }
}

fn chains(history: &History, verdict: &mut Verdict) {
    let mut heads: HashMap<&Name, (u64, u64)> = HashMap::new();
    for entry in &history.log {
        let (n, seq) = heads.get(&entry.room).copied().unwrap_or_default();
        if (entry.n, entry.prev) != (n + 1, seq) {
            verdict.add(What::ChainBroken, || {
                let Entry { room, seq: own, .. } = entry;
                let (own_n, own_prev) = (entry.n, entry.prev);
                format!("room {room}: seq {own} says n {own_n}, prev {own_prev}; before it stands n {n}, seq {seq}")
            });
        }
        heads.insert(&entry.room, (entry.n, entry.seq));
    }
}

fn archive(history: &History, verdict: &mut Verdict) {
    let mut rows = history.archive.iter().peekable();
    for entry in &history.log {
        while let Some(row) = rows.next_if(|row| row.seq < entry.seq) {
            verdict.add(What::ArchiveDiffers, || {
                format!("the archive has seq {}, the log has not", row.seq)
            });
        }
        match rows.next_if(|row| row.seq == entry.seq) {
            None => verdict.add(What::NotArchived, || {
                format!("seq {} of room {}", entry.seq, entry.room)
            }),
            Some(row) if row.hash != entry.hash => {
                verdict.add(What::ArchiveDiffers, || {
                    format!("seq {} has other bytes in the archive", row.seq)
                });
            }
            Some(_) => {}
        }
    }
    for row in rows {
        verdict.add(What::ArchiveDiffers, || {
            format!("the archive has seq {}, the log has not", row.seq)
        });
    }
}

/// ROOMS keeps the last events of each room: what it holds of one must be the end of the log's.
fn rooms(history: &History, verdict: &mut Verdict) {
    let mut held: HashMap<&Name, Vec<Line>> = HashMap::new();
    for line in &history.rooms {
        match super::entry(history, line.seq) {
            Some(entry) => held.entry(&entry.room).or_default().push(*line),
            None => verdict.add(What::RoomsDiffer, || {
                format!("ROOMS has seq {}, the log has not", line.seq)
            }),
        }
    }
    let mut logged: HashMap<&Name, Vec<Line>> = HashMap::new();
    for Entry { seq, hash, room, .. } in &history.log {
        let line = Line { seq: *seq, hash: *hash };
        logged.entry(room).or_default().push(line);
    }
    for (room, lines) in logged {
        let held = held.remove(room).unwrap_or_default();
        if !lines.ends_with(&held) || held.len() < lines.len().min(KEPT) {
            verdict.add(What::RoomsDiffer, || {
                let difference = first_difference(&lines, &held);
                format!(
                    "room {room}: of {} events ROOMS holds {}, {difference}",
                    lines.len(),
                    held.len()
                )
            });
        }
    }
}

/// Where the end of a list is left, seen from behind.
fn first_difference(lines: &[Line], held: &[Line]) -> String {
    let mut pairs = lines.iter().rev().zip(held.iter().rev());
    match pairs.find(|(line, held)| line != held) {
        Some((line, held)) => format!("seq {} where the log has seq {}", held.seq, line.seq),
        None => "more than the log".to_owned(),
    }
}

fn page_of_history(history: &History, page: &Page, verdict: &mut Verdict) {
    let wanted = history
        .log
        .iter()
        .filter(|entry| entry.message && entry.room == page.room && entry.seq > page.after);
    let wanted: Vec<Line> = wanted
        .map(|entry| Line {
            seq: entry.seq,
            hash: entry.hash,
        })
        .collect();
    if wanted != page.lines {
        verdict.add(What::HistoryDiffers, || {
            let mut pairs = wanted.iter().zip(&page.lines);
            let place = pairs.find(|(wanted, got)| wanted != got).map(|(wanted, _)| wanted.seq);
            format!(
                "room {} behind seq {}: {} messages instead of {}, different from seq {place:?} on",
                page.room,
                page.after,
                page.lines.len(),
                wanted.len()
            )
        });
    }
}
