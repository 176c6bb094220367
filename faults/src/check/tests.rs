use super::*;
use crate::history::{Change, Fault, Got, Line, Ms, Name, Outcome, Page, Reader, ReaderKind, Receipt, Send};

/// Makes a history that keeps every promise: alice and bob in one room, who send in turns; flip is added, sends, is
/// removed (event 6 of 8), and hears nothing of the last two.
fn good() -> History {
    let mut history = History {
        load_until: 100_000,
        ..History::default()
    };
    let events = [
        ("alice", None, None),
        ("alice", None, Some(("flip", true))),
        ("alice", Some("a1"), None),
        ("bob", Some("b1"), None),
        ("flip", Some("f1"), None),
        ("alice", None, Some(("flip", false))),
        ("bob", Some("b2"), None),
        ("alice", Some("a2"), None),
    ];
    for (at, (from, key, member)) in (1_u64..).zip(events) {
        history.log.push(Entry {
            place: at * 1024,
            seq: at * 1024,
            n: at,
            prev: (at - 1) * 1024,
            id: u128::from(at),
            at_ms: i64::try_from(at).unwrap(),
            room: "lobby".into(),
            from: from.into(),
            key: key.map(str::to_owned),
            message: key.is_some(),
            member: member.map(|(user, present)| (user.into(), present)),
            hash: at + 100,
        });
        if let Some(key) = key {
            history.sends.push(send(from, key, Outcome::Ok(receipt(at)), at * 1000));
        }
    }
    history.sends.push(send("bob", "lost", Outcome::Unknown, 9000));
    history
        .sends
        .push(send("flip", "f2", Outcome::Failed("not-found".to_owned()), 9000));
    history.changes.push(change(true, 2));
    history.changes.push(change(false, 6));
    copy(&mut history);
    history.acks = (0..100).map(|at| at * 1000).collect();
    history.faults.push(fault(20_000, 25_000, Some(2000)));
    history
}

/// What readers and the archive have of the log.
fn copy(history: &mut History) {
    let lines: Vec<Line> = history.log.iter().map(|entry| line(entry.seq / 1024)).collect();
    history.archive.clone_from(&lines);
    history.rooms = lines;
    history.pages.push(Page {
        room: "lobby".into(),
        after: 0,
        lines: [3, 4, 5, 7, 8].map(line).to_vec(),
    });
    history.readers = vec![
        reader("alice", ReaderKind::Cursor, true, &[1, 2, 3, 4, 5, 6, 7, 8]),
        reader("bob", ReaderKind::Repaired, true, &[1, 2, 3, 4, 5, 6, 7, 8]),
        reader("bob", ReaderKind::Live, true, &[2, 3, 5, 8]),
        reader("flip", ReaderKind::Cursor, false, &[1, 2, 3, 4, 5, 6]),
        reader("tool", ReaderKind::Piece, true, &[3, 4, 5, 6]),
    ];
}

fn line(at: u64) -> Line {
    Line {
        seq: at * 1024,
        hash: at + 100,
    }
}

fn receipt(at: u64) -> Receipt {
    Receipt {
        seq: at * 1024,
        n: at,
        id: u128::from(at),
        at_ms: i64::try_from(at).unwrap(),
    }
}

fn send(user: &str, key: &str, outcome: Outcome, at: Ms) -> Send {
    Send {
        user: user.into(),
        room: "lobby".into(),
        key: key.to_owned(),
        from: at,
        to: at + 10,
        outcome,
        again: Vec::new(),
    }
}

fn change(member: bool, at: u64) -> Change {
    Change {
        user: "flip".into(),
        room: "lobby".into(),
        member,
        from: at * 1000,
        to: at * 1000 + 10,
        seq: Some(at * 1024),
        done: true,
    }
}

fn reader(user: &str, kind: ReaderKind, whole: bool, events: &[u64]) -> Reader {
    let got = events.iter().map(|at| Got {
        at: at * 1000 + 20,
        seq: at * 1024,
        hash: at + 100,
    });
    Reader {
        name: format!("{user} {kind:?}").into(),
        user: user.into(),
        kind,
        rooms: vec!["lobby".into()],
        since: Some(0),
        whole,
        got: got.collect(),
    }
}

fn got(at: Ms, event: u64) -> Got {
    Got {
        at,
        seq: event * 1024,
        hash: event + 100,
    }
}

fn fault(from: Ms, to: Ms, bound: Option<Ms>) -> Fault {
    Fault {
        kind: "kill-store".to_owned(),
        target: "store-1".to_owned(),
        from,
        to,
        bound,
    }
}

/// The kinds of violations that the checker finds after a change of the good history.
fn found(change: impl FnOnce(&mut History)) -> Vec<What> {
    let mut history = good();
    change(&mut history);
    check(&history).violations.into_keys().collect()
}

#[test]
fn a_good_history_has_no_violation() {
    let verdict = check(&good());
    assert_eq!(verdict.count(), 0, "{verdict:?}");
}

type Break = fn(&mut History);

const BROKEN: &[(What, Break)] = &[
    (What::LostFromLog, |h| {
        h.sends.push(send("bob", "b9", Outcome::Ok(receipt(9)), 1));
    }),
    (What::ReceiptWrong, |h| {
        h.sends[0].outcome = Outcome::Ok(Receipt { id: 77, ..receipt(3) });
    }),
    (What::ReceiptWrong, |h| h.sends[0].outcome = Outcome::Ok(receipt(4))),
    (What::ReceiptWrong, |h| h.sends[0].room = Name::from("other")),
    (What::ReceiptsDiffer, |h| h.sends[0].again.push(receipt(4))),
    (What::WrittenTwice, |h| h.log[6].key = Some("b1".to_owned())),
    (What::RefusedButWritten, |h| {
        h.sends[0].outcome = Outcome::Failed("forbidden".to_owned());
    }),
    (What::FromNowhere, |h| drop(h.sends.remove(0))),
    (What::Misplaced, |h| h.log[3].place += 1),
    (What::Misplaced, |h| h.damage.push("frame 7, line 0".to_owned())),
    (What::NotRecovered, |h| {
        h.not_recovered = Some("no bridge is ready".to_owned());
    }),
    (What::LogOutOfOrder, |h| h.log[3].at_ms = 1),
    (What::LogOutOfOrder, |h| h.log[3].seq = 3 * 1024),
    (What::ChainBroken, |h| h.log[3].n = 5),
    (What::ChainBroken, |h| h.log[3].prev = 1024),
    (What::ChainBroken, |h| drop(h.log.remove(1))),
    (What::Phantom, |h| h.readers[2].got[3].seq = 9 * 1024),
    (What::BytesDiffer, |h| h.readers[2].got[0].hash = 7),
    (What::Missed, |h| _ = h.readers[0].got.remove(4)),
    (What::Missed, |h| _ = h.readers[0].got.pop()),
    (What::Missed, |h| _ = h.readers[1].got.remove(0)),
    (What::DeliveredTwice, |h| h.readers[0].got.push(got(9000, 8))),
    (What::DeliveredTwice, |h| h.readers[2].got.insert(0, got(1000, 8))),
    (What::DeliveredOutOfOrder, |h| h.readers[0].got.swap(2, 3)),
    (What::DeliveredOutOfOrder, |h| h.readers[2].got.swap(2, 3)),
    (What::RoomsDiffer, |h| _ = h.rooms.remove(1)),
    (What::RoomsDiffer, |h| h.rooms.push(line(4))),
    (What::RoomsDiffer, |h| _ = h.rooms.pop()),
    (What::RoomsDiffer, |h| h.rooms.clear()),
    (What::RoomsDiffer, |h| _ = h.readers[4].got.remove(1)),
    (What::RoomsDiffer, |h| h.readers[4].got.swap(1, 2)),
    (What::NotArchived, |h| _ = h.archive.pop()),
    (What::ArchiveDiffers, |h| h.archive.push(line(9))),
    (What::ArchiveDiffers, |h| h.archive[2].hash = 1),
    (What::HistoryDiffers, |h| _ = h.pages[0].lines.pop()),
    (What::HistoryDiffers, |h| h.pages[0].lines[0].hash = 1),
    (What::WroteAfterRemoval, |h| {
        h.log[7].from = Name::from("flip");
        h.sends.push(send("flip", "a2", Outcome::Unknown, 8000));
    }),
    (What::HeardAfterRemoval, |h| h.readers[3].got.push(got(8000, 7))),
    (What::WronglyRefused, |h| {
        let refused = Outcome::Failed("not-found".to_owned());
        h.sends.push(send("flip", "f3", refused, 3000));
    }),
    (What::TooLongWithoutAcks, |h| {
        h.acks.retain(|ack| !(22_000..25_000).contains(ack));
    }),
    (What::TooLongWithoutAcks, |h| h.acks.retain(|ack| *ack < 30_000)),
];

#[test]
fn every_broken_promise_is_named() {
    for (at, (what, change)) in BROKEN.iter().enumerate() {
        let found = found(change);
        assert!(found.contains(what), "case {at}: {what:?} is not among {found:?}");
    }
}

const ALLOWED: &[Break] = &[
    // A live subscriber may miss anything.
    |h| h.readers[2].got.truncate(1),
    // An unknown outcome may have been written.
    |h| h.sends[0].outcome = Outcome::Unknown,
    // The same receipt again.
    |h| h.sends[0].again.push(receipt(3)),
    // Who began somewhere in the middle did not miss what was before.
    |h| {
        h.readers[0].since = None;
        h.readers[0].got.drain(..3);
    },
    // What was on its way when the removal was answered.
    |h| h.readers[3].got.push(got(6500, 7)),
    // A removal that is still pending.
    |h| {
        h.changes[1].done = false;
        h.readers[3].got.push(got(8000, 7));
    },
    // Added again, a member may hear what was said meanwhile.
    |h| {
        h.changes.push(change(true, 9));
        h.readers[3].got.push(got(9500, 7));
    },
    // A stranger again from the moment at which the removal was asked for.
    |h| {
        let refused = Outcome::Failed("not-found".to_owned());
        h.sends.push(send("flip", "f3", refused, 5995));
    },
    // A gap that is no fault's.
    |h| h.acks.retain(|ack| !(50_000..60_000).contains(ack)),
];

#[test]
fn what_is_allowed_is_no_violation() {
    for (at, change) in ALLOWED.iter().enumerate() {
        let found = found(change);
        assert!(found.is_empty(), "case {at}: {found:?}");
    }
}

#[test]
fn gaps_are_measured_by_kind() {
    let mut history = good();
    history.acks.retain(|ack| !(22_000..25_000).contains(ack));
    history.faults.push(fault(60_000, 61_000, None));
    let gaps = gaps(&history);
    let gap = gaps["kill-store"];
    assert_eq!(
        (gap.times, gap.longest_ms),
        (2, 4000),
        "from the ack at 21 s to the one at 25 s"
    );
    history.acks.clear();
    assert_eq!(
        super::gaps(&history)["kill-store"].longest_ms,
        15_000,
        "to the end of the aftermath"
    );
}

#[test]
fn a_gap_is_of_the_fault_in_which_it_began() {
    let first_may = |bound: Option<Ms>, gap: std::ops::Range<Ms>| {
        let mut history = good();
        history.faults = vec![fault(20_000, 24_000, bound), fault(26_000, 27_000, Some(2000))];
        history.acks.retain(|ack| !gap.contains(ack));
        let found = check(&history).violations.contains_key(&What::TooLongWithoutAcks);
        (gaps(&history)["kill-store"].longest_ms, found)
    };
    let longest = |gap| first_may(Some(9000), gap);
    // Nobody got one from 23 s to 32 s: that is the first one's, and whole.
    assert_eq!(longest(24_000..32_000), (9000, false));
    assert_eq!(longest(24_000..33_000), (10_000, true));
    // From 26 s on it is the second one's.
    assert_eq!(longest(27_000..30_000), (4000, true));
    // Behind the first one's aftermath, at 34 s, the second one is asked why nobody gets any.
    assert_eq!(first_may(None, 24_000..100_000), (11_000, true));
}

#[test]
fn only_a_few_examples_are_kept() {
    let mut history = good();
    for _ in 0..20 {
        history.archive.push(line(9));
    }
    let verdict = check(&history);
    let found = &verdict.violations[&What::ArchiveDiffers];
    assert_eq!((found.count, found.examples.len()), (20, EXAMPLES));
}
