use std::collections::BTreeSet;

use natterjack_nats_config::contract::{Id, Principal};

/// Which rooms a reader asked for; all of theirs when none is named.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Filter(BTreeSet<Id>);

/// Who reads, and what they asked for.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) who: Principal,
    pub(crate) filter: Filter,
}

impl Filter {
    /// The one room that is wanted, if it is one.
    pub(crate) fn only_room(&self) -> Option<&Id> {
        let mut rooms = self.rooms();
        rooms.next().filter(|_| rooms.next().is_none())
    }

    /// Whether every room is meant.
    pub(crate) fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether events of this room are meant.
    pub(crate) fn admits(&self, room: &Id) -> bool {
        self.0.is_empty() || self.0.contains(room)
    }

    /// The rooms that were named, in the order of their names.
    pub(crate) fn rooms(&self) -> impl Iterator<Item = &Id> {
        self.0.iter()
    }
}

impl FromIterator<Id> for Filter {
    fn from_iter<I: IntoIterator<Item = Id>>(rooms: I) -> Self {
        Self(rooms.into_iter().collect())
    }
}
