use std::collections::{BTreeMap, HashMap, HashSet};

use natterjack_nats_config::contract::{EventHead, Id, Principal};

/// Who waits for what: room → parked polls, and user → parked polls. `W` is what wakes one.
pub(crate) struct Index<W> {
    last: u64,
    parked: HashMap<u64, Entry>,
    rooms: HashMap<(Id, Id), BTreeMap<u64, W>>,
    readers: HashMap<Principal, BTreeMap<u64, W>>,
}

struct Entry {
    who: Principal,
    rooms: Vec<Id>,
}

impl<W> Default for Index<W> {
    fn default() -> Self {
        Self {
            last: 0,
            parked: HashMap::new(),
            rooms: HashMap::new(),
            readers: HashMap::new(),
        }
    }
}

impl<W: Clone> Index<W> {
    /// Parks a poll that waits for these rooms' events and for what concerns its user. The number takes it out again;
    /// greater numbers are younger polls.
    pub(crate) fn park(&mut self, who: &Principal, rooms: Vec<Id>, waiter: &W) -> u64 {
        self.last += 1;
        for room in &rooms {
            let place = (who.tenant.clone(), room.clone());
            self.rooms.entry(place).or_default().insert(self.last, waiter.clone());
        }
        self.readers
            .entry(who.clone())
            .or_default()
            .insert(self.last, waiter.clone());
        self.parked.insert(
            self.last,
            Entry {
                who: who.clone(),
                rooms,
            },
        );
        self.last
    }

    /// How many are parked.
    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Takes a poll out.
    pub(crate) fn leave(&mut self, number: u64) {
        let Some(Entry { who, rooms }) = self.parked.remove(&number) else {
            return;
        };
        for room in rooms {
            take_out(&mut self.rooms, &(who.tenant.clone(), room), number);
        }
        take_out(&mut self.readers, &who, number);
    }

    /// A principal's oldest poll, if more than `cap` of theirs are parked.
    pub(crate) fn oldest_beyond(&self, who: &Principal, cap: usize) -> Option<W> {
        let theirs = self.readers.get(who)?;
        (theirs.len() > cap).then(|| theirs.values().next().cloned()).flatten()
    }

    /// Shows everyone who waits for this room's events.
    pub(crate) fn listening(&self, place: &(Id, Id), mut wake: impl FnMut(&W)) {
        self.rooms
            .get(place)
            .into_iter()
            .flat_map(BTreeMap::values)
            .for_each(&mut wake);
    }

    /// Shows everyone of a tenant.
    pub(crate) fn everybody_of(&self, tenant: &Id, mut wake: impl FnMut(&W)) {
        let theirs = self.readers.iter().filter(|(who, _)| who.tenant == *tenant);
        theirs.flat_map(|(_, waiters)| waiters.values()).for_each(&mut wake);
    }

    /// Shows everyone whom these events concern, each room's readers once.
    pub(crate) fn concerned<'a>(&self, events: impl Iterator<Item = &'a EventHead>, mut wake: impl FnMut(&W)) {
        let mut seen = HashSet::new();
        for event in events {
            let place = (event.tenant.clone(), event.room.clone());
            if let Some(user) = event.concerns.clone() {
                let who = Principal {
                    tenant: event.tenant.clone(),
                    user,
                };
                self.readers
                    .get(&who)
                    .into_iter()
                    .flat_map(BTreeMap::values)
                    .for_each(&mut wake);
            }
            if self.rooms.contains_key(&place) && !seen.contains(&place) {
                self.listening(&place, &mut wake);
                seen.insert(place);
            }
        }
    }
}

fn take_out<K: std::hash::Hash + Eq, W>(from: &mut HashMap<K, BTreeMap<u64, W>>, key: &K, number: u64) {
    if let Some(waiters) = from.get_mut(key) {
        waiters.remove(&number);
        if waiters.is_empty() {
            from.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{line, member_line};
    use super::*;
    use natterjack_nats_config::contract::{EventLine, Seq};

    fn who(user: &str) -> Principal {
        Principal {
            tenant: "main".parse().unwrap(),
            user: user.parse().unwrap(),
        }
    }

    fn rooms(names: &[&str]) -> Vec<Id> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn woken(index: &Index<&'static str>, lines: &[EventLine]) -> Vec<&'static str> {
        let mut woken = Vec::new();
        let heads: Vec<_> = lines.iter().map(|line| line.event.head()).collect();
        index.concerned(heads.iter(), |waiter| woken.push(*waiter));
        woken.sort_unstable();
        woken
    }

    #[test]
    fn an_event_wakes_only_those_concerned() {
        let mut index = Index::default();
        index.park(&who("alice"), rooms(&["lobby", "garden"]), &"alice");
        let bob = index.park(&who("bob"), rooms(&["lobby"]), &"bob");
        index.park(&who("carol"), Vec::new(), &"carol");
        let stranger = Principal {
            tenant: "other".parse().unwrap(),
            user: "alice".parse().unwrap(),
        };
        index.park(&stranger, rooms(&["lobby"]), &"stranger");

        assert_eq!(woken(&index, &[line(Seq(1), "lobby")]), ["alice", "bob"]);
        assert_eq!(
            woken(&index, &[line(Seq(1), "lobby"), line(Seq(2), "lobby")]),
            ["alice", "bob"]
        );
        assert_eq!(woken(&index, &[line(Seq(1), "garden")]), ["alice"]);
        assert_eq!(woken(&index, &[line(Seq(1), "cellar")]), [""; 0]);
        assert_eq!(
            woken(&index, &[member_line(Seq(1), "cellar", "carol", Some("member"))]),
            ["carol"]
        );

        index.leave(bob);
        assert_eq!(woken(&index, &[line(Seq(1), "lobby")]), ["alice"]);
    }

    #[test]
    fn whoever_left_leaves_nothing_behind() {
        let mut index = Index::default();
        let numbers: Vec<u64> = (0..5)
            .map(|_| index.park(&who("alice"), rooms(&["lobby"]), &"x"))
            .collect();
        for number in numbers {
            index.leave(number);
            index.leave(number);
        }
        assert!(index.rooms.is_empty() && index.readers.is_empty() && index.parked.is_empty());
    }

    #[test]
    fn the_oldest_of_too_many_is_named() {
        let mut index = Index::default();
        let first = index.park(&who("alice"), Vec::new(), &"first");
        index.park(&who("alice"), Vec::new(), &"second");
        assert_eq!(index.oldest_beyond(&who("alice"), 2), None);
        index.park(&who("alice"), Vec::new(), &"third");
        assert_eq!(index.oldest_beyond(&who("alice"), 2), Some("first"));
        assert_eq!(index.oldest_beyond(&who("bob"), 2), None);
        index.leave(first);
        assert_eq!(index.oldest_beyond(&who("alice"), 2), None);
    }
}
