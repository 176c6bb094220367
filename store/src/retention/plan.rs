//! What is removed of a room, decided without asking anybody.

use std::collections::HashSet;

use natterjack_nats_config::clock;
use natterjack_nats_config::contract::Kind;

/// A day in milliseconds.
const DAY_MS: i64 = 86_400_000;

/// What grows old: messages, and what changes them. Policy says who may do what, for as long as the log's views are made of it.
pub(super) const AGEING: [Kind; 9] = [
    Kind::Msg,
    Kind::Command,
    Kind::Reply,
    Kind::Edit,
    Kind::Delete,
    Kind::React,
    Kind::Unreact,
    Kind::Pin,
    Kind::Unpin,
];

/// An event of a room, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Aged {
    pub(super) seq: i64,
    pub(super) kind: String,
    pub(super) from: String,
    pub(super) at: String,
    /// The place of the message that it changes.
    pub(super) target: Option<i64>,
}

/// What is done in one step.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// The events that go.
    pub(super) remove: Vec<i64>,
    /// Everything before this place was looked at; none if the first event is too young.
    pub(super) looked: Option<i64>,
}

/// Whether an event of this kind is ever removed because of its age.
pub(super) fn ages(kind: &str) -> bool {
    AGEING.iter().any(|ageing| ageing.as_str() == kind)
}

/// What is older than so many days is removed: the time of the first event that stays, as events tell theirs.
///
/// It is `now` by the wall clock, but no more than a day behind the last event of the log: a clock that jumps ahead must not
/// empty an archive.
pub(super) fn cut(now_ms: i64, last_at_ms: i64, days: u32) -> String {
    let now_ms = now_ms.min(last_at_ms.saturating_add(DAY_MS));
    clock::format_ms(now_ms.saturating_sub(i64::from(days).saturating_mul(DAY_MS)))
}

/// Looks at events that follow each other in a room, in log order, and so in the order of their times. Of their targets those
/// that are `there` are stored still.
///
/// What changes a message stays as long as that does: whoever makes the views anew of what is stored would else show a message
/// that was deleted.
pub(super) fn step(events: &[Aged], cut: &str, held: &HashSet<String>, there: &HashSet<i64>) -> Step {
    let mut step = Step::default();
    let mut gone = HashSet::new();
    for event in events.iter().take_while(|event| event.at.as_str() < cut) {
        let is_needed = event
            .target
            .is_some_and(|target| there.contains(&target) && !gone.contains(&target));
        if ages(&event.kind) && !held.contains(&event.from) && !is_needed {
            step.remove.push(event.seq);
            gone.insert(event.seq);
        }
        step.looked = Some(event.seq + 1);
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: i64, kind: &str, from: &str, at: &str) -> Aged {
        Aged {
            seq,
            kind: kind.to_owned(),
            from: from.to_owned(),
            at: format!("2026-11-{at}T06:00:00.000Z"),
            target: None,
        }
    }

    #[test]
    fn what_is_older_goes_but_for_policy_and_what_is_held() {
        let events = [
            event(1, "room", "alice", "01"),
            event(2, "member", "alice", "01"),
            event(3, "msg", "alice", "02"),
            event(4, "msg", "bob", "03"),
            event(5, "edit", "alice", "10"),
            event(6, "msg", "alice", "11"),
        ];
        let cut = "2026-11-10T06:00:00.000Z";
        let held = HashSet::from(["bob".to_owned()]);
        let table = [
            (cut, &HashSet::new(), vec![3, 4], Some(5)),
            (cut, &held, vec![3], Some(5)),
            ("2026-11-01T06:00:00.000Z", &held, vec![], None),
            ("2027-01-01T00:00:00.000Z", &held, vec![3, 5, 6], Some(7)),
        ];
        for (cut, held, remove, looked) in table {
            assert_eq!(
                step(&events, cut, held, &HashSet::new()),
                Step { remove, looked },
                "{cut}"
            );
        }
    }

    #[test]
    fn what_changes_a_message_stays_as_long_as_that() {
        let of = |target: i64, event: Aged| Aged {
            target: Some(target),
            ..event
        };
        let events = [
            event(3, "msg", "alice", "02"),
            event(4, "msg", "bob", "02"),
            of(3, event(5, "delete", "bob", "03")),
            of(4, event(6, "delete", "bob", "03")),
            of(1, event(7, "react", "bob", "03")),
            of(2, event(8, "edit", "bob", "03")),
        ];
        let cut = "2026-11-10T06:00:00.000Z";
        // Of the two that stand before these, one is there.
        let there = HashSet::from([1, 3, 4]);
        let held = HashSet::from(["alice".to_owned()]);
        assert_eq!(step(&events, cut, &held, &there).remove, [4, 6, 8]);
        assert_eq!(step(&events, cut, &HashSet::new(), &there).remove, [3, 4, 5, 6, 8]);
    }

    #[test]
    fn a_clock_that_runs_ahead_removes_no_more_than_a_day_of_it() {
        let last = clock::parse_ms("2026-11-20T06:00:00.000Z").unwrap();
        assert_eq!(cut(last, last, 7), "2026-11-13T06:00:00.000Z");
        assert_eq!(cut(last + DAY_MS / 2, last, 7), "2026-11-13T18:00:00.000Z");
        assert_eq!(cut(last + 1000 * DAY_MS, last, 7), "2026-11-14T06:00:00.000Z");
    }
}
