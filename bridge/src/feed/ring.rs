use std::collections::VecDeque;

use bytes::Bytes;
use natterjack_nats_config::contract::{EventHead, EventLine, Seq};

/// What an entry costs beyond its bytes: two ids and its place here.
const ENTRY_OVERHEAD: usize = 256;

/// An event as readers need it: its bytes are handed on as they came.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) head: EventHead,
    pub(crate) bytes: Bytes,
}

/// The most recent events of the log, in order, bounded in bytes and in number.
pub(crate) struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    floor: Seq,
    max_bytes: usize,
    max_events: usize,
}

impl Ring {
    pub(crate) fn new(max_bytes: usize, max_events: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            floor: Seq::ZERO,
            max_bytes,
            max_events,
        }
    }

    /// Forgets everything: what comes next follows `floor`.
    pub(crate) fn begin_at(&mut self, floor: Seq) {
        self.entries.clear();
        (self.bytes, self.floor) = (0, floor);
    }

    /// Takes in the log's next event, and lets the oldest go where there is no room.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.bytes += cost(&entry);
        self.entries.push_back(entry);
        while self.bytes > self.max_bytes || self.entries.len() > self.max_events {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= cost(&oldest);
            self.floor = oldest.head.seq;
        }
    }

    /// The events here, and what they take in bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    /// Every event after this place is here.
    pub(crate) fn floor(&self) -> Seq {
        self.floor
    }

    /// The events after a place; `None` if some of them are not here any more.
    pub(crate) fn after(&self, seq: Seq) -> Option<impl Iterator<Item = &Entry>> {
        let start = self.entries.partition_point(|entry| entry.head.seq <= seq);
        (seq >= self.floor).then(|| self.entries.range(start..))
    }
}

impl Entry {
    pub(crate) fn of(line: &EventLine) -> Self {
        Self {
            head: line.event.head(),
            bytes: line.bytes.clone(),
        }
    }
}

fn cost(entry: &Entry) -> usize {
    entry.bytes.len() + ENTRY_OVERHEAD
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::line;
    use super::*;

    proptest! {
        #[test]
        fn resuming_from_any_place_gives_exactly_what_follows_or_says_that_it_cannot(
            frames in prop::collection::vec(1usize..5, 1..20),
            max_events in 1usize..30,
        ) {
            let mut ring = Ring::new(usize::MAX, max_events);
            let mut seen = Vec::new();
            for (frame, events) in frames.iter().enumerate() {
                for index in 0..*events {
                    let seq = Seq::of(frame as u64 + 1, index);
                    ring.push(Entry::of(&line(seq, "lobby")));
                    seen.push(seq);
                }
            }
            let places = seen.iter().copied().chain([Seq::ZERO, Seq(u64::MAX)]);
            for place in places.chain((0..30).map(Seq::end_of_frame)) {
                let expected: Vec<Seq> = seen.iter().copied().filter(|seq| *seq > place).collect();
                match ring.after(place) {
                    Some(lines) => prop_assert_eq!(lines.map(|entry| entry.head.seq).collect::<Vec<_>>(), expected),
                    None => prop_assert!(expected.len() > max_events.min(seen.len()) || place < ring.floor()),
                }
            }
            prop_assert!(ring.entries.len() <= max_events);
        }
    }

    #[test]
    fn a_ring_that_begins_in_the_middle_does_not_claim_what_came_before() {
        let mut ring = Ring::new(usize::MAX, usize::MAX);
        ring.push(Entry::of(&line(Seq::of(1, 0), "lobby")));
        ring.begin_at(Seq::end_of_frame(7));
        assert!(ring.after(Seq::ZERO).is_none() && ring.after(Seq::of(7, 0)).is_none());
        assert_eq!(ring.after(Seq::end_of_frame(7)).unwrap().count(), 0);
        ring.push(Entry::of(&line(Seq::of(8, 0), "lobby")));
        assert_eq!(ring.after(Seq::end_of_frame(7)).unwrap().count(), 1);
        assert!(ring.after(Seq::of(6, 0)).is_none());
    }

    #[test]
    fn bytes_are_bounded_too() {
        let one = cost(&Entry::of(&line(Seq::of(1, 0), "lobby")));
        let mut ring = Ring::new(3 * one, usize::MAX);
        for frame in 1..=10 {
            ring.push(Entry::of(&line(Seq::of(frame, 0), "lobby")));
        }
        assert!(ring.bytes <= 3 * one);
        assert!(ring.after(Seq::of(1, 0)).is_none());
        assert_eq!(ring.after(ring.floor()).unwrap().count(), ring.entries.len());
    }
}
