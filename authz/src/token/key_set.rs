//! The keys of an issuer over time: which of them are good now. Pure, the time is a parameter.

use std::time::Duration;

use tokio::time::Instant;

use super::key::Key;

/// Keys as they were last fetched, and those that were withdrawn a short while ago.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<Held>,
    /// When the set was last got, whole.
    confirmed: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    key: Key,
    /// Since when it is missing in the newest set.
    gone: Option<Instant>,
}

/// How long keys are good.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetimes {
    /// A key that was withdrawn, since then.
    pub(super) grace: Duration,
    /// All of them while the set cannot be fetched, since it last could.
    pub(super) stale: Duration,
}

impl KeySet {
    /// Takes a new set, asked for at a time. What is missing in it is withdrawn since then.
    pub(super) fn replace(&mut self, fresh: Vec<Key>, asked: Instant, lifetimes: Lifetimes) {
        let gone = self.keys.drain(..).filter_map(|held| {
            let since = held.gone.unwrap_or(asked);
            let back = fresh
                .iter()
                .any(|key| key.mark == held.key.mark && key.id == held.key.id);
            let over = asked.duration_since(since) >= lifetimes.grace;
            (!back && !over).then_some(Held {
                key: held.key,
                gone: Some(since),
            })
        });
        let gone: Vec<_> = gone.collect();
        self.keys = fresh.into_iter().map(|key| Held { key, gone: None }).collect();
        self.keys.extend(gone);
        self.confirmed = Some(asked);
    }

    /// The keys that are good at a time; none if the set could not be fetched for too long.
    pub(super) fn good(&self, now: Instant, lifetimes: Lifetimes) -> impl Iterator<Item = &Key> {
        let known = self.is_known(now, lifetimes);
        self.keys
            .iter()
            .filter(move |held| known && held.gone.is_none_or(|gone| now.duration_since(gone) < lifetimes.grace))
            .map(|held| &held.key)
    }

    /// Whether the set was got by a request that began then or later.
    pub(super) fn is_confirmed_since(&self, since: Instant) -> bool {
        self.confirmed.is_some_and(|at| at >= since)
    }

    /// Whether anything can be said about keys at a time.
    pub(super) fn is_known(&self, now: Instant, lifetimes: Lifetimes) -> bool {
        self.confirmed
            .is_some_and(|at| now.duration_since(at) < lifetimes.stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::key::{Algorithm, Material};

    const LIFETIMES: Lifetimes = Lifetimes {
        grace: Duration::from_mins(1),
        stale: Duration::from_hours(1),
    };

    fn key(id: &str, secret: u8) -> Key {
        Key::new(
            Some(id.to_owned()),
            &Material::Secret(vec![secret; 32]),
            &[Algorithm::HS256],
        )
        .unwrap()
    }

    fn names(set: &KeySet, now: Instant) -> Vec<&str> {
        set.good(now, LIFETIMES).filter_map(|key| key.id.as_deref()).collect()
    }

    #[test]
    fn a_withdrawn_key_is_good_for_the_grace_time_and_not_longer() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut set = KeySet::default();
        assert!(names(&set, at(0)).is_empty() && !set.is_known(at(0), LIFETIMES));
        set.replace(vec![key("old", 1)], at(0), LIFETIMES);
        set.replace(vec![key("new", 2)], at(100), LIFETIMES);
        assert_eq!(names(&set, at(159)), ["new", "old"]);
        assert_eq!(names(&set, at(160)), ["new"]);
        // That it is missing again and again does not make its time longer, and one that comes back is good.
        set.replace(vec![key("new", 2)], at(150), LIFETIMES);
        assert_eq!(names(&set, at(160)), ["new"]);
        set.replace(vec![key("new", 2), key("old", 1)], at(155), LIFETIMES);
        assert_eq!(names(&set, at(200)), ["new", "old"]);
    }

    #[test]
    fn a_set_is_confirmed_by_what_was_asked_since_then() {
        let start = Instant::now();
        let mut set = KeySet::default();
        assert!(!set.is_confirmed_since(start));
        set.replace(vec![key("k", 1)], start, LIFETIMES);
        assert!(set.is_confirmed_since(start));
        assert!(!set.is_confirmed_since(start + Duration::from_secs(1)));
    }

    #[test]
    fn another_key_under_the_same_name_is_another_key() {
        let start = Instant::now();
        let mut set = KeySet::default();
        set.replace(vec![key("k", 1)], start, LIFETIMES);
        set.replace(vec![key("k", 2)], start + Duration::from_secs(1), LIFETIMES);
        assert_eq!(names(&set, start + Duration::from_secs(2)), ["k", "k"]);
        assert_eq!(names(&set, start + Duration::from_secs(61)), ["k"]);
    }

    #[test]
    fn keys_outlive_a_provider_that_is_down_for_a_limited_time() {
        let start = Instant::now();
        let mut set = KeySet::default();
        set.replace(vec![key("k", 1)], start, LIFETIMES);
        assert_eq!(names(&set, start + Duration::from_secs(3599)), ["k"]);
        assert!(names(&set, start + Duration::from_hours(1)).is_empty());
        assert!(!set.is_known(start + Duration::from_hours(1), LIFETIMES));
    }
}
