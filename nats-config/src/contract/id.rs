use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

/// The longest id, in bytes.
pub const MAX_ID_BYTES: usize = 64;

/// The name of a tenant, a user or a room: `[A-Za-z0-9_-]{1,64}`, case-sensitive.
///
/// Because it is checked when it is parsed, no id can hold a subject separator, a wildcard, white space or a
/// control character, and an id is always exactly one token of a subject.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(Arc<str>);

/// An id that is not `[A-Za-z0-9_-]{1,64}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Nothing was given.
    #[error("an id is empty; use 1 to {MAX_ID_BYTES} of A-Z a-z 0-9 _ -")]
    Empty,
    /// More than [`MAX_ID_BYTES`].
    #[error("an id is {0} bytes long; at most {MAX_ID_BYTES} are allowed")]
    TooLong(usize),
    /// A character outside the alphabet.
    #[error("an id holds the character {0:?}; only A-Z a-z 0-9 _ - are allowed")]
    Character(char),
}

impl Id {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.is_empty() {
            return Err(InvalidId::Empty);
        }
        if let Some(other) = text
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || *c == '_' || *c == '-'))
        {
            return Err(InvalidId::Character(other));
        }
        if text.len() > MAX_ID_BYTES {
            return Err(InvalidId::TooLong(text.len()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Id {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_one_plain_token() {
        for good in ["a", "A-b_9", &"x".repeat(64)] {
            assert_eq!(good.parse::<Id>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "a.b",
            "*",
            ">",
            "$SYS",
            "a b",
            "a\r\n",
            "a\0",
            "ä",
            "а",
            "a/b",
            "a:b",
            &"x".repeat(65),
        ] {
            assert!(bad.parse::<Id>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn case_is_kept_and_told_apart() {
        assert_ne!("Bob".parse::<Id>().unwrap(), "bob".parse::<Id>().unwrap());
    }
}
