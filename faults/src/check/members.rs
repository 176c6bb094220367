use std::collections::{BTreeSet, HashMap};

use super::{Verdict, What, entry};
use crate::history::{Change, History, Ms, Name, Outcome};

/// How long what was on its way to the client before the answer may lie in the client's own buffers, on a busy machine.
const ON_ITS_WAY: Ms = 1000;
/// The codes by which a stranger is refused.
const AS_A_STRANGER: [&str; 2] = ["not-found", "forbidden"];

/// What memberships mean for writing and reading (I6), and that nobody is judged by a state older than an answer.
pub(super) fn check(history: &History, verdict: &mut Verdict) {
    writes(history, verdict);
    let mut changes: Vec<&Change> = history.changes.iter().collect();
    changes.sort_by_key(|change| change.from);
    for (at, change) in changes.iter().enumerate() {
        let next = changes
            .iter()
            .skip(at + 1)
            .find(|next| next.user == change.user && next.room == change.room);
        let until = next.map_or(Ms::MAX, |next| next.from);
        if change.member {
            refusals(history, change, until, verdict);
        } else if change.done {
            hearing(history, change, until, verdict);
        }
    }
}

fn writes(history: &History, verdict: &mut Verdict) {
    let mut removed: HashMap<(&Name, &Name), u64> = HashMap::new();
    for entry in &history.log {
        if let Some(since) = removed.get(&(&entry.from, &entry.room)) {
            verdict.add(What::WroteAfterRemoval, || {
                format!(
                    "{} was removed from {} at seq {since}, and wrote seq {}",
                    entry.from, entry.room, entry.seq
                )
            });
        }
        match &entry.member {
            Some((user, true)) => drop(removed.remove(&(user, &entry.room))),
            Some((user, false)) => drop(removed.insert((user, &entry.room), entry.seq)),
            None => {}
        }
    }
}

/// From the answer `done` to the next change, the user hears nothing of the room that stands behind the removal.
fn hearing(history: &History, removal: &Change, until: Ms, verdict: &mut Verdict) {
    let Some(seq) = removal.seq else { return };
    let readers = history.readers.iter().filter(|reader| reader.user == removal.user);
    for reader in readers {
        let later = reader
            .got
            .iter()
            .filter(|got| got.seq > seq && got.at > removal.to + ON_ITS_WAY && got.at < until);
        for got in later.filter(|got| entry(history, got.seq).is_some_and(|entry| entry.room == removal.room)) {
            verdict.add(What::HeardAfterRemoval, || {
                format!(
                    "{} heard seq {} at {} ms; removed at seq {seq}, done at {} ms",
                    reader.name, got.seq, got.at, removal.to
                )
            });
        }
    }
}

/// From the answer that somebody is a member to the next change, the writer does not take the user for a stranger.
fn refusals(history: &History, grant: &Change, until: Ms, verdict: &mut Verdict) {
    if grant.seq.is_none() {
        return;
    }
    let codes: BTreeSet<&str> = AS_A_STRANGER.into();
    let theirs = history
        .sends
        .iter()
        .filter(|send| send.user == grant.user && send.room == grant.room);
    for send in theirs.filter(|send| send.from >= grant.to && send.to < until) {
        let Outcome::Failed(code) = &send.outcome else { continue };
        if codes.contains(code.as_str()) {
            verdict.add(What::WronglyRefused, || {
                format!(
                    "{} key {} was refused ({code}) at {} ms; a member of {} since {} ms",
                    send.user, send.key, send.to, send.room, grant.to
                )
            });
        }
    }
}
