//! How fast events may come. One place decides, so these limits are exact; what was used is not in the log, so a successor
//! begins with whole allowances. Pure.

use std::sync::Arc;

use natterjack_authz::policy::View;
use natterjack_nats_config::contract::{By, Id, Principal, Problem, Request};
use natterjack_nats_config::limits::Limits;
use natterjack_nats_config::rate::{Rates, TooMuch};

/// Users, and rooms, whose rate is remembered at a time: some 200 bytes each.
const MOST: usize = 200_000;
/// Tenants likewise.
const MOST_TENANTS: usize = 10_000;

/// What was sent of late.
pub(crate) struct SendRates {
    limits: Arc<Limits>,
    users: Rates<Principal>,
    rooms: Rates<(Id, Id)>,
    tenants: Rates<Id>,
}

impl SendRates {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        Self {
            limits,
            users: Rates::new(MOST),
            rooms: Rates::new(MOST),
            tenants: Rates::new(MOST_TENANTS),
        }
    }

    /// Counts an event that is about to be written, or refuses it. Policy is never held up: a revocation must get through.
    pub(crate) fn charge(&mut self, view: &View, request: &Request, now_ms: i64) -> Result<(), Problem> {
        if request.kind.is_policy() || request.by == By::House {
            return Ok(());
        }
        let (who, now_us) = (&request.principal, now_ms.saturating_mul(1000));
        let limits = &self.limits;
        let sends = limits.of_role(view.tenant_role(&who.tenant, &who.user)).sends;
        let room = (who.tenant.clone(), request.room.clone());
        // All are looked at before any is used: what one refuses costs nothing of the others.
        let of_user = self.users.look(who, limits.rate(sends), now_us);
        let of_user = of_user.map_err(|over| too_much("sends per principal", over))?;
        let of_room = self.rooms.look(&room, limits.rate(limits.room_sends), now_us);
        let of_room = of_room.map_err(|over| too_much("sends per room", over))?;
        let of_tenant = self.tenants.look(&who.tenant, limits.rate(limits.tenant_sends), now_us);
        let of_tenant = of_tenant.map_err(|over| too_much("sends per tenant", over))?;
        self.users.take(who.clone(), of_user);
        self.rooms.take(room, of_room);
        self.tenants.take(who.tenant.clone(), of_tenant);
        Ok(())
    }
}

fn too_much(limiter: &'static str, over: TooMuch) -> Problem {
    Problem::rate_limited(limiter, "too much is sent; send more slowly", over.retry_after_ms)
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::{Kind, SendPayload};
    use natterjack_nats_config::limits::RoleLimits;

    use super::*;

    fn request(user: &str, room: &str, kind: Kind) -> Request {
        Request {
            principal: Principal {
                tenant: "main".parse().unwrap(),
                user: user.parse().unwrap(),
            },
            by: By::Connection,
            room: room.parse().unwrap(),
            kind,
            payload: SendPayload::from_json(br#"{"body":1}"#).unwrap(),
            vouched: None,
        }
    }

    fn limiter(rates: &mut SendRates, request: &Request, now_ms: i64) -> Option<String> {
        let refused = rates.charge(&View::default(), request, now_ms).err()?;
        Some(refused.limiter.unwrap().into())
    }

    #[test]
    fn each_limiter_is_named_and_policy_passes() {
        let sends = |sends| RoleLimits {
            sends,
            ..RoleLimits::default()
        };
        let limits = Limits {
            burst_secs: 1,
            room_sends: 3,
            tenant_sends: 5,
            roles: [("member".to_owned(), sends(2)), ("others".to_owned(), sends(100))].into(),
            ..Limits::default()
        };
        let mut rates = SendRates::new(Arc::new(limits));
        let send = |user: &str, room: &str| request(user, room, Kind::Msg);
        for (user, room, refused) in [
            ("alice", "one", None),
            ("alice", "one", None),
            ("alice", "one", Some("sends per principal")),
            ("bob", "one", None),
            ("bob", "one", Some("sends per room")),
            ("bob", "two", None),
            ("carol", "two", None),
            ("carol", "two", Some("sends per tenant")),
        ] {
            let told = limiter(&mut rates, &send(user, room), 0);
            assert_eq!(told.as_deref(), refused, "{user} {room}");
        }
        let policy = request("alice", "one", Kind::Member);
        assert_eq!(limiter(&mut rates, &policy, 0), None);
        let house = Request {
            by: By::House,
            ..send("alice", "one")
        };
        assert_eq!(limiter(&mut rates, &house, 0), None);
        assert_eq!(limiter(&mut rates, &send("alice", "one"), 1000), None);
    }

    #[test]
    fn without_settings_nothing_is_limited() {
        let mut rates = SendRates::new(Arc::new(Limits::default()));
        for _ in 0..10_000 {
            assert_eq!(limiter(&mut rates, &request("alice", "one", Kind::Msg), 0), None);
        }
    }
}
