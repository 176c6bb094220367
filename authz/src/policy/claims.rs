//! Roles that tokens claim, beside those that are given by somebody.

use std::collections::BTreeMap;

use natterjack_nats_config::contract::{ClaimedBy, Event, Id, Seq};

use super::view::{Hashed, Tenant, User};
use super::{Change, Effect, Fact, View};

/// The most issuers whose claims are kept for one user.
pub const MAX_CLAIMING_ISSUERS: usize = 8;

/// What an issuer's tokens say of a user's role in the tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The role; none where a later token named none that means one here.
    pub role: Option<Id>,
    /// The `iat` of the token that said so, in milliseconds since 1970.
    pub issued_at_ms: i64,
    /// The event that noted it.
    pub since: Seq,
}

/// What the issuers say of a user, by their names.
pub(super) type Claims = BTreeMap<Box<str>, Claimed>;

// The kind of facts in the hash, beside those of `view` (1 to 4, 13 to 16), roles (12), tokens (8 to 10) and of the writer (5 to 7, 11).
const CLAIMED: u8 = 17;

/// Whether a token says something of a role that is not known yet, and is not older than what is known: who lost a role by a
/// newer token does not get it back by an older one. Of two of the same moment the one that takes counts.
#[must_use]
pub fn is_news(known: Option<&Claimed>, role: Option<&Id>, issued_at_ms: i64) -> bool {
    match known {
        None => role.is_some(),
        Some(known) => {
            let order = |at_ms: i64, role: Option<&Id>| (at_ms, role.is_none());
            known.role.as_ref() != role && order(issued_at_ms, role) > order(known.issued_at_ms, known.role.as_ref())
        }
    }
}

impl View {
    /// What an issuer's tokens say of a user's role.
    #[must_use]
    pub fn claimed(&self, tenant: &Id, user: &Id, issuer: &str) -> Option<&Claimed> {
        self.claims(tenant, user)?.get(issuer)
    }

    /// How many issuers say something of a user's role.
    #[must_use]
    pub fn claiming_issuers(&self, tenant: &Id, user: &Id) -> usize {
        self.claims(tenant, user).map_or(0, BTreeMap::len)
    }

    /// The role that a user has where nobody gives one: by the claim that changed last, if any.
    #[must_use]
    pub fn claimed_role(&self, tenant: &Id, user: &Id) -> Option<&Id> {
        let user = self.tenants.get(tenant)?.users.get(user)?;
        Some(user.claimed()?.1)
    }

    fn claims(&self, tenant: &Id, user: &Id) -> Option<&Claims> {
        self.tenants.get(tenant)?.users.get(user)?.claims.as_deref()
    }
}

impl User {
    /// The claim that counts: of those that name a role the one that changed last. Its issuer, the role, and the event.
    pub(super) fn claimed(&self) -> Option<(&str, &Id, Seq)> {
        let named = self.claims.iter().flat_map(|claims| claims.iter());
        let named = named.filter_map(|(issuer, claimed)| Some((&**issuer, claimed.role.as_ref()?, claimed.since)));
        named.max_by_key(|(_, _, since)| *since)
    }

    /// The role in the tenant: what somebody gave counts before what tokens claim.
    pub(super) fn role(&self) -> Option<&Id> {
        self.role.as_ref().or_else(|| Some(self.claimed()?.1))
    }
}

impl Tenant {
    /// Notes what an issuer says of a user.
    pub(super) fn put_claim(&mut self, hashed: &mut Hashed<'_>, (user, issuer): (&Id, &str), claimed: Claimed) {
        let known = self.users.entry(user.clone()).or_default();
        hashed.hash.add(&claim_fact(hashed.tenant, (user, issuer), &claimed));
        let before = known.claims.get_or_insert_default().insert(issuer.into(), claimed);
        if let Some(before) = before {
            hashed.hash.remove(&claim_fact(hashed.tenant, (user, issuer), &before));
        }
    }

    /// Forgets everything that was claimed.
    pub(super) fn forget_claims(&mut self, hashed: &mut Hashed<'_>) {
        for (name, user) in &mut self.users {
            for (issuer, claimed) in user.claims.take().into_iter().flat_map(|claims| *claims) {
                hashed
                    .hash
                    .remove(&claim_fact(hashed.tenant, (name, &issuer), &claimed));
            }
        }
        self.users.retain(|_, user| !user.is_nothing());
    }

    pub(super) fn apply_claim(
        &mut self,
        hashed: &mut Hashed<'_>,
        event: &Event,
        (user, role, by): (Id, Option<Id>, ClaimedBy),
    ) -> Option<Change> {
        let role_of = |tenant: &Self| tenant.users.get(&user).and_then(User::role).cloned();
        let before = role_of(self);
        let claimed = Claimed {
            role,
            issued_at_ms: by.issued_at_ms,
            since: event.seq,
        };
        self.put_claim(hashed, (&user, &by.issuer), claimed);
        let after = role_of(self);
        let effect = Effect::of(self.permissions(before.as_ref()), self.permissions(after.as_ref()))?;
        Some(self.changed(hashed, event, user, effect))
    }
}

fn claim_fact(tenant: &Id, (user, issuer): (&Id, &str), claimed: &Claimed) -> Fact {
    Fact::new(CLAIMED)
        .text(tenant.as_str())
        .text(user.as_str())
        .text(issuer)
        .text(claimed.role.as_ref().map_or("", Id::as_str))
        .number(claimed.issued_at_ms.cast_unsigned())
        .number(claimed.since.0)
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::Principal;
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::snapshot::KEEPS_CLAIMS_AND_ERASURES;
    use crate::policy::testing::{id, view_of, whole};
    use crate::policy::{Permission, may_in_tenant};

    fn user(role: Option<&str>, claimed: Option<(&str, i64)>) -> Value {
        let mut body = json!({"user": "u", "role": role});
        if let Some((issuer, issued_at_ms)) = claimed {
            body["claimed"] = json!({"issuer": issuer, "issued_at_ms": issued_at_ms});
        }
        json!({"tenant": "t", "room": "_", "kind": "user", "body": body})
    }

    #[test]
    fn what_is_claimed_and_what_is_given_are_kept_apart() {
        let steps: &[(Value, &str)] = &[
            (user(Some("auditor"), Some(("a", 1))), "auditor"),
            (user(Some("guest"), None), "guest"),
            // A claim that vanishes takes only its own, and so does who takes back what was given.
            (user(None, Some(("a", 2))), "guest"),
            (user(Some("admin"), Some(("a", 3))), "guest"),
            (user(None, None), "admin"),
            (user(Some("device"), Some(("b", 1))), "device"),
            (user(None, Some(("b", 2))), "admin"),
            (user(None, Some(("a", 4))), "member"),
        ];
        for (number, (_, expected)) in steps.iter().enumerate() {
            let events: Vec<_> = steps[..=number].iter().map(|(event, _)| event.clone()).collect();
            let view = view_of(&events);
            assert_eq!(view.tenant_role(&id("t"), &id("u")), *expected, "step {number}");
            let who = Principal {
                tenant: id("t"),
                user: id("u"),
            };
            let audits = matches!(*expected, "auditor" | "admin");
            assert_eq!(may_in_tenant(&view, &who, Permission::TenantAudit).is_ok(), audits);
        }
    }

    #[test]
    fn what_each_issuer_says_is_known_until_a_writer_comes_who_keeps_no_claims() {
        let given = user(Some("guest"), None);
        let of = |claims: &[Value]| view_of(&[std::slice::from_ref(&given), claims].concat());
        let mut view = of(&[
            user(Some("auditor"), Some(("a", 1))),
            user(Some("device"), Some(("b", 1))),
            user(None, Some(("c", 1))),
        ]);
        let told = |view: &View| {
            let (tenant, user) = (id("t"), id("u"));
            let role = view.claimed_role(&tenant, &user).cloned();
            (view.claiming_issuers(&tenant, &user), role)
        };
        assert_eq!(told(&view), (3, Some(id("device"))));
        assert_eq!(told(&of(&[])), (0, None));
        assert_eq!(told(&View::default()), (0, None));
        let mut without = of(&[]);
        for view in [&mut view, &mut without] {
            view.pass(Seq(9));
            view.begin_term(KEEPS_CLAIMS_AND_ERASURES - 1);
        }
        assert_eq!(told(&view), (0, None));
        assert_eq!(view.hash(), without.hash());
    }

    #[test]
    fn who_is_blocked_by_hand_stays_so_whatever_is_claimed() {
        let view = view_of(&[user(Some("blocked"), None), user(Some("admin"), Some(("a", 1)))]);
        assert_eq!(view.tenant_role(&id("t"), &id("u")), "blocked");
    }

    #[test]
    fn losing_a_claimed_role_is_a_restriction() {
        let mut view = view_of(&[user(Some("admin"), Some(("a", 1)))]);
        let event = whole(&user(None, Some(("a", 2))), 9, "2026-11-23T06:00:00.000Z");
        let changes = view.apply(&event);
        let [change] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(
            (change.user.as_ref(), change.effect),
            (Some(&id("u")), Effect::Restriction)
        );
    }

    #[test]
    fn an_older_token_says_nothing_new() {
        let known = |role: Option<&str>| Claimed {
            role: role.map(id),
            issued_at_ms: 20,
            since: Seq(1),
        };
        let (admin, guest) = (id("admin"), id("guest"));
        let table = [
            (None, None, 10, false),
            (None, Some(&admin), 10, true),
            (Some(known(Some("admin"))), Some(&admin), 30, false),
            (Some(known(Some("admin"))), Some(&guest), 30, true),
            (Some(known(Some("admin"))), Some(&guest), 20, false),
            (Some(known(Some("admin"))), Some(&guest), 19, false),
            (Some(known(Some("admin"))), None, 19, false),
            (Some(known(Some("admin"))), None, 20, true),
            (Some(known(None)), Some(&admin), 20, false),
            (Some(known(None)), Some(&admin), 19, false),
            (Some(known(None)), Some(&admin), 21, true),
            (Some(known(None)), None, 21, false),
        ];
        for (known, role, at_ms, expected) in table {
            assert_eq!(
                is_news(known.as_ref(), role, at_ms),
                expected,
                "{known:?} {role:?} {at_ms}"
            );
        }
    }
}
