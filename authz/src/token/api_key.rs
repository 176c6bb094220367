//! API keys: credentials that live until they are revoked, for services and devices. Pure, but for the making of one.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use natterjack_nats_config::Id;
use natterjack_nats_config::contract::{InvalidId, KEY_PREFIX, Principal};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::verifier::{Session, TokenError};
use crate::policy::{View, find_key};

/// The longest a session by a key lasts, in milliseconds: then it comes back and is looked at again. A day.
pub const KEY_SESSION_MS: i64 = 24 * 3600 * 1000;

/// A new key. It is shown once; nobody keeps it.
pub struct NewKey {
    /// What it is called by.
    pub id: Id,
    /// `nj_`, the id, `_` and 256 random bits in base64url.
    pub text: String,
    /// The SHA-256 of the text, in hexadecimal: what is kept.
    pub sha256: String,
}

/// Whether a text wants to be an API key; a JWT never begins like one.
#[must_use]
pub fn is_api_key(text: &str) -> bool {
    text.starts_with(KEY_PREFIX)
}

impl NewKey {
    /// A random key.
    pub fn random() -> Result<Self, InvalidId> {
        Self::of(&rand::random(), &rand::random())
    }

    fn of(id: &[u8; 12], secret: &[u8; 32]) -> Result<Self, InvalidId> {
        let id: Id = hex(id).parse()?;
        let text = format!("{KEY_PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
        let sha256 = hex(&Sha256::digest(&text));
        Ok(Self { id, text, sha256 })
    }
}

/// The session that a key opens now.
pub fn session_by_key(view: &View, text: &str, now_ms: i64) -> Result<Session, TokenError> {
    let unknown = || TokenError::Invalid("no such API key".to_owned());
    let rest = text.strip_prefix(KEY_PREFIX).ok_or_else(unknown)?;
    let (id, _) = rest.split_once('_').ok_or_else(unknown)?;
    let (tenant, user, key) = find_key(view, id).ok_or_else(unknown)?;
    let given: [u8; 32] = Sha256::digest(text).into();
    if !bool::from(given.ct_eq(&key.sha256)) {
        return Err(unknown());
    }
    if key.has_expired(now_ms) {
        return Err(TokenError::Expired);
    }
    let longest = now_ms.saturating_add(KEY_SESSION_MS);
    Ok(Session {
        principal: Principal {
            tenant: tenant.clone(),
            user: user.clone(),
        },
        claimed: None,
        token_id: Some(format!("{KEY_PREFIX}{id}")),
        issued_at_ms: key.created_ms,
        expires_at_ms: key.expires_ms.map_or(longest, |expires| expires.min(longest)),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::Event;
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_795_413_600_000;

    fn view_with(key: &NewKey, expires_ms: Option<i64>) -> View {
        let event = json!({
            "v": 1, "seq": 1, "n": 1, "prev": 0, "id": "x", "tenant": "main", "room": "_", "from": "root", "kind": "key",
            "at": "2026-11-23T06:00:00.000Z",
            "body": {"user": "dev1", "id": key.id, "name": "n", "sha256": key.sha256, "expires_ms": expires_ms},
        });
        let mut view = View::default();
        view.apply(&serde_json::from_str::<Event>(&event.to_string()).unwrap());
        view
    }

    #[test]
    fn a_key_says_whose_it_is_and_nothing_like_it_does() {
        let key = NewKey::of(&[1; 12], &[2; 32]).unwrap();
        assert!(
            is_api_key(&key.text)
                && !is_api_key("eyJhbGciOiJFZERTQSJ9.e30.c2ln")
                && key.text.starts_with("nj_010101010101010101010101_AgIC")
        );
        let view = view_with(&key, None);
        let session = session_by_key(&view, &key.text, NOW).unwrap();
        assert_eq!(session.principal.user.as_str(), "dev1");
        assert_eq!(session.token().jti.as_deref(), Some("nj_010101010101010101010101"));
        assert_eq!(session.expires_at_ms, NOW + KEY_SESSION_MS);
        let other_secret = NewKey::of(&[1; 12], &[3; 32]).unwrap().text;
        let other_id = NewKey::of(&[9; 12], &[2; 32]).unwrap().text;
        let longer = format!("{}A", key.text);
        let cut = &key.text[..key.text.len() - 1];
        for bad in [
            &other_secret,
            &other_id,
            &longer,
            cut,
            "nj_",
            "nj_010101010101010101010101_",
            "nj__",
            "",
        ] {
            let refused = session_by_key(&view, bad, NOW);
            assert!(matches!(refused, Err(TokenError::Invalid(_))), "{bad}: {refused:?}");
        }
    }

    #[test]
    fn a_key_ends_at_its_time() {
        let key = NewKey::random().unwrap();
        let view = view_with(&key, Some(NOW + 10));
        assert_eq!(
            session_by_key(&view, &key.text, NOW + 9).unwrap().expires_at_ms,
            NOW + 10
        );
        assert_eq!(session_by_key(&view, &key.text, NOW + 10), Err(TokenError::Expired));
    }

    #[test]
    fn two_random_keys_differ() {
        let (one, two) = (NewKey::random().unwrap(), NewKey::random().unwrap());
        assert!(one.id != two.id && one.sha256 != two.sha256);
    }
}
