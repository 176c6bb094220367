use std::collections::BTreeSet;

use natterjack_authz::policy::{Permission, View, may_in_tenant};
use natterjack_nats_config::contract::{Id, MAX_ID_BYTES, Principal, Problem};
use serde::Serialize;

use super::{Bridge, Listing, may_look, page_of};

/// Somebody the caller may know of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct UserShown {
    user: Id,
    /// The role in the tenant.
    role: String,
}

/// The people the caller may know of whose id has `q` in it, in whatever capitals, in the order of their ids: whoever shares
/// a room with the caller; for an administrator everybody who has a role or is in a room.
pub(crate) fn users(
    bridge: &Bridge,
    who: &Principal,
    q: &str,
    listing: &Listing,
) -> Result<(Vec<UserShown>, Option<Id>), Problem> {
    if q.len() > MAX_ID_BYTES {
        return Err(Problem::invalid(format!("`q` is at most {MAX_ID_BYTES} bytes")));
    }
    bridge.look(|view| {
        let first = first_known(view, who, q, listing);
        let (page, next) = page_of(first.into_iter().map(|user| (user, ())), listing);
        let shown = |(user, ()): (&Id, ())| UserShown {
            user: user.clone(),
            role: view.tenant_role(&who.tenant, user).to_owned(),
        };
        Ok((page.into_iter().map(shown).collect(), next))
    })
}

/// The first of them that are on the page, and one more: of a large tenant no more are kept at a time.
fn first_known<'a>(view: &'a View, who: &'a Principal, q: &str, listing: &Listing) -> BTreeSet<&'a Id> {
    let mut first = BTreeSet::new();
    let mut take = |user: &'a Id| {
        if listing.after.as_ref().is_none_or(|after| user > after) && has(user, q) {
            first.insert(user);
            if first.len() > listing.limit + 1 {
                first.pop_last();
            }
        }
    };
    if may_in_tenant(view, who, Permission::TenantAdmin).is_ok() {
        view.users(&who.tenant).for_each(take);
    } else {
        let rooms = view.rooms_of(&who.tenant, &who.user);
        let may_look = |id: &Id| may_look(view, who, id).is_ok();
        let rooms = rooms.filter(|(id, _)| may_look(id));
        rooms.for_each(|(_, room)| room.members.keys().for_each(&mut take));
    }
    first
}

fn has(user: &Id, q: &str) -> bool {
    let mut parts = user.as_str().as_bytes().windows(q.len().max(1));
    q.is_empty() || parts.any(|part| part.eq_ignore_ascii_case(q.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_by_a_part_of_it() {
        let user: Id = "Bob-Smith".parse().unwrap();
        for (q, found) in [
            ("", true),
            ("bob", true),
            ("B-s", true),
            ("SMITH", true),
            ("Bob-Smiths", false),
            ("ü", false),
            ("x", false),
        ] {
            assert_eq!(has(&user, q), found, "{q}");
        }
    }
}
