//! In whose names a gateway may send: `send.as` in everybody's, `send.as:PREFIX` in the names of those whose ids begin so.

use std::collections::BTreeSet;

use natterjack_nats_config::contract::{Id, Principal, RoleScope};

use super::decide::{Judgement, judge};
use super::role::Role;
use super::view::{Hashed, Tenant, User};
use super::{Denied, Fact, Permission, PermissionSet, Rule, View, all_in_tenant, built_in};

/// The most prefixes of one role: they are compared one by one for each message that is sent in another's name.
pub const MAX_PREFIXES: usize = 16;

/// What stands before a prefix in a verb.
const VERB: &str = "send.as:";
/// Stands in a prefix for the id of who has the role.
const OWN_ID: &str = "{user}";
/// As long as an id may be, and the place for the own one.
const MAX_PREFIX_BYTES: usize = 64 + OWN_ID.len();

// The kinds of these facts in the hash.
const PREFIX: u8 = 25;
/// Prefixes are known.
pub(super) const KEEPS_PREFIXES: u8 = 26;

/// Prefixes of ids in whose names may be sent.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Prefixes(BTreeSet<Box<str>>);

/// Everything that a role in the tenant gives.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TenantRights {
    /// What is a permission of its own. [`Permission::SendAs`] is that for all names.
    pub permissions: PermissionSet,
    /// Beside that.
    pub send_as: Prefixes,
}

impl Prefixes {
    /// Takes in a verb; `false` if it is no `send.as:PREFIX`.
    pub fn take(&mut self, verb: &str) -> bool {
        verb.strip_prefix(VERB).is_some_and(|prefix| self.add(prefix))
    }

    fn add(&mut self, prefix: &str) -> bool {
        let is_prefix = is_prefix(prefix);
        if is_prefix {
            self.0.insert(prefix.into());
        }
        is_prefix
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The prefixes themselves, in their order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|prefix| &**prefix)
    }

    /// As verbs.
    pub fn verbs(&self) -> impl Iterator<Item = String> {
        self.texts().map(|prefix| format!("{VERB}{prefix}"))
    }

    /// What they are for one who has them.
    fn of(&self, user: &Id) -> Self {
        let own = |prefix: &str| -> Box<str> { prefix.replacen(OWN_ID, user.as_str(), 1).into() };
        Self(self.texts().map(own).collect())
    }

    /// Whether everything that begins so begins with one of them. With a place for an own id the other one is what comes before
    /// that: no id has a brace.
    fn hold(&self, other: &str) -> bool {
        self.texts().any(|prefix| other.starts_with(prefix))
    }
}

impl TenantRights {
    /// A verb of `given` that is not among these rights.
    #[must_use]
    pub fn lacks(&self, given: &Self) -> Option<String> {
        let lacking = given.permissions.without(self.permissions).iter().next();
        if let Some(permission) = lacking {
            return Some(permission.to_string());
        }
        if self.permissions.contains(Permission::SendAs) {
            return None;
        }
        let lacking = given.send_as.texts().find(|prefix| !self.send_as.hold(prefix));
        lacking.map(|prefix| format!("{VERB}{prefix}"))
    }

    /// All verbs.
    #[must_use]
    pub fn verbs(&self) -> Vec<String> {
        let permissions = self.permissions.iter().map(|permission| permission.to_string());
        permissions.chain(self.send_as.verbs()).collect()
    }

    /// What they are for one who has them.
    #[must_use]
    pub fn of(mut self, user: &Id) -> Self {
        self.send_as = self.send_as.of(user);
        self
    }
}

/// In whose name `verb` asks to send, if it is a `send.as:ID`.
#[must_use]
pub fn named_by(verb: &str) -> Option<Id> {
    verb.strip_prefix(VERB)?.parse().ok()
}

/// Judges whether a principal may send in somebody's name, as far as that is the tenant's to say.
pub(super) fn judge_sending_as<'a>(view: &'a View, who: &Principal, named: &Id) -> Judgement<'a> {
    let mut judged = judge(view, who, None, Permission::SendAs);
    if judged.rule == Rule::RoleLacks && own_prefixes(view, who).hold(named.as_str()) {
        judged.rule = Rule::TenantRole;
    }
    judged
}

/// Whether a principal may send in somebody's name, as far as that is the tenant's to say.
pub fn may_send_as(view: &View, who: &Principal, named: &Id) -> Result<(), Denied> {
    if judge_sending_as(view, who, named).rule.allows() {
        return Ok(());
    }
    Err(Denied {
        permission: Permission::SendAs,
        room_is_visible: true,
    })
}

/// All that a principal may do in its tenant.
#[must_use]
pub fn rights_in_tenant(view: &View, who: &Principal) -> TenantRights {
    TenantRights {
        permissions: all_in_tenant(view, who),
        send_as: own_prefixes(view, who),
    }
}

fn own_prefixes(view: &View, who: &Principal) -> Prefixes {
    let of_role = view.tenants.get(&who.tenant).and_then(|tenant| {
        let role = tenant.users.get(&who.user).and_then(User::role)?;
        tenant.prefixes(role)
    });
    of_role.map(|prefixes| prefixes.of(&who.user)).unwrap_or_default()
}

impl View {
    /// What a role gives in a tenant, whoever has it; `None` if there is no such role.
    #[must_use]
    pub fn rights_of_role(&self, tenant: &Id, role: &Id) -> Option<TenantRights> {
        let prefixes = self.tenants.get(tenant).and_then(|tenant| tenant.prefixes(role));
        Some(TenantRights {
            permissions: self.in_tenant(tenant, role)?,
            send_as: prefixes.cloned().unwrap_or_default(),
        })
    }
}

impl Tenant {
    fn prefixes(&self, role: &Id) -> Option<&Prefixes> {
        let is_own = built_in(RoleScope::Tenant, role.as_str()).is_none();
        let role = self
            .roles
            .get(role)
            .filter(|role| is_own && role.scope == RoleScope::Tenant)?;
        Some(&role.send_as)
    }

    /// Adds a prefix to a role that is there.
    pub(super) fn put_prefix(&mut self, hashed: &mut Hashed<'_>, name: &Id, prefix: &str) -> Option<()> {
        let role = self.roles.get_mut(name)?;
        if role.send_as.add(prefix) {
            hashed.hash.add(&prefix_fact(hashed.tenant, name, prefix));
            return Some(());
        }
        None
    }

    /// As one knows roles who does not know of prefixes: they give nothing.
    pub(super) fn forget_prefixes(&mut self, hashed: &mut Hashed<'_>) {
        for (name, role) in &mut self.roles {
            for fact in prefix_facts(hashed.tenant, name, role) {
                hashed.hash.remove(&fact);
            }
            role.send_as = Prefixes::default();
        }
    }
}

/// The prefixes of a role.
pub(super) fn prefix_facts(tenant: &Id, name: &Id, role: &Role) -> Vec<Fact> {
    role.send_as
        .texts()
        .map(|prefix| prefix_fact(tenant, name, prefix))
        .collect()
}

fn prefix_fact(tenant: &Id, name: &Id, prefix: &str) -> Fact {
    Fact::new(PREFIX).text(tenant.as_str()).text(name.as_str()).text(prefix)
}

/// What an id may begin with: something of what ids are made of, with at most one place for the own id.
fn is_prefix(text: &str) -> bool {
    let rest = text.replacen(OWN_ID, "x", 1);
    let is_of_ids = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    !rest.is_empty() && text.len() <= MAX_PREFIX_BYTES && rest.bytes().all(is_of_ids)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::explain_send_as;
    use crate::policy::testing::{give, id, own_role, view_of, who};

    fn prefixes(all: &[&str]) -> Prefixes {
        let mut taken = Prefixes::default();
        for prefix in all {
            assert!(taken.take(&format!("send.as:{prefix}")), "{prefix}");
        }
        taken
    }

    fn role(name: &str, scope: &str, verbs: &[&str]) -> Value {
        own_role(name, scope, json!(verbs))
    }

    #[test]
    fn a_prefix_is_of_what_ids_are_made_of() {
        let long = "x".repeat(MAX_PREFIX_BYTES);
        for good in ["a", "plant7-", "A_9", "{user}", "{user}-", "x-{user}_y", &long] {
            assert!(is_prefix(good), "{good}");
        }
        let longer = format!("{long}x");
        for bad in [
            "",
            "a.b",
            "a*",
            "{user}{user}",
            "{User}",
            "{",
            "ä",
            " ",
            "a b",
            "{user",
            &longer,
        ] {
            assert!(!is_prefix(bad), "{bad}");
        }
        for bad in [
            "send.as",
            "send.as:",
            "send.asx:a",
            "Send.as:a",
            "room.send:a",
            "send.as.a",
        ] {
            assert!(!Prefixes::default().take(bad), "{bad}");
        }
    }

    #[test]
    fn a_verb_names_whom_it_is_about() {
        assert_eq!(named_by("send.as:p7-1"), Some(id("p7-1")));
        for none in ["send.as", "send.as:", "send.as:{user}", "room.send:p7-1"] {
            assert_eq!(named_by(none), None, "{none}");
        }
    }

    #[test]
    fn prefixes_are_counted_once_each() {
        let (none, some) = (Prefixes::default(), prefixes(&["a", "b", "a"]));
        assert_eq!((none.len(), none.is_empty()), (0, true));
        assert_eq!((some.len(), some.is_empty()), (2, false));
    }

    #[test]
    fn all_rights_in_the_tenant_are_those_of_the_role_for_who_has_it() {
        let mut log = gateways();
        log.push(role("own", "tenant", &["send.as:{user}-", "tenant.audit"]));
        let rights = rights_in_tenant(&view_of(&log), &who("gw2"));
        assert_eq!(rights.verbs(), ["tenant.audit", "send.as:gw2-"]);
    }

    fn gateways() -> Vec<Value> {
        vec![
            role("plant", "tenant", &["send.as:p7-", "send.as:x"]),
            role("own", "tenant", &["send.as:{user}-"]),
            role("all", "tenant", &["send.as"]),
            role("room", "room", &["send.as:p7-"]),
            give("gw", Some("plant")),
            give("gw2", Some("own")),
            give("root", Some("admin")),
            give("any", Some("all")),
            give("lost", Some("room")),
        ]
    }

    #[test]
    fn a_gateway_speaks_for_those_whose_ids_begin_so() {
        let table = [
            ("gw", "p7-1", true),
            ("gw", "p7-", true),
            ("gw", "x", true),
            ("gw", "xylophone", true),
            ("gw", "p7", false),
            ("gw", "p71", false),
            ("gw", "P7-1", false),
            ("gw", "ap7-1", false),
            ("gw2", "gw2-dev1", true),
            ("gw2", "gw-dev1", false),
            ("gw2", "gw2", false),
            ("gw2", "p7-1", false),
            ("root", "p7-1", true),
            ("any", "p7-1", true),
            ("lost", "p7-1", false),
            ("nobody", "p7-1", false),
        ];
        let view = view_of(&gateways());
        for (gateway, named, expected) in table {
            let (gateway, named) = (who(gateway), id(named));
            assert_eq!(
                may_send_as(&view, &gateway, &named).is_ok(),
                expected,
                "{gateway:?} {named}"
            );
            let explained = explain_send_as(&view, &gateway, &named);
            assert_eq!(explained.allowed, expected);
        }
    }

    #[test]
    fn it_is_explained_by_the_role_and_its_prefixes() {
        let explained = explain_send_as(&view_of(&gateways()), &who("gw"), &id("p7-1"));
        let facts = serde_json::to_value(&explained.facts).unwrap();
        assert_eq!(
            facts[0],
            json!({"fact": "tenant-role", "role": "plant", "seq": 5}),
            "{facts}"
        );
        assert_eq!(
            (&facts[1]["permissions"], &facts[1]["seq"]),
            (&json!(["send.as:p7-", "send.as:x"]), &json!(1))
        );
    }

    #[test]
    fn what_the_role_gives_is_looked_up_when_it_is_asked() {
        let mut log = gateways();
        log.push(role("plant", "tenant", &["send.as:p8-"]));
        let view = view_of(&log);
        assert!(may_send_as(&view, &who("gw"), &id("p7-1")).is_err());
        assert!(may_send_as(&view, &who("gw"), &id("p8-1")).is_ok());
        for last in [
            give("gw", Some("blocked")),
            give("gw", None),
            role("plant", "tenant", &[]),
        ] {
            let view = view_of(&[&log[..], &[last]].concat());
            assert!(may_send_as(&view, &who("gw"), &id("p8-1")).is_err());
        }
        let elsewhere = Principal {
            tenant: id("T"),
            ..who("any")
        };
        assert!(may_send_as(&view, &elsewhere, &id("p8-1")).is_err());
    }

    #[test]
    fn a_writer_that_knows_no_prefixes_leaves_none() {
        let log = [role("plant", "tenant", &["send.as:p7-"]), give("gw", Some("plant"))];
        let (mut view, mut before) = (
            view_of(&log),
            view_of(&[role("plant", "tenant", &[]), give("gw", Some("plant"))]),
        );
        for view in [&mut view, &mut before] {
            view.begin_term(4);
        }
        assert_eq!(view.hash(), before.hash());
        assert!(
            may_send_as(&view, &who("gw"), &id("p7-1")).is_err(),
            "less, and not more"
        );
    }

    #[test]
    fn nobody_gives_names_that_they_lack() {
        let rights = |permissions: &[Permission], all: &[&str]| TenantRights {
            permissions: PermissionSet::of(permissions),
            send_as: prefixes(all),
        };
        let any = rights(&[Permission::SendAs], &[]);
        let some = rights(&[Permission::TenantAdmin], &["p7-"]);
        let table = [
            (&any, rights(&[], &["{user}-", "x"]), None),
            (&any, rights(&[Permission::TenantAdmin], &[]), Some("tenant.admin")),
            (
                &some,
                rights(&[Permission::TenantAdmin], &["p7-", "p7-a", "p7-{user}"]),
                None,
            ),
            (&some, rights(&[], &["p7"]), Some("send.as:p7")),
            (&some, rights(&[], &["{user}-"]), Some("send.as:{user}-")),
            (&some, rights(&[Permission::SendAs], &[]), Some("send.as")),
        ];
        for (own, given, expected) in table {
            assert_eq!(own.lacks(&given).as_deref(), expected, "{own:?} {given:?}");
        }
    }

    proptest! {
        #[test]
        fn who_lacks_nothing_of_what_they_give_makes_nobody_speak_for_more(
            own in prop::collection::btree_set("[ab]{1,3}", 0..4),
            given in prop::collection::btree_set(r"[ab]{0,2}(\{user\})?[ab]{1,2}", 0..4),
            (holder, named) in ("[ab]{1,3}", "[ab]{1,5}"),
        ) {
            let read = |all: std::collections::BTreeSet<String>| prefixes(&all.iter().map(String::as_str).collect::<Vec<_>>());
            let rights = |send_as| TenantRights { send_as, ..TenantRights::default() };
            let (own, given) = (rights(read(own)), rights(read(given)));
            if own.lacks(&given).is_none() && given.of(&id(&holder)).send_as.hold(&named) {
                prop_assert!(own.send_as.hold(&named));
            }
        }
    }
}
