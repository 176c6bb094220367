use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use natterjack_nats_config::contract::Fault;

/// What one copy holds of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrameRead {
    /// Of headers and bytes.
    pub(crate) digest: [u8; 32],
    /// The hash of each event that the archive must have.
    pub(crate) events: Vec<Hashed>,
    /// What is left of those that are erased, which the archive may have instead.
    pub(crate) left: Vec<Hashed>,
}

/// An event's place and the hash of its bytes.
pub(crate) type Hashed = (i64, Vec<u8>);
/// The frames that one copy holds, by their stream sequence.
pub(crate) type Copy = BTreeMap<u64, FrameRead>;
/// What the archive has of each frame, in order.
pub(crate) type Witness = HashMap<u64, Vec<Hashed>>;

/// What is wrong with one copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Faulty {
    pub(crate) server: String,
    /// The first frame that is wrong, and how.
    pub(crate) frame: u64,
    pub(crate) what: Fault,
    /// How many are.
    pub(crate) frames: u64,
}

/// The copies that are wrong in a range of frames, which the archive has as a whole.
pub(crate) fn faults(range: RangeInclusive<u64>, copies: &[(String, Copy)], witness: &Witness) -> Vec<Faulty> {
    let mut faulty: Vec<Faulty> = Vec::new();
    for frame in range {
        let usual = usual(frame, copies);
        let archived = witness.get(&frame).map(Vec::as_slice).unwrap_or_default();
        for (server, copy) in copies {
            let Some(what) = fault(copy.get(&frame), archived, usual) else {
                continue;
            };
            match faulty.iter_mut().find(|faulty| faulty.server == *server) {
                Some(known) => known.frames += 1,
                None => faulty.push(Faulty {
                    server: server.clone(),
                    frame,
                    what,
                    frames: 1,
                }),
            }
        }
    }
    faulty
}

/// The one copy that may be made anew: the others are all there, at least two, and nothing is wrong with them.
pub(crate) fn mendable(faulty: &[Faulty], copies: usize, wanted: usize) -> Option<&Faulty> {
    match faulty {
        [one] if copies == wanted && wanted >= 3 => Some(one),
        _ => None,
    }
}

fn fault(read: Option<&FrameRead>, archived: &[Hashed], usual: Option<[u8; 32]>) -> Option<Fault> {
    let Some(read) = read else { return Some(Fault::Missing) };
    if !is_archived(read, archived) {
        return Some(Fault::NotTheArchives);
    }
    let differs = usual.is_some_and(|usual| usual != read.digest);
    differs.then_some(Fault::NotTheOthers)
}

/// Whether the archive has what a copy holds, or what is left of it.
fn is_archived(read: &FrameRead, archived: &[Hashed]) -> bool {
    let mut pairs = read.events.iter().zip(archived);
    read.events.len() == archived.len()
        && pairs.all(|(event, archived)| event == archived || (event.0 == archived.0 && read.left.contains(archived)))
}

/// What at least two copies agree on.
fn usual(frame: u64, copies: &[(String, Copy)]) -> Option<[u8; 32]> {
    let digests: Vec<_> = copies
        .iter()
        .filter_map(|(_, copy)| Some(copy.get(&frame)?.digest))
        .collect();
    digests
        .iter()
        .find(|one| digests.iter().filter(|other| other == one).count() >= 2)
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: u8, events: &[u8]) -> FrameRead {
        FrameRead {
            digest: [text; 32],
            events: hashed(events),
            left: Vec::new(),
        }
    }

    fn hashed(events: &[u8]) -> Vec<Hashed> {
        events.iter().map(|event| (i64::from(*event), vec![*event])).collect()
    }

    /// Frames 1 to 3: one event, none (a `leader` frame), two.
    fn good() -> Copy {
        BTreeMap::from([(1, read(1, &[1])), (2, read(2, &[])), (3, read(3, &[2, 3]))])
    }

    fn witness() -> Witness {
        HashMap::from([(1, hashed(&[1])), (3, hashed(&[2, 3]))])
    }

    fn check(third: Copy, expected: Option<(u64, Fault, u64)>) {
        let copies = [("n1", good()), ("n2", good()), ("n3", third)].map(|(name, copy)| (name.to_owned(), copy));
        let faulty = faults(1..=3, &copies, &witness());
        let found = faulty.first().map(|one| (one.frame, one.what, one.frames));
        assert_eq!(found, expected);
        assert_eq!(faulty.len(), usize::from(expected.is_some()));
        assert_eq!(
            mendable(&faulty, 3, 3).map(|one| one.server.as_str()),
            expected.map(|_| "n3")
        );
        assert!(
            mendable(&faulty, 2, 3).is_none(),
            "a copy that is away might be the only good one"
        );
    }

    #[test]
    fn a_copy_is_measured_by_the_archive_and_by_the_others() {
        let with = |frame: u64, other: Option<FrameRead>| {
            let mut copy = good();
            match other {
                Some(other) => copy.insert(frame, other),
                None => copy.remove(&frame),
            };
            copy
        };
        check(good(), None);
        check(with(1, None), Some((1, Fault::Missing, 1)));
        check(with(2, None), Some((2, Fault::Missing, 1)));
        check(with(3, Some(read(9, &[2]))), Some((3, Fault::NotTheArchives, 1)));
        check(with(2, Some(read(9, &[7]))), Some((2, Fault::NotTheArchives, 1)));
        check(with(1, Some(read(9, &[1]))), Some((1, Fault::NotTheOthers, 1)));
        check(Copy::new(), Some((1, Fault::Missing, 3)));
    }

    #[test]
    fn nothing_is_mended_where_most_are_wrong_or_there_is_one() {
        let alone = [("n1".to_owned(), Copy::new())];
        let faulty = faults(1..=3, &alone, &witness());
        assert_eq!((faulty.len(), mendable(&faulty, 1, 1)), (1, None));
        let copies = [("n1", good()), ("n2", Copy::new()), ("n3", Copy::new())];
        let copies = copies.map(|(name, copy)| (name.to_owned(), copy));
        let faulty = faults(1..=3, &copies, &witness());
        assert_eq!((faulty.len(), mendable(&faulty, 3, 3)), (2, None));
    }
}
