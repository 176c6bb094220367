//! Since when members are in a room, which only the archive knows.

use std::collections::HashMap;

use natterjack_nats_config::contract::{Actor, Id, Joined, MEMBERS_VERB, MembersPage, MembersQuery, Problem, Seq};

use super::history::{ask_store, catch_up};
use super::members::Member;
use super::{Bridge, Listing, may_look, members};

/// The members of a room with the time of joining, as far as the archive knows it by now.
pub(crate) async fn members_joined(
    bridge: &Bridge,
    who: &Actor,
    room: &Id,
    listing: &Listing,
) -> Result<(Vec<Member>, Option<Id>), Problem> {
    let (mut page, next) = members(bridge, who, room, listing)?;
    let query = MembersQuery {
        tenant: who.tenant.clone(),
        room: room.clone(),
        users: page.iter().map(|member| member.user().clone()).collect(),
    };
    let MembersPage { watermark, members } = ask_store(bridge, MEMBERS_VERB, &query).await?;
    catch_up(bridge, who, watermark).await?;
    bridge.look(|view| may_look(view, who, room))?;
    let mut known: HashMap<Id, Joined> = members.into_iter().map(|one| (one.user.clone(), one)).collect();
    for member in &mut page {
        let joined = known.remove(member.user());
        member.joined(joined.filter(|joined| is_of(joined, member.since(), watermark)));
    }
    Ok((page, next))
}

/// Whether what the archive says is about a membership whose present role is that of the event `since`: the archive has that
/// event, and nobody came in anew behind it.
fn is_of(joined: &Joined, since: Seq, watermark: Seq) -> bool {
    since <= watermark && joined.seq <= since
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_of_this_membership_is_not_told() {
        let joined = |seq| Joined {
            user: "bob".parse().unwrap(),
            seq: Seq(seq),
            at: "a".to_owned(),
        };
        for (seq, since, watermark, told) in [
            (5, 5, 9, true),
            (5, 7, 9, true),
            // The archive is behind: it does not know whether bob has left meanwhile.
            (5, 7, 6, false),
            // The view was behind: bob has left and come back.
            (8, 7, 9, false),
        ] {
            assert_eq!(
                is_of(&joined(seq), Seq(since), Seq(watermark)),
                told,
                "{seq} {since} {watermark}"
            );
        }
    }
}
