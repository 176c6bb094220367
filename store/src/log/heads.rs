use std::collections::HashMap;
use std::time::Duration;

use natterjack_nats_config::contract::{Event, Head, Id, RoomHead};
use tokio::time::Instant;

/// How often heads are told. One is told when it is at least that old, so that whoever has not heard its event by then has
/// missed it.
const EVERY: Duration = Duration::from_secs(2);

/// Where rooms stand that changed lately: told some seconds later to those who hear their events at most once.
pub(crate) struct Heads {
    fresh: HashMap<(Id, Id), Head>,
    ripe: HashMap<(Id, Id), Head>,
    due: Instant,
}

impl Heads {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            fresh: HashMap::new(),
            ripe: HashMap::new(),
            due: now,
        }
    }

    /// An event was handed to its room.
    pub(crate) fn note(&mut self, event: &Event, now: Instant) {
        if self.fresh.is_empty() && self.ripe.is_empty() {
            self.due = now + EVERY;
        }
        let head = Head {
            seq: event.seq,
            n: event.n,
        };
        self.fresh.insert((event.tenant.clone(), event.room.clone()), head);
    }

    /// When there is something to do next, if ever.
    pub(crate) fn due(&self) -> Option<Instant> {
        (!self.fresh.is_empty() || !self.ripe.is_empty()).then_some(self.due)
    }

    /// The heads to tell now.
    pub(crate) fn take(&mut self, now: Instant) -> impl Iterator<Item = RoomHead> + use<> {
        self.due = now + EVERY;
        let ripe = std::mem::replace(&mut self.ripe, std::mem::take(&mut self.fresh));
        ripe.into_iter().map(|((tenant, room), head)| RoomHead {
            v: 1,
            tenant,
            room,
            head,
        })
    }
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::{Kind, Seq};
    use serde_json::value::RawValue;

    use super::*;

    fn event(room: &str, n: u64) -> Event {
        Event {
            v: 1,
            seq: Seq(n << 10),
            n,
            prev: Seq::ZERO,
            id: n.to_string(),
            tenant: "main".parse().unwrap(),
            room: room.parse().unwrap(),
            from: "alice".parse().unwrap(),
            via: None,
            kind: Kind::Msg,
            at: "2026-11-23T06:00:00.123Z".to_owned(),
            key: None,
            reply_to: None,
            target: None,
            body: RawValue::NULL.to_owned(),
            erased: None,
        }
    }

    #[test]
    fn a_rooms_last_head_is_told_once_and_never_before_its_events_could_be_heard() {
        let start = Instant::now();
        let mut heads = Heads::new(start);
        let told = |heads: &mut Heads| -> Vec<(String, u64)> {
            let due = heads.due().unwrap();
            let mut told: Vec<_> = heads
                .take(due)
                .map(|head| (head.room.to_string(), head.head.n))
                .collect();
            told.sort();
            told
        };
        assert_eq!(heads.due(), None);
        for (room, n) in [("lobby", 1), ("lobby", 2), ("garden", 1)] {
            heads.note(&event(room, n), start);
        }
        assert_eq!(heads.due(), Some(start + EVERY));
        assert_eq!(told(&mut heads), Vec::new());
        heads.note(&event("lobby", 3), start + EVERY);
        assert_eq!(told(&mut heads), [("garden".to_owned(), 1), ("lobby".to_owned(), 2)]);
        assert_eq!(told(&mut heads), [("lobby".to_owned(), 3)]);
        assert_eq!(heads.due(), None);
    }
}
