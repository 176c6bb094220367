use sha2::{Digest, Sha256};

use super::Id;

/// How the ids of direct rooms begin.
const PREFIX: &str = "dm-";
/// The digits behind it: 160 bits of a hash.
const DIGITS: usize = 40;

/// The id of the one room of two people, whichever of them asks; `None` if it is one and the same.
///
/// A hash, because two ids with something between them would be longer than an id may be. An id holds no NUL, so no two
/// pairs are spelt alike.
#[must_use]
pub fn direct_room(one: &Id, other: &Id) -> Option<Id> {
    let (first, second) = match one.cmp(other) {
        std::cmp::Ordering::Less => (one, other),
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Greater => (other, one),
    };
    let hash = Sha256::new()
        .chain_update(first.as_str())
        .chain_update([0])
        .chain_update(second.as_str())
        .finalize();
    let mut id = String::with_capacity(PREFIX.len() + DIGITS);
    id.push_str(PREFIX);
    for byte in hash.iter().take(DIGITS / 2) {
        let digit = |four: u8| char::from_digit(u32::from(four), 16).unwrap_or_default();
        id.extend([digit(byte >> 4), digit(byte & 15)]);
    }
    id.parse().ok()
}

/// Whether an id is of the form of a direct room's: no other room may be made of that id.
#[must_use]
pub fn is_direct_room(id: &Id) -> bool {
    id.as_str().strip_prefix(PREFIX).is_some_and(|digits| {
        digits.len() == DIGITS
            && digits
                .bytes()
                .all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        text.parse().unwrap()
    }

    #[test]
    fn two_people_have_one_room_and_no_other_two_have_it() {
        let names = ["a", "b", "ab", "B", "a-b", &"x".repeat(64)];
        let mut seen = std::collections::BTreeMap::new();
        for one in names {
            assert_eq!(direct_room(&id(one), &id(one)), None);
            for other in names.iter().filter(|other| **other != one) {
                let room = direct_room(&id(one), &id(other)).unwrap();
                assert_eq!(direct_room(&id(other), &id(one)), Some(room.clone()));
                assert!(is_direct_room(&room), "{room}");
                let mut pair = [one, *other];
                pair.sort_unstable();
                assert_eq!(*seen.entry(room).or_insert(pair), pair);
            }
        }
        assert_eq!(seen.len(), names.len() * (names.len() - 1) / 2);
    }

    #[test]
    fn the_id_of_a_pair_never_changes() {
        let room = direct_room(&id("alice"), &id("bob")).unwrap();
        assert_eq!(room.as_str(), "dm-141a4cd242b67e82edf4a78bb418d40a6a3870d2");
    }

    #[test]
    fn only_the_form_tells_a_direct_rooms_id() {
        let digits = "0".repeat(40);
        for (text, expected) in [
            (format!("dm-{digits}"), true),
            (format!("dm-{digits}0"), false),
            (format!("dm_{digits}"), false),
            (format!("dm-{}A", "0".repeat(39)), false),
            ("dm-alice".to_owned(), false),
        ] {
            assert_eq!(is_direct_room(&id(&text)), expected, "{text}");
        }
    }
}
