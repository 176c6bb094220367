use std::collections::{BTreeMap, BTreeSet};

use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Event, Id, Principal, Seq, TokenBody, TokenRef, key_of_jti};

use super::keys::{Key, key_fact};
use super::view::{Hashed, Tenant};
use super::{Change, Effect, Fact, View};

/// The most tokens of one user that are revoked one by one: after that, revoking all of the user's is the way. 128 KiB.
pub const MAX_REVOKED_TOKENS: usize = 1000;

/// The longest a token is good for after it was issued, whatever its `exp` says: 366 days, in milliseconds. So a token that was
/// revoked alone need not be remembered for ever.
pub const MAX_LIFETIME_MS: i64 = 366 * 24 * 3600 * 1000;

/// Which tokens of a user, or of everybody in a tenant, are good no longer.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tokens {
    /// Those issued before this, in milliseconds since 1970.
    pub(super) valid_after_ms: i64,
    /// Those of these `jti`, and when they have surely expired, in milliseconds since 1970: since version 3 that is always known.
    pub(super) revoked: BTreeMap<Box<str>, Option<i64>>,
    /// Revocations that may not have reached every connection.
    pub(super) open: BTreeSet<Seq>,
    /// When the last revocation was, or had settled, in log time; of a user's since version 3.
    pub(super) changed_ms: i64,
    /// The API keys that are good. Of a user's only.
    pub(super) keys: BTreeMap<Id, Key>,
}

// The kinds of facts in the hash, beside those of `view` (1 to 4) and of the writer (5 to 7).
const VALID_AFTER: u8 = 8;
const REVOKED: u8 = 9;
const OPEN: u8 = 10;

/// Whether a token has not been revoked.
#[must_use]
pub fn token_is_good(view: &View, who: &Principal, token: &TokenRef) -> bool {
    if let Some(id) = token.jti.as_deref().and_then(key_of_jti) {
        let [_, of_user] = tokens_of(view, who);
        return of_user.is_some_and(|tokens| tokens.keys.contains_key(id));
    }
    let is_good = |tokens: &Tokens| {
        let named = token
            .jti
            .as_ref()
            .is_some_and(|jti| tokens.revoked.contains_key(jti.as_str()));
        token.issued_at_ms >= tokens.valid_after_ms && !named
    };
    tokens_of(view, who).into_iter().flatten().all(is_good)
}

/// Whether a revocation of this user's tokens may not have reached every connection.
#[must_use]
pub fn is_revoking(view: &View, who: &Principal) -> bool {
    tokens_of(view, who)
        .into_iter()
        .flatten()
        .any(|tokens| !tokens.open.is_empty())
}

/// When tokens of this user, or everybody's, were last revoked or that had settled, in log time; 0 for never.
#[must_use]
pub fn last_revocation_ms(view: &View, who: &Principal) -> i64 {
    let times = tokens_of(view, who)
        .into_iter()
        .flatten()
        .map(|tokens| tokens.changed_ms);
    times.max().unwrap_or_default()
}

/// How many of a user's tokens are revoked one by one and may not have expired at a time.
#[must_use]
pub fn revoked_one_by_one(view: &View, tenant: &Id, user: &Id, now_ms: i64) -> usize {
    let tenant = view.tenants.get(tenant);
    let tokens = tenant.and_then(|tenant| tenant.users.get(user)?.tokens.as_ref());
    let may_live = |until: &&Option<i64>| until.is_none_or(|until| until >= now_ms);
    tokens.map_or(0, |tokens| tokens.revoked.values().filter(may_live).count())
}

/// Whether a revocation would make anything void that was not before: whether a session by it can be there.
#[must_use]
pub fn would_void(view: &View, tenant: &Id, body: &TokenBody, now_ms: i64) -> bool {
    let Some(known) = view.tenants.get(tenant) else {
        return true;
    };
    let of_user = body
        .user
        .as_ref()
        .and_then(|user| known.users.get(user)?.tokens.as_deref());
    if let Some(jti) = &body.jti {
        return !of_user.is_some_and(|tokens| tokens.revoked.contains_key(jti.as_str()));
    }
    let Some(after) = body.valid_after_ms else { return true };
    let already = of_user.map_or(0, |tokens| tokens.valid_after_ms);
    let has_keys = |tokens: &Tokens| tokens.keys.values().any(|key| key.created_ms < after);
    let ends_keys = match &body.user {
        Some(_) => of_user.is_some_and(has_keys),
        None => known
            .users
            .values()
            .any(|user| user.tokens.as_deref().is_some_and(has_keys)),
    };
    ends_keys || after > already.max(known.tokens.valid_after_ms).max(now_ms - MAX_LIFETIME_MS)
}

/// Whether the revocation of a sequence is open, of a user's tokens or of everybody's.
#[must_use]
pub fn revocation_is_open(view: &View, tenant: &Id, user: Option<&Id>, seq: Seq) -> bool {
    open_revocations(view).any(|(in_tenant, of, open)| (in_tenant, of, open) == (tenant, user, seq))
}

/// Every open revocation: tenant, user (none for everybody's), sequence.
pub fn open_revocations(view: &View) -> impl Iterator<Item = (&Id, Option<&Id>, Seq)> {
    view.tenants.iter().flat_map(|(name, tenant)| {
        let all = tenant.tokens.open.iter().map(move |seq| (name, None, *seq));
        let users = tenant.users.iter().flat_map(move |(user, known)| {
            let open = known.tokens.iter().flat_map(|tokens| &tokens.open);
            open.map(move |seq| (name, Some(user), *seq))
        });
        all.chain(users)
    })
}

fn tokens_of<'a>(view: &'a View, who: &Principal) -> [Option<&'a Tokens>; 2] {
    let tenant = view.tenants.get(&who.tenant);
    let user = tenant.and_then(|tenant| tenant.users.get(&who.user)?.tokens.as_deref());
    [tenant.map(|tenant| &tenant.tokens), user]
}

impl Tenant {
    /// Changes which tokens are good, and the hash with it.
    pub(super) fn change_tokens(
        &mut self,
        hashed: &mut Hashed<'_>,
        user: Option<&Id>,
        change: impl FnOnce(&mut Tokens),
    ) {
        let tokens = match user {
            Some(user) => &mut **self
                .users
                .entry(user.clone())
                .or_default()
                .tokens
                .get_or_insert_default(),
            None => &mut self.tokens,
        };
        for fact in facts(hashed.tenant, user, tokens) {
            hashed.hash.remove(&fact);
        }
        let keys_before: Vec<Id> = tokens.keys.keys().cloned().collect();
        change(tokens);
        for fact in facts(hashed.tenant, user, tokens) {
            hashed.hash.add(&fact);
        }
        for id in keys_before.iter().filter(|id| !tokens.keys.contains_key(*id)) {
            self.key_owners.remove(id);
        }
        if let Some(user) = user {
            let new = tokens.keys.keys().filter(|id| !keys_before.contains(id));
            self.key_owners.extend(new.map(|id| (id.clone(), user.clone())));
        }
        if *tokens == Tokens::default()
            && let Some(user) = user
        {
            self.drop_tokens(user);
        }
    }

    pub(super) fn apply_token(&mut self, hashed: &mut Hashed<'_>, event: &Event, body: &TokenBody) -> Option<Change> {
        let user = body.user.as_ref();
        if let Some(seq) = body.settled {
            self.change_tokens(hashed, user, |tokens| {
                tokens.open.remove(&seq);
                tokens.changed_ms = tokens.changed_ms.max(body.revoked_ms.unwrap_or_default());
            });
            return None;
        }
        let at_ms = clock::parse_ms(&event.at).unwrap_or(i64::MAX);
        self.change_tokens(hashed, user, |tokens| {
            tokens.revoke(body, at_ms);
            if !body.voids_nothing {
                tokens.open.insert(event.seq);
                if user.is_none() || body.revoked_ms.is_some() {
                    tokens.changed_ms = at_ms;
                }
            }
        });
        if let (None, Some(after)) = (user, body.valid_after_ms) {
            self.end_keys_of_all(hashed, after);
        }
        if body.voids_nothing {
            return None;
        }
        if let Some(user) = user {
            return Some(self.changed(hashed, event, user.clone(), Effect::Restriction));
        }
        Some(Change {
            tenant: event.tenant.clone(),
            user: None,
            effect: Effect::Restriction,
            seq: event.seq,
        })
    }

    /// Everybody's API keys that were made before a time are good no longer.
    fn end_keys_of_all(&mut self, hashed: &mut Hashed<'_>, after_ms: i64) {
        let mut owners: Vec<Id> = self.key_owners.values().cloned().collect();
        owners.sort_unstable();
        owners.dedup();
        for user in owners {
            self.change_tokens(hashed, Some(&user), |tokens| tokens.end_keys(after_ms));
        }
    }
}

impl Tokens {
    /// What a revocation makes void. What is void or expired anyway is not remembered any longer.
    fn revoke(&mut self, body: &TokenBody, at_ms: i64) {
        if let Some(jti) = &body.jti {
            self.revoked.retain(|_, until| until.is_none_or(|until| until >= at_ms));
            match key_of_jti(jti) {
                Some(key) => drop(self.keys.remove(key)),
                None => drop(self.revoked.insert(jti.as_str().into(), body.until_ms)),
            }
        } else if let Some(after) = body.valid_after_ms {
            self.valid_after_ms = self.valid_after_ms.max(after);
            self.end_keys(after);
            if body.covers_all {
                self.revoked.clear();
            }
        }
    }

    fn end_keys(&mut self, after_ms: i64) {
        self.keys.retain(|_, key| key.created_ms >= after_ms);
    }
}

fn facts(tenant: &Id, user: Option<&Id>, tokens: &Tokens) -> Vec<Fact> {
    let about = |kind| Fact::new(kind).text(tenant.as_str()).text(user.map_or("", Id::as_str));
    let mut facts = Vec::with_capacity(1 + tokens.revoked.len() + tokens.open.len());
    if (tokens.valid_after_ms, tokens.changed_ms) != (0, 0) {
        let numbers = [tokens.valid_after_ms, tokens.changed_ms].map(i64::cast_unsigned);
        facts.push(numbers.into_iter().fold(about(VALID_AFTER), Fact::number));
    }
    facts.extend(tokens.revoked.iter().map(|(jti, until)| {
        let fact = about(REVOKED).text(jti);
        // Without a time it has the hash of the version before.
        until.map_or(fact.clone(), |until| fact.number(until.cast_unsigned()))
    }));
    facts.extend(tokens.keys.iter().map(|(id, key)| key_fact(tenant, (user, id), key)));
    facts.extend(tokens.open.iter().map(|seq| about(OPEN).number(seq.0)));
    facts
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    struct Log {
        view: View,
        seq: u64,
    }

    impl Log {
        fn token(&mut self, body: &Value) -> Option<Change> {
            self.seq += 1;
            let event = json!({
                "v": 1, "seq": self.seq, "n": 1, "prev": 0, "id": "x", "tenant": "main", "room": "_", "from": "root",
                "kind": "token", "at": "2026-11-23T06:00:00.000Z", "body": body,
            });
            self.view
                .apply(&serde_json::from_str(&event.to_string()).unwrap())
                .pop()
        }

        fn is_good(&self, user: &str, jti: &str, issued_at_ms: i64) -> bool {
            let token = TokenRef {
                jti: Some(jti.to_owned()),
                issued_at_ms,
            };
            token_is_good(&self.view, &who("main", user), &token)
        }
    }

    fn log() -> Log {
        Log {
            view: View::default(),
            seq: 0,
        }
    }

    fn who(tenant: &str, user: &str) -> Principal {
        Principal {
            tenant: tenant.parse().unwrap(),
            user: user.parse().unwrap(),
        }
    }

    #[test]
    fn what_is_revoked_is_exactly_what_the_event_says() {
        let mut log = log();
        assert!(log.is_good("bob", "a", 0));
        let change = log.token(&json!({"user": "bob", "jti": "a"})).unwrap();
        assert_eq!((change.user, change.effect), ("bob".parse().ok(), Effect::Restriction));
        assert!(!log.is_good("bob", "a", 9999) && log.is_good("bob", "b", 0) && log.is_good("eve", "a", 0));
        log.token(&json!({"user": "bob", "valid_after_ms": 100}));
        assert!(!log.is_good("bob", "b", 99) && log.is_good("bob", "b", 100) && log.is_good("eve", "b", 99));
        assert!(
            !log.is_good("bob", "a", 9999),
            "a later one does not make an earlier one good"
        );
        log.token(&json!({"user": "bob", "valid_after_ms": 50}));
        assert!(!log.is_good("bob", "b", 99), "nor does an earlier time");
        assert_eq!(log.token(&json!({"valid_after_ms": 200})).unwrap().user, None);
        assert!(!log.is_good("eve", "b", 199) && log.is_good("eve", "b", 200));
        let token = TokenRef {
            jti: None,
            issued_at_ms: 0,
        };
        assert!(
            token_is_good(&log.view, &who("other", "bob"), &token),
            "tenants are apart"
        );
    }

    #[test]
    fn a_revocation_is_open_until_it_has_settled() {
        let mut log = log();
        let before = log.view.hash();
        log.token(&json!({"user": "bob", "jti": "a"}));
        log.token(&json!({"user": "bob", "jti": "b"}));
        assert!(is_revoking(&log.view, &who("main", "bob")) && !is_revoking(&log.view, &who("main", "eve")));
        assert_eq!(log.token(&json!({"user": "bob", "settled": 1})), None);
        assert!(is_revoking(&log.view, &who("main", "bob")), "one of two");
        assert!(revocation_is_open(
            &log.view,
            &"main".parse().unwrap(),
            Some(&"bob".parse().unwrap()),
            Seq(2)
        ));
        log.token(&json!({"user": "bob", "settled": 2}));
        assert!(!is_revoking(&log.view, &who("main", "bob")));
        log.token(&json!({"valid_after_ms": 1}));
        assert!(is_revoking(&log.view, &who("main", "eve")), "everybody's");
        assert_eq!(open_revocations(&log.view).count(), 1);
        log.token(&json!({"settled": 7}));
        log.token(&json!({"settled": 5}));
        assert_eq!(open_revocations(&log.view).count(), 0);
        assert_ne!(log.view.hash(), before, "what is revoked stays in the hash");
    }
}
