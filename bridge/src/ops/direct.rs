use natterjack_nats_config::contract::{
    Actor, Id, Kind, Principal, Problem, ProblemCode, RoomBody, RoomKind, SendPayload, Seq, direct_room,
};
use serde_json::value::to_raw_value;

use super::members::{settle_own, wait_for_own_view};
use super::rooms::RoomShown;
use super::{Bridge, send, show_room};

/// How often it is looked again after somebody else was quicker: once is enough, unless this bridge is far behind.
const ATTEMPTS: usize = 3;

/// Finds or makes the one room of two people; `true` if it is new. Whoever of the two comes first makes it, and the other finds it.
pub(crate) async fn put_direct(bridge: &Bridge, who: &Actor, with: Id) -> Result<(RoomShown, bool), Problem> {
    let id = direct_room(&who.user, &with).ok_or_else(|| Problem::invalid("a direct room is of two people"))?;
    let body = RoomBody {
        kind: RoomKind::Direct,
        with: Some(with),
        ..RoomBody::default()
    };
    let raw = to_raw_value(&body).map_err(|error| Problem::invalid(error.to_string()))?;
    for _ in 0..ATTEMPTS {
        if is_there(bridge, who, &id)? {
            return Ok((show_room(bridge, who, &id)?, false));
        }
        match send(bridge, who, id.clone(), Kind::Room, SendPayload::of_body(raw.clone())).await {
            Ok(receipt) => {
                // The memberships come right behind the room, in the same frame.
                settle_own(bridge, who, Seq(receipt.seq.0 + 1)).await;
                wait_for_own_view(bridge, receipt.seq).await;
                return Ok((show_room(bridge, who, &id)?, true));
            }
            Err(problem) if problem.code == ProblemCode::Conflict => catch_up(bridge).await,
            Err(problem) => return Err(problem),
        }
    }
    let detail = "this bridge is behind the log; try again, or ask another bridge";
    Err(Problem::new(ProblemCode::Overloaded, detail))
}

fn is_there(bridge: &Bridge, who: &Principal, id: &Id) -> Result<bool, Problem> {
    bridge.look(|view| {
        let room = view.room(&who.tenant, id);
        Ok(room.is_some_and(|room| room.kind == RoomKind::Direct && room.members.contains_key(&who.user)))
    })
}

/// Reads the log as far as it goes now.
async fn catch_up(bridge: &Bridge) {
    match bridge.log.end(&bridge.client).await {
        Ok(end) => {
            wait_for_own_view(bridge, Seq::end_of_frame(end)).await;
        }
        Err(error) => tracing::debug!(%error, "the log's end is not known"),
    }
}
