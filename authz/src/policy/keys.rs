use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Event, Id, KeyBody};

use super::view::{Hashed, Tenant};
use super::{Fact, View};

/// The most API keys of one user: each is a credential that somebody has to look after. Some 150 bytes each.
pub const MAX_KEYS: usize = 100;

// The kind of these facts in the hash.
const KEY: u8 = 20;

/// An API key that is good: a credential that lives until it is revoked, or until its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// What it is for.
    pub name: String,
    /// The SHA-256 of the whole key.
    pub sha256: [u8; 32],
    /// When it was made, in log time (milliseconds since 1970).
    pub created_ms: i64,
    /// When it ends, in milliseconds since 1970; without, when it is revoked.
    pub expires_ms: Option<i64>,
}

impl Key {
    /// Whether its time is over.
    #[must_use]
    pub fn has_expired(&self, now_ms: i64) -> bool {
        self.expires_ms.is_some_and(|expires| expires <= now_ms)
    }
}

/// An API key by its id, whose it is, and of which tenant. Ids are random and of all tenants together.
#[must_use]
pub fn find_key<'a>(view: &'a View, id: &str) -> Option<(&'a Id, &'a Id, &'a Key)> {
    view.tenants.iter().find_map(|(name, tenant)| {
        let user = tenant.key_owners.get(id)?;
        let tokens = tenant.users.get(user)?.tokens.as_ref()?;
        Some((name, user, tokens.keys.get(id)?))
    })
}

/// A user's API keys, in the order of their ids; some may have expired.
pub fn keys_of<'a>(view: &'a View, tenant: &Id, user: &Id) -> impl Iterator<Item = (&'a Id, &'a Key)> {
    let known = view.tenants.get(tenant).and_then(|tenant| tenant.users.get(user));
    let tokens = known.and_then(|user| user.tokens.as_deref());
    tokens.into_iter().flat_map(|tokens| &tokens.keys)
}

impl Tenant {
    /// A key gives nobody's connections other rights, so this is no change of them.
    pub(super) fn apply_key(&mut self, hashed: &mut Hashed<'_>, event: &Event, body: KeyBody) {
        let Some(sha256) = body.digest() else { return };
        let at_ms = clock::parse_ms(&event.at).unwrap_or_default();
        let key = Key {
            name: body.name,
            sha256,
            created_ms: at_ms,
            expires_ms: body.expires_ms,
        };
        self.change_tokens(hashed, Some(&body.user), |tokens| {
            tokens.keys.retain(|_, key| !key.has_expired(at_ms));
            tokens.keys.insert(body.id, key);
        });
    }
}

pub(super) fn key_fact(tenant: &Id, (user, id): (Option<&Id>, &Id), key: &Key) -> Fact {
    Fact::new(KEY)
        .text(tenant.as_str())
        .text(user.map_or("", Id::as_str))
        .text(id.as_str())
        .text(&key.name)
        .number(key.created_ms.cast_unsigned())
        .number(u64::from(key.expires_ms.is_some()))
        .number(key.expires_ms.unwrap_or_default().cast_unsigned())
        .digest(&key.sha256)
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::{Principal, TokenRef};
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::{is_revoking, token_is_good};

    const AT: i64 = 1_795_413_600_000;
    const ONE: &str = "000000000000000000000001";
    const TWO: &str = "000000000000000000000002";

    #[derive(Default)]
    struct Log {
        view: View,
        seq: u64,
    }

    impl Log {
        fn event(&mut self, kind: &str, at_ms: i64, body: &Value) {
            self.seq += 1;
            let event = json!({
                "v": 1, "seq": self.seq, "n": 1, "prev": 0, "id": "x", "tenant": "main", "room": "_", "from": "root",
                "kind": kind, "at": clock::format_ms(at_ms), "body": body,
            });
            self.view.apply(&serde_json::from_str(&event.to_string()).unwrap());
        }

        fn key(&mut self, user: &str, id: &str, at_ms: i64, expires_ms: Option<i64>) {
            let sha256 = "ab".repeat(32);
            let body = json!({"user": user, "id": id, "name": "n", "sha256": sha256, "expires_ms": expires_ms});
            self.event("key", at_ms, &body);
        }

        fn is_good(&self, user: &str, id: &str) -> bool {
            let token = TokenRef {
                jti: Some(format!("nj_{id}")),
                issued_at_ms: 0,
            };
            let good = token_is_good(&self.view, &who(user), &token);
            let found = find_key(&self.view, id).is_some_and(|(_, owner, _)| owner.as_str() == user);
            assert_eq!(good, found, "the index of owners says something else");
            good
        }
    }

    fn who(user: &str) -> Principal {
        Principal {
            tenant: "main".parse().unwrap(),
            user: user.parse().unwrap(),
        }
    }

    #[test]
    fn a_key_is_good_for_its_user_until_it_is_revoked() {
        let mut log = Log::default();
        let before = log.view.hash();
        log.key("bob", ONE, AT, None);
        log.key("bob", TWO, AT, None);
        assert!(log.is_good("bob", ONE) && log.is_good("bob", TWO) && !log.is_good("eve", ONE));
        assert!(!is_revoking(&log.view, &who("bob")));
        log.event("token", AT, &json!({"user": "bob", "jti": format!("nj_{ONE}")}));
        assert!(!log.is_good("bob", ONE) && log.is_good("bob", TWO));
        assert!(
            is_revoking(&log.view, &who("bob")),
            "its connections may be there still"
        );
        let ids: Vec<_> = keys_of(&log.view, &who("bob").tenant, &who("bob").user)
            .map(|(id, _)| id.as_str())
            .collect();
        assert_eq!(ids, [TWO]);
        assert_ne!(log.view.hash(), before);
    }

    #[test]
    fn with_all_of_a_users_tokens_his_keys_end_and_later_ones_are_good() {
        let mut log = Log::default();
        log.key("bob", ONE, AT, None);
        log.key("eve", TWO, AT, None);
        log.event("token", AT, &json!({"user": "bob", "valid_after_ms": AT + 5000}));
        assert!(!log.is_good("bob", ONE) && log.is_good("eve", TWO));
        // By the order of the log: a token issued at that time would not be good.
        log.key("bob", ONE, AT + 1, None);
        assert!(log.is_good("bob", ONE));
        log.event("token", AT + 1, &json!({"valid_after_ms": AT}));
        assert!(log.is_good("bob", ONE) && log.is_good("eve", TWO), "made since");
        log.event("token", AT + 1, &json!({"valid_after_ms": AT + 1}));
        assert!(log.is_good("bob", ONE) && !log.is_good("eve", TWO));
    }

    #[test]
    fn those_that_have_expired_make_room() {
        let mut log = Log::default();
        log.key("bob", ONE, AT, Some(AT + 10));
        log.key("bob", TWO, AT + 9, None);
        assert!(log.is_good("bob", ONE), "when it ends doors say");
        log.key("bob", "000000000000000000000003", AT + 10, None);
        assert!(!log.is_good("bob", ONE) && log.is_good("bob", TWO));
    }
}
