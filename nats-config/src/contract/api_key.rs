use serde::{Deserialize, Serialize};

use super::Id;

/// What an API key begins with, and the `jti` of sessions by one: there only the key's id follows.
pub const KEY_PREFIX: &str = "nj_";
/// The longest name of a key, in bytes.
pub const MAX_KEY_NAME_BYTES: usize = 128;

/// Body of a [`Kind::Key`](super::Kind::Key) event. The key itself stands nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyBody {
    /// Whose key.
    pub user: Id,
    /// What it is called by: 24 of `0-9 a-f`.
    pub id: Id,
    /// What it is for: any Unicode, 1 to [`MAX_KEY_NAME_BYTES`] bytes without control characters.
    pub name: String,
    /// The SHA-256 of the whole key, 64 of `0-9 a-f`.
    pub sha256: String,
    /// When it ends, in milliseconds since 1970; without, when it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<i64>,
}

impl KeyBody {
    /// The SHA-256 as bytes; `None` if it is none.
    #[must_use]
    pub fn digest(&self) -> Option<[u8; 32]> {
        let mut digest = [0; 32];
        if !is_hex(&self.sha256, 2 * digest.len()) {
            return None;
        }
        let pairs = self.sha256.as_bytes().chunks(2);
        for (byte, pair) in digest.iter_mut().zip(pairs) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(digest)
    }

    /// Whether id and name are as they must be.
    #[must_use]
    pub fn is_well_named(&self) -> bool {
        let is_plain = !self.name.chars().any(char::is_control);
        is_hex(self.id.as_str(), 24) && is_plain && (1..=MAX_KEY_NAME_BYTES).contains(&self.name.len())
    }
}

/// The id of the API key that a session with this `jti` was opened by, if it was one.
#[must_use]
pub fn key_of_jti(jti: &str) -> Option<&str> {
    jti.strip_prefix(KEY_PREFIX)
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_told_apart() {
        let good = KeyBody {
            user: "dev1".parse().unwrap(),
            id: "0123456789abcdef01234567".parse().unwrap(),
            name: "thermometer, 2nd floor".to_owned(),
            sha256: "0f".repeat(32),
            expires_ms: None,
        };
        assert!(good.is_well_named());
        assert_eq!(good.digest(), Some([15; 32]));
        for name in ["", "a\nb", &"x".repeat(129)] {
            let bad = KeyBody {
                name: name.to_owned(),
                ..good.clone()
            };
            assert!(!bad.is_well_named(), "{name:?}");
        }
        for id in ["0123456789abcdef0123456", "0123456789ABCDEF01234567", "x"] {
            let bad = KeyBody {
                id: id.parse().unwrap(),
                ..good.clone()
            };
            assert!(!bad.is_well_named(), "{id}");
        }
        for sha256 in ["", "zz", &"0F".repeat(32), &"0f".repeat(31), &"+f".repeat(32)] {
            let bad = KeyBody {
                sha256: sha256.to_owned(),
                ..good.clone()
            };
            assert_eq!(bad.digest(), None, "{sha256}");
        }
    }
}
