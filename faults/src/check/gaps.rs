use std::collections::BTreeMap;

use serde::Serialize;

use super::{Verdict, What};
use crate::history::{Fault, History, Ms};

/// How long behind a fault its effects are counted as its own.
const AFTERMATH: Ms = 10_000;
/// A gap that is longer than this when a fault begins is of the fault before, as far as that one's aftermath goes.
const ALREADY: Ms = 1000;

/// How long nobody got an acknowledgement around the faults of one kind, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Gap {
    /// How often it was injected.
    pub(crate) times: usize,
    pub(crate) shortest_ms: Ms,
    pub(crate) median_ms: Ms,
    pub(crate) longest_ms: Ms,
}

/// The gaps by kind of fault.
pub(crate) fn gaps(history: &History) -> BTreeMap<String, Gap> {
    let mut all: BTreeMap<String, Vec<Ms>> = BTreeMap::new();
    for (fault, longest) in each(history) {
        all.entry(fault.kind.clone()).or_default().push(longest);
    }
    all.into_iter().map(|(kind, gaps)| (kind, Gap::of(gaps))).collect()
}

impl Gap {
    fn of(mut gaps: Vec<Ms>) -> Self {
        gaps.sort_unstable();
        let at = |place: usize| gaps.get(place).copied().unwrap_or_default();
        Self {
            times: gaps.len(),
            shortest_ms: at(0),
            median_ms: at(gaps.len() / 2),
            longest_ms: at(gaps.len().saturating_sub(1)),
        }
    }
}

/// I9 and the times of fail-overs.
pub(super) fn check(history: &History, verdict: &mut Verdict) {
    for (fault, longest) in each(history) {
        if fault.bound.is_some_and(|bound| longest > bound) {
            verdict.add(What::TooLongWithoutAcks, || {
                format!(
                    "{} of {} from {} ms to {} ms: {longest} ms without an acknowledgement, {} ms are allowed",
                    fault.kind,
                    fault.target,
                    fault.from,
                    fault.to,
                    fault.bound.unwrap_or_default()
                )
            });
        }
    }
}

/// Each fault with the longest gap in its time, which ends with that of the next fault or its own aftermath.
fn each(history: &History) -> impl Iterator<Item = (&Fault, Ms)> {
    let faults = &history.faults;
    let begins = move |at: usize| {
        let before = at.checked_sub(1).and_then(|at| faults.get(at));
        let aftermath = before.map_or(0, |before| before.to + AFTERMATH);
        Some(begins(&history.acks, faults.get(at)?.from, aftermath))
    };
    faults.iter().enumerate().map(move |(at, fault)| {
        let next = begins(at + 1).unwrap_or(Ms::MAX);
        let until = next.min(fault.to + AFTERMATH).min(history.load_until);
        let from = begins(at).unwrap_or(fault.from);
        (fault, longest_gap(&history.acks, from, until))
    })
}

/// When the time of a fault begins: with it, or behind a gap that is the one's before, whose aftermath ends at `aftermath`.
fn begins(acks: &[Ms], from: Ms, aftermath: Ms) -> Ms {
    let next = acks.partition_point(|ack| *ack < from);
    let before = next.checked_sub(1).and_then(|last| acks.get(last));
    let first = acks.get(next).copied().unwrap_or(Ms::MAX);
    match before {
        Some(before) if from - before > ALREADY => first.min(aftermath).max(from),
        _ => from,
    }
}

/// The longest time without an ack between `from` and `to`. What lies outside is not counted: it is another fault's.
fn longest_gap(acks: &[Ms], from: Ms, to: Ms) -> Ms {
    let start = acks.partition_point(|ack| *ack < from);
    let mut before = from;
    let mut longest = 0;
    for ack in acks.get(start..).unwrap_or_default() {
        if *ack > to {
            break;
        }
        longest = longest.max(ack - before);
        before = *ack;
    }
    longest.max(to.saturating_sub(before))
}
