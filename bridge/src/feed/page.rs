use std::borrow::Cow;
use std::ops::ControlFlow;

use bytes::Bytes;
use natterjack_authz::policy::{View, visible};
use natterjack_nats_config::contract::Seq;

use super::ring::Entry;
use super::{Heard, Reader};

/// The events that one answer carries, gathered in log order from the ring or from the log.
#[derive(Debug)]
pub(crate) struct Page {
    /// The events' places and own bytes.
    pub(crate) events: Vec<(Seq, Bytes)>,
    /// What is not kept and was told meanwhile.
    pub(crate) told: Vec<Bytes>,
    /// Up to where the reader has heard that.
    pub(crate) heard: Heard,
    /// Everything up to here was looked at.
    pub(crate) seq: Seq,
    /// Whether a limit was reached before the end.
    pub(crate) more: bool,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

impl Page {
    pub(crate) fn new(seq: Seq, max_events: usize, max_bytes: usize) -> Self {
        Self {
            events: Vec::new(),
            told: Vec::new(),
            heard: Heard::default(),
            seq,
            more: false,
            bytes: 0,
            max_events,
            max_bytes,
        }
    }

    /// Whether there is something to tell.
    pub(crate) fn is_worth_an_answer(&self) -> bool {
        self.more || !self.events.is_empty() || !self.told.is_empty()
    }

    /// Looks at the log's next event. `Break`: it did not fit, the page is full.
    ///
    /// Delivered is what the reader may see by the rights of now, so a room that was taken away ends with its `member`
    /// event. A page holds at least one event, however large.
    pub(crate) fn offer(&mut self, view: &View, reader: &Reader, entry: &Entry) -> ControlFlow<()> {
        let Entry { head: event, bytes } = entry;
        if event.seq <= self.seq {
            return ControlFlow::Continue(());
        }
        if (reader.filter.admits(&event.room) || event.for_all) && visible(view, &reader.who, event) {
            let bytes = match view.without_erased(event, bytes) {
                Cow::Borrowed(_) => bytes.clone(),
                Cow::Owned(left) => Bytes::from(left),
            };
            let too_large = !self.events.is_empty() && self.bytes + bytes.len() > self.max_bytes;
            if self.events.len() >= self.max_events || too_large {
                self.more = true;
                return ControlFlow::Break(());
            }
            self.bytes += bytes.len() + 1;
            self.events.push((event.seq, bytes));
        }
        self.seq = event.seq;
        ControlFlow::Continue(())
    }

    /// Notes that there is nothing else up to `seq`.
    pub(crate) fn pass(&mut self, seq: Seq) {
        self.seq = self.seq.max(seq);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{line, member_line, room_line};
    use super::*;
    use natterjack_nats_config::contract::{EventLine, Principal};

    fn reader(user: &str, rooms: &[&str]) -> Reader {
        Reader {
            who: Principal {
                tenant: "main".parse().unwrap(),
                user: user.parse().unwrap(),
            },
            filter: rooms.iter().map(|room| room.parse().unwrap()).collect(),
        }
    }

    /// The log of a room from which bob is taken away at 5.
    fn log() -> Vec<EventLine> {
        vec![
            room_line(Seq(1), "lobby"),
            member_line(Seq(2), "lobby", "alice", Some("owner")),
            member_line(Seq(3), "lobby", "bob", Some("member")),
            line(Seq(4), "lobby"),
            member_line(Seq(5), "lobby", "bob", None),
            line(Seq(6), "lobby"),
        ]
    }

    fn read(reader: &Reader, from: u64, view_at: u64, max: (usize, usize)) -> (Vec<u64>, u64, bool) {
        let (log, mut view) = (log(), View::default());
        for line in log.iter().filter(|line| line.event.seq <= Seq(view_at)) {
            view.apply(&line.event);
        }
        let mut page = Page::new(Seq(from), max.0, max.1);
        for line in &log {
            if page.offer(&view, reader, &Entry::of(line)).is_break() {
                break;
            }
        }
        let seqs = page.events.iter().map(|(seq, bytes)| {
            let event: natterjack_nats_config::Event = serde_json::from_slice(bytes).unwrap();
            assert_eq!(event.seq, *seq);
            seq.0
        });
        (seqs.collect(), page.seq.0, page.more)
    }

    #[test]
    fn a_page_holds_what_the_reader_may_see_now() {
        let all = (100, 1 << 20);
        let check =
            |name: &str, reader: &Reader, (from, view_at, max): (u64, u64, _), expected: (&[u64], u64, bool)| {
                let (seqs, seq, more) = read(reader, from, view_at, max);
                assert_eq!((seqs.as_slice(), seq, more), expected, "{name}");
            };
        let (alice, bob) = (reader("alice", &[]), reader("bob", &[]));
        check("alice sees all", &alice, (0, 6, all), (&[1, 2, 3, 4, 5, 6], 6, false));
        check("from a place", &alice, (4, 6, all), (&[5, 6], 6, false));
        check(
            "bob, removed: his own membership only",
            &bob,
            (0, 6, all),
            (&[3, 5], 6, false),
        );
        check("bob, before that", &bob, (3, 4, all), (&[4, 5, 6], 6, false));
        check(
            "erin, never a member",
            &reader("erin", &[]),
            (0, 6, all),
            (&[], 6, false),
        );
        check(
            "another room only",
            &reader("alice", &["garden"]),
            (0, 6, all),
            (&[], 6, false),
        );
        check(
            "two at a time",
            &reader("alice", &["lobby"]),
            (0, 6, (2, 1 << 20)),
            (&[1, 2], 2, true),
        );
        check("at least one", &alice, (3, 6, (100, 1)), (&[4], 4, true));
    }
}
