use std::collections::{BTreeMap, btree_map};
use std::slice;

use natterjack_nats_config::contract::Id;

/// So many stand in a list; more in a tree.
const FEW: usize = 16;

/// A map from names, in their order. Most rooms have few members, and most people are in few rooms: those take no more memory than
/// their entries, where a tree's smallest node has room for eleven.
#[derive(Debug, Clone)]
pub struct ById<V>(Entries<V>);

#[derive(Debug, Clone)]
enum Entries<V> {
    /// In the order of the names.
    Few(Vec<(Id, V)>),
    Many(BTreeMap<Id, V>),
}

/// The entries of a [`ById`], in the order of the names.
#[derive(Debug)]
pub struct Iter<'a, V>(Place<'a, V>);

#[derive(Debug)]
enum Place<'a, V> {
    Few(slice::Iter<'a, (Id, V)>),
    Many(btree_map::Iter<'a, Id, V>),
}

impl<V> ById<V> {
    /// What stands at a name.
    #[must_use]
    pub fn get(&self, name: &Id) -> Option<&V> {
        match &self.0 {
            Entries::Few(few) => {
                let place = place_of(few, name).ok()?;
                few.get(place).map(|(_, value)| value)
            }
            Entries::Many(many) => many.get(name),
        }
    }

    /// Whether something stands at a name.
    #[must_use]
    pub fn contains_key(&self, name: &Id) -> bool {
        self.get(name).is_some()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Entries::Few(few) => few.len(),
            Entries::Many(many) => many.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in the order of the names.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, V> {
        Iter(match &self.0 {
            Entries::Few(few) => Place::Few(few.iter()),
            Entries::Many(many) => Place::Many(many.iter()),
        })
    }

    /// The names, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &Id> {
        self.iter().map(|(name, _)| name)
    }

    /// Puts something at a name; what stood there.
    pub(super) fn insert(&mut self, name: Id, value: V) -> Option<V> {
        match &mut self.0 {
            Entries::Few(few) => {
                let place = match place_of(few, &name) {
                    Ok(place) => return few.get_mut(place).map(|(_, old)| std::mem::replace(old, value)),
                    Err(place) => place,
                };
                if few.len() == few.capacity() {
                    // Twice as many, beginning with one: a list's own first step is four.
                    few.reserve_exact(few.len().max(1));
                }
                few.insert(place, (name, value));
                if few.len() > FEW {
                    self.0 = Entries::Many(std::mem::take(few).into_iter().collect());
                }
                None
            }
            Entries::Many(many) => many.insert(name, value),
        }
    }

    /// Takes away what stands at a name.
    pub(super) fn remove(&mut self, name: &Id) -> Option<V> {
        match &mut self.0 {
            Entries::Few(few) => {
                let place = place_of(few, name).ok()?;
                Some(few.remove(place).1)
            }
            Entries::Many(many) => many.remove(name),
        }
    }
}

fn place_of<V>(few: &[(Id, V)], name: &Id) -> Result<usize, usize> {
    few.binary_search_by(|(known, _)| known.cmp(name))
}

impl<V> Default for ById<V> {
    fn default() -> Self {
        Self(Entries::Few(Vec::new()))
    }
}

/// However they are kept.
impl<V: PartialEq> PartialEq for ById<V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other)
    }
}

impl<V: Eq> Eq for ById<V> {}

impl<'a, V> IntoIterator for &'a ById<V> {
    type Item = (&'a Id, &'a V);
    type IntoIter = Iter<'a, V>;

    fn into_iter(self) -> Iter<'a, V> {
        self.iter()
    }
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = (&'a Id, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Place::Few(few) => few.next().map(|(name, value)| (name, value)),
            Place::Many(many) => many.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, u32),
        Take(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0u8..40, any::<u32>()).prop_map(|(name, value)| Step::Put(name, value)),
            1 => (0u8..40).prop_map(Step::Take),
        ]
    }

    fn name(number: u8) -> Id {
        format!("name-{number}").parse().unwrap()
    }

    proptest! {
        #[test]
        fn it_is_a_map_in_the_order_of_the_names(steps in prop::collection::vec(step(), 0..120)) {
            let (mut ours, mut model) = (ById::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Put(number, value) => {
                        prop_assert_eq!(ours.insert(name(number), value), model.insert(name(number), value));
                    }
                    Step::Take(number) => prop_assert_eq!(ours.remove(&name(number)), model.remove(&name(number))),
                }
                prop_assert_eq!((ours.len(), ours.is_empty()), (model.len(), model.is_empty()));
            }
            prop_assert!(ours.iter().eq(&model));
            prop_assert!(ours.keys().eq(model.keys()));
            for number in 0..40 {
                let name = name(number);
                prop_assert_eq!(ours.get(&name), model.get(&name));
                prop_assert_eq!(ours.contains_key(&name), model.contains_key(&name));
            }
            // Of the same entries, one that was never a tree.
            let mut again = ById::default();
            for (name, value) in model.iter().take(FEW) {
                again.insert(name.clone(), *value);
            }
            prop_assert_eq!(ours == again, model.len() <= FEW);
            if let Some((name, value)) = model.first_key_value() {
                let mut other = ours.clone();
                other.insert(name.clone(), !value);
                prop_assert!(ours != other, "as many, but not the same");
            }
        }
    }

    #[test]
    fn few_are_a_list_and_more_a_tree() {
        let mut all = ById::default();
        for number in 0..40 {
            all.insert(name(number), ());
            assert_eq!(matches!(all.0, Entries::Few(_)), all.len() <= FEW, "{}", all.len());
        }
    }

    #[test]
    fn one_takes_the_memory_of_one() {
        let mut one = ById::default();
        one.insert(name(1), 1u64);
        assert!(matches!(&one.0, Entries::Few(few) if few.capacity() == 1));
    }
}
