use std::collections::{BTreeMap, HashMap, VecDeque};

use natterjack_authz::policy::{Fact, SetHash};
use natterjack_nats_config::contract::{Event, Id, Kind, Seq};
use uuid::Uuid;

/// The latest messages of a room that are remembered: as many as ROOMS keeps, days of a chat among people.
#[cfg(not(test))]
pub(crate) const PER_ROOM: usize = 1000;
/// The messages of all rooms that are remembered: some 80 MB, and a thousand rooms that are full.
#[cfg(not(test))]
pub(crate) const IN_ALL: usize = 1_000_000;

/// Few, so that tests see messages forgotten.
#[cfg(test)]
pub(crate) const PER_ROOM: usize = 4;
#[cfg(test)]
pub(crate) const IN_ALL: usize = 7;

/// How far back a sender's name is looked for, so that its memory is shared: those who speak, speak often.
const NAMES_AMONG: usize = 16;

/// The kind of the latest messages' facts in the state's hash.
const SAID: u8 = 11;

/// Who wrote the latest messages, so that it can be decided who may change them. Of a room the oldest goes when there are
/// [`PER_ROOM`], of all the oldest when there are [`IN_ALL`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recent {
    /// Whether this log's writers remember messages, as far as it was read.
    on: bool,
    rooms: HashMap<Id, HashMap<Id, VecDeque<Said>>>,
    /// Each room's oldest, by its place in the log.
    oldest: BTreeMap<Seq, (Id, Id)>,
    count: usize,
    hash: SetHash,
}

/// What is remembered of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) id: Uuid,
    pub(crate) seq: Seq,
    pub(crate) from: Id,
    pub(crate) deleted: bool,
}

impl Recent {
    /// A writer has begun; `remembers` says whether it is one that remembers messages. Nothing is kept from before one that
    /// does not, so that a worker which begins with that one's checkpoint knows what all others know.
    pub(crate) fn begin_term(&mut self, remembers: bool) {
        if !remembers {
            *self = Self::default();
        }
        self.on = remembers;
    }

    /// Whether messages are remembered.
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Takes in an event of the log.
    pub(crate) fn take_in(&mut self, event: &Event) {
        if !self.on {
            return;
        }
        if event.kind.is_message() {
            // The writer's ids are UUIDs; whatever else there is cannot be changed.
            if let Some(id) = parse(&event.id) {
                let said = Said {
                    id,
                    seq: event.seq,
                    from: event.from.clone(),
                    deleted: false,
                };
                self.put(&event.tenant, &event.room, said);
            }
        } else if event.kind == Kind::Delete
            && let Some(target) = &event.target
        {
            self.mark_deleted(&event.tenant, &event.room, target.seq);
        }
    }

    /// A message of a room by its id, if it is remembered.
    pub(crate) fn find(&self, tenant: &Id, room: &Id, id: &str) -> Option<&Said> {
        let id = parse(id)?;
        let said = self.rooms.get(tenant)?.get(room)?;
        said.iter().rev().find(|said| said.id == id)
    }

    /// All that is remembered, in the order of the rooms' names and of the log.
    pub(crate) fn rooms(&self) -> impl Iterator<Item = (&Id, Vec<(&Id, &VecDeque<Said>)>)> {
        let mut tenants: Vec<_> = self.rooms.iter().collect();
        tenants.sort_unstable_by_key(|(name, _)| *name);
        tenants.into_iter().map(|(tenant, rooms)| {
            let mut rooms: Vec<_> = rooms.iter().collect();
            rooms.sort_unstable_by_key(|(name, _)| *name);
            (tenant, rooms)
        })
    }

    /// A hash of everything that is remembered; none where nothing is.
    pub(crate) fn hash(&self) -> Option<SetHash> {
        self.on.then_some(self.hash)
    }

    /// Puts in a message that is later than all others of its room.
    pub(crate) fn put(&mut self, tenant: &Id, room: &Id, mut said: Said) {
        let of_room = self.rooms.entry(tenant.clone()).or_default();
        if !of_room.contains_key(room) {
            of_room.insert(room.clone(), VecDeque::new());
        }
        let Some(messages) = of_room.get_mut(room) else { return };
        let known = messages.iter().rev().take(NAMES_AMONG);
        if let Some(known) = known.map(|known| &known.from).find(|from| **from == said.from) {
            said.from = known.clone();
        }
        self.hash.add(&said.fact(tenant, room));
        if messages.is_empty() {
            self.oldest.insert(said.seq, (tenant.clone(), room.clone()));
        }
        messages.push_back(said);
        self.count += 1;
        if messages.len() > PER_ROOM {
            self.forget_first(tenant, room);
        }
        if self.count > IN_ALL
            && let Some((tenant, room)) = self.oldest.first_key_value().map(|(_, place)| place.clone())
        {
            self.forget_first(&tenant, &room);
        }
    }

    fn forget_first(&mut self, tenant: &Id, room: &Id) {
        let Some(rooms) = self.rooms.get_mut(tenant) else {
            return;
        };
        let Some(messages) = rooms.get_mut(room) else { return };
        let Some(first) = messages.pop_front() else { return };
        self.hash.remove(&first.fact(tenant, room));
        self.count -= 1;
        let place = self.oldest.remove(&first.seq);
        if let Some(next) = messages.front() {
            let place = place.unwrap_or_else(|| (tenant.clone(), room.clone()));
            self.oldest.insert(next.seq, place);
            return;
        }
        rooms.remove(room);
        if rooms.is_empty() {
            self.rooms.remove(tenant);
        }
    }

    fn mark_deleted(&mut self, tenant: &Id, room: &Id, seq: Seq) {
        let messages = self.rooms.get_mut(tenant).and_then(|rooms| rooms.get_mut(room));
        let Some(messages) = messages else { return };
        let Ok(index) = messages.binary_search_by_key(&seq, |said| said.seq) else {
            return;
        };
        if let Some(said) = messages.get_mut(index) {
            self.hash.remove(&said.fact(tenant, room));
            said.deleted = true;
            self.hash.add(&said.fact(tenant, room));
        }
    }
}

impl Said {
    fn fact(&self, tenant: &Id, room: &Id) -> Fact {
        Fact::new(SAID)
            .text(tenant.as_str())
            .text(room.as_str())
            .bytes(self.id.as_bytes())
            .number(self.seq.0)
            .text(self.from.as_str())
            .number(u64::from(self.deleted))
    }
}

/// Whether it can be the id of an event.
pub(crate) fn is_id(text: &str) -> bool {
    parse(text).is_some()
}

/// An id in the one spelling that the writer gives.
fn parse(id: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(id).ok()?;
    (uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == id).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(seq: u64, room: &str, kind: Kind, target: Option<u64>) -> Event {
        serde_json::from_value(json!({
            "v": 1, "seq": seq, "n": seq, "prev": 0, "id": id_of(seq), "tenant": "main", "room": room, "from": "alice",
            "kind": kind, "at": "2026-11-23T06:00:00.123Z", "body": {},
            "target": target.map(|seq| json!({"id": id_of(seq), "seq": seq})),
        }))
        .unwrap()
    }

    fn id_of(seq: u64) -> String {
        Uuid::from_u128(u128::from(seq)).to_string()
    }

    fn remembered(recent: &Recent, rooms: &[&str], upto: u64) -> Vec<u64> {
        let finds = |seq: &u64| {
            rooms.iter().any(|room| {
                let room = room.parse().unwrap();
                recent.find(&"main".parse().unwrap(), &room, &id_of(*seq)).is_some()
            })
        };
        (1..=upto).filter(finds).collect()
    }

    #[test]
    fn the_oldest_of_a_room_and_of_all_are_forgotten() {
        let mut recent = Recent::default();
        recent.take_in(&event(1, "a", Kind::Msg, None));
        assert_eq!(
            remembered(&recent, &["a"], 1),
            [] as [u64; 0],
            "a log whose writers do not remember"
        );
        recent.begin_term(true);
        for seq in 1..=6 {
            recent.take_in(&event(seq, "a", Kind::Msg, None));
        }
        assert_eq!(remembered(&recent, &["a"], 6), [3, 4, 5, 6]);
        for seq in 7..=9 {
            recent.take_in(&event(seq, "b", Kind::Reply, None));
        }
        assert_eq!(remembered(&recent, &["a", "b"], 9), [3, 4, 5, 6, 7, 8, 9]);
        recent.take_in(&event(10, "c", Kind::Msg, None));
        recent.take_in(&event(11, "c", Kind::Room, None));
        assert_eq!(remembered(&recent, &["a", "b", "c"], 11), [4, 5, 6, 7, 8, 9, 10]);
        for seq in 12..=15 {
            recent.take_in(&event(seq, "c", Kind::Msg, None));
        }
        assert_eq!(remembered(&recent, &["a"], 11), [] as [u64; 0]);
        assert_eq!(remembered(&recent, &["b", "c"], 15), [7, 8, 9, 12, 13, 14, 15]);
        recent.begin_term(false);
        assert_eq!(recent, Recent::default());
    }

    #[test]
    fn the_hash_tells_what_is_remembered() {
        let hash = |events: &[Event]| {
            let mut recent = Recent::default();
            recent.begin_term(true);
            for event in events {
                recent.take_in(event);
            }
            recent.hash().unwrap()
        };
        let said = |seq| event(seq, "a", Kind::Msg, None);
        let deleted = |seq| event(99, "a", Kind::Delete, Some(seq));
        let four = [said(2), said(3), said(4), said(5)];
        let five = [said(1), said(2), said(3), said(4), said(5)];
        assert_eq!(hash(&five), hash(&four), "what was forgotten leaves nothing behind");
        assert_ne!(hash(&[said(2), deleted(2)]), hash(&[said(2)]));
        assert_eq!(hash(&[said(2), deleted(2), deleted(2)]), hash(&[said(2), deleted(2)]));
        assert_eq!(hash(&[said(2), deleted(7)]), hash(&[said(2)]));
        let gone = [said(1), deleted(1), said(2), said(3), said(4), said(5)];
        assert_eq!(hash(&gone), hash(&four));
    }
}
