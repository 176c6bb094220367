use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use natterjack_nats_config::contract::Id;
use tokio::time::Instant;

/// How long what is not kept waits for readers who are between two polls.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// The most of it: a writer lets a sender tell 10 a second.
const MAX_ENTRIES: usize = 2000;
/// The most bytes of it.
const MAX_BYTES: usize = 4 << 20;
/// The most of it in one answer, in number and bytes: so much fits beside a full page of events into 1 MB.
const MAX_ANSWERED: usize = 200;
const MAX_ANSWERED_BYTES: usize = 48 * 1024;

/// Up to where a reader has heard what is not kept: of which bridge, and its how-many-eth. Another bridge's says nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Heard {
    /// A random number of the bridge; 0 is nobody's.
    pub(crate) bridge: u32,
    /// The last one that was looked at.
    pub(crate) number: u32,
}

/// What was told to rooms lately and is not kept (typing, presence, signals): bounded in number, bytes and age.
pub(crate) struct ToldLately {
    bridge: u32,
    last: u32,
    entries: VecDeque<Entry>,
    bytes: usize,
}

struct Entry {
    number: u32,
    at: Instant,
    tenant: Id,
    room: Id,
    bytes: Bytes,
}

impl ToldLately {
    pub(crate) fn new(bridge: u32) -> Self {
        Self {
            bridge: bridge.max(1),
            last: 0,
            entries: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Where somebody stands who has heard everything.
    pub(crate) fn end(&self) -> Heard {
        Heard {
            bridge: self.bridge,
            number: self.last,
        }
    }

    /// Takes in something that was told to a room, and lets go what is too much or too old.
    pub(crate) fn push(&mut self, tenant: Id, room: Id, bytes: Bytes, now: Instant) {
        // After 2^32 of them readers miss some of what nobody keeps.
        self.last = self.last.wrapping_add(1);
        self.bytes += bytes.len();
        self.entries.push_back(Entry {
            number: self.last,
            at: now,
            tenant,
            room,
            bytes,
        });
        while let Some(oldest) = self.entries.front()
            && (self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES || now - oldest.at > KEPT_FOR)
        {
            self.bytes -= oldest.bytes.len();
            self.entries.pop_front();
        }
    }

    /// What a reader has not heard yet and may hear, and where they stand then. Who comes from elsewhere begins now.
    pub(crate) fn after(&self, heard: Heard, now: Instant, may_hear: impl Fn(&Id, &Id) -> bool) -> (Vec<Bytes>, Heard) {
        let mut end = self.end();
        if heard.bridge != self.bridge {
            return (Vec::new(), end);
        }
        let mut told = Vec::new();
        let mut bytes = 0;
        let fresh = |entry: &&Entry| entry.number > heard.number && now - entry.at <= KEPT_FOR;
        for entry in self.entries.iter().filter(fresh) {
            if !may_hear(&entry.tenant, &entry.room) {
                continue;
            }
            bytes += entry.bytes.len();
            if told.len() == MAX_ANSWERED || bytes > MAX_ANSWERED_BYTES {
                end.number = entry.number - 1;
                break;
            }
            told.push(entry.bytes.clone());
        }
        (told, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        text.parse().unwrap()
    }

    fn texts(told: &[Bytes]) -> Vec<&str> {
        told.iter().map(|bytes| std::str::from_utf8(bytes).unwrap()).collect()
    }

    #[test]
    fn each_is_heard_once_by_who_may_and_by_nobody_from_elsewhere() {
        let now = Instant::now();
        let mut lately = ToldLately::new(7);
        let start = lately.end();
        for (room, text) in [("lobby", "a"), ("cellar", "b"), ("lobby", "c")] {
            lately.push(id("main"), id(room), Bytes::from_static(text.as_bytes()), now);
        }
        let may_hear = |_: &Id, room: &Id| room.as_str() == "lobby";
        let (told, heard) = lately.after(start, now, may_hear);
        assert_eq!((texts(&told), heard), (vec!["a", "c"], lately.end()));
        assert_eq!(lately.after(heard, now, may_hear).0, Vec::<Bytes>::new());
        let elsewhere = Heard { bridge: 8, number: 0 };
        assert_eq!(lately.after(elsewhere, now, may_hear), (Vec::new(), lately.end()));
        assert_eq!(lately.after(start, now + KEPT_FOR * 2, may_hear).0, Vec::<Bytes>::new());
    }

    #[test]
    fn it_is_bounded_and_what_does_not_fit_comes_with_the_next_answer() {
        let now = Instant::now();
        let mut lately = ToldLately::new(7);
        let mut heard = lately.end();
        for _ in 0..3000 {
            lately.push(id("main"), id("lobby"), Bytes::from(vec![b'x'; 1000]), now);
        }
        assert_eq!(lately.entries.len(), MAX_ENTRIES);
        let mut told = 0;
        loop {
            let (some, next) = lately.after(heard, now, |_, _| true);
            if some.is_empty() {
                break;
            }
            assert!(some.len() * 1000 <= MAX_ANSWERED_BYTES);
            told += some.len();
            heard = next;
        }
        assert_eq!(told, MAX_ENTRIES);
        for _ in 0..10 {
            lately.push(id("main"), id("lobby"), Bytes::from(vec![b'x'; 1 << 20]), now);
        }
        assert!(lately.bytes <= MAX_BYTES);
        lately.push(id("main"), id("lobby"), Bytes::from_static(b"x"), now + KEPT_FOR * 2);
        assert_eq!(lately.entries.len(), 1);
    }
}
