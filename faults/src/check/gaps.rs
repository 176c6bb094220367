use std::collections::BTreeMap;

use serde::Serialize;

use super::{Verdict, What};
use crate::history::{Fault, History, Ms};

/// How long behind a fault its effects are counted as its own.
const AFTERMATH: Ms = 10_000;

/// The longest time without acknowledgements around the faults of one kind.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Gap {
    /// How often it was injected.
    pub(crate) times: u64,
    /// Milliseconds.
    pub(crate) longest_ms: Ms,
}

/// The longest gaps by kind of fault.
pub(crate) fn gaps(history: &History) -> BTreeMap<String, Gap> {
    let mut gaps: BTreeMap<String, Gap> = BTreeMap::new();
    for (fault, longest) in each(history) {
        let gap = gaps.entry(fault.kind.clone()).or_default();
        gap.times += 1;
        gap.longest_ms = gap.longest_ms.max(longest);
    }
    gaps
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

/// Each fault with the longest gap that touches the time from its beginning to the next fault, or to the end of its
/// aftermath.
fn each(history: &History) -> impl Iterator<Item = (&Fault, Ms)> {
    let faults = history.faults.iter();
    faults.clone().enumerate().map(|(at, fault)| {
        let next = history.faults.get(at + 1).map_or(Ms::MAX, |next| next.from);
        let until = next.min(fault.to + AFTERMATH).min(history.load_until);
        (fault, longest_gap(&history.acks, fault.from, until))
    })
}

/// The longest gap between neighbours of which the later one lies behind `from` and the earlier one before `to`. What
/// was before `from` is not counted.
fn longest_gap(acks: &[Ms], from: Ms, to: Ms) -> Ms {
    let start = acks.partition_point(|ack| *ack < from);
    let mut before = from;
    let mut longest = 0;
    for ack in acks.get(start..).unwrap_or_default() {
        longest = longest.max(ack - before);
        if *ack > to {
            return longest;
        }
        before = *ack;
    }
    longest.max(to.saturating_sub(before))
}
