use std::collections::HashMap;

use bytes::Bytes;
use natterjack_authz::policy::{Permission, View, may};
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{
    Durability, Ephemeral, Kind, Principal, Problem, ProblemCode, Receipt, Request, Seq,
};

use super::admit::Now;
use super::tokens::by_a_good_token;

/// The largest body of `typing` and `presence`, in bytes: a state and a few words.
const MAX_BODY_BYTES: usize = 4 * 1024;
/// The largest body of a `signal`, in bytes: a call's offer with its candidates.
const MAX_SIGNAL_BYTES: usize = 16 * 1024;
/// The milliseconds that one of them costs its sender: 10 a second, which is faster than anybody types.
const COST_MS: i64 = 100;
/// How far ahead a sender may be: 30 at once, a call's candidates.
const BURST_MS: i64 = 3000;
/// The senders whose rate is remembered at a time, some 150 bytes each. More than that are refused until others are silent.
const MAX_SENDERS: usize = 100_000;

/// Judges what is told and not kept. Nothing of it goes into the log or the state, and each leader counts anew.
#[derive(Default)]
pub(crate) struct Ephemera {
    /// When each sender's allowance is whole again, in log time. Who is not here has a whole one.
    whole_at: HashMap<Principal, i64>,
}

impl Ephemera {
    /// Decides a request by the policy as it is now: what is told to the room, and the receipt.
    pub(crate) fn admit(&mut self, view: &View, request: &Request, now: &Now) -> Result<(Bytes, Receipt), Problem> {
        by_a_good_token(view, request, now, now.at_ms)?;
        if request.payload.on_behalf_of.is_some() {
            return Err(Problem::invalid("what is not kept is sent `as` nobody else"));
        }
        let needed = match request.kind {
            Kind::Presence => Permission::RoomRead,
            _ => Permission::RoomSend,
        };
        may(view, &request.principal, &request.room, needed)?;
        let most = if request.kind == Kind::Signal {
            MAX_SIGNAL_BYTES
        } else {
            MAX_BODY_BYTES
        };
        if request.payload.body.get().len() > most {
            let detail = format!("the body of `{}` is larger than {most} bytes", request.kind.as_str());
            return Err(Problem::new(ProblemCode::TooLarge, detail));
        }
        self.charge(&request.principal, now.at_ms)?;
        let told = Ephemeral {
            v: 1,
            id: (now.new_id)(),
            tenant: request.principal.tenant.clone(),
            room: request.room.clone(),
            from: request.principal.user.clone(),
            kind: request.kind,
            at: clock::format_ms(now.at_ms),
            body: request.payload.body.clone(),
        };
        let bytes = serde_json::to_vec(&told)
            .map_err(|error| Problem::new(ProblemCode::Internal, format!("it cannot be encoded: {error}")))?;
        let receipt = Receipt {
            id: told.id,
            seq: Seq::ZERO,
            n: 0,
            at: told.at,
            durability: Durability::None,
            duplicate: false,
        };
        Ok((bytes.into(), receipt))
    }

    fn charge(&mut self, who: &Principal, now_ms: i64) -> Result<(), Problem> {
        if self.whole_at.len() >= MAX_SENDERS {
            self.whole_at.retain(|_, whole_at| *whole_at > now_ms);
        }
        let whole_at = self.whole_at.get(who).copied().unwrap_or(now_ms).max(now_ms) + COST_MS;
        let is_full = self.whole_at.len() >= MAX_SENDERS && !self.whole_at.contains_key(who);
        if whole_at - now_ms > BURST_MS || is_full {
            return Err(Problem::rate_limited(
                "typing, presence and signal per principal",
                "too much of what is not kept; send more slowly",
                1000,
            ));
        }
        self.whole_at.insert(who.clone(), whole_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::SendPayload;
    use serde_json::value::RawValue;

    use serde_json::json;

    use super::*;

    /// A room with members of these roles.
    fn room_of(members: &[(&str, &str)]) -> View {
        let event = |seq: u64, kind: &str, body: serde_json::Value| {
            serde_json::from_value(json!({
                "v": 1, "seq": seq, "n": seq, "prev": 0, "id": "x", "tenant": "main", "room": "lobby", "from": "alice",
                "kind": kind, "at": "2026-11-23T06:00:00.123Z", "body": body
            }))
            .unwrap()
        };
        let mut view = View::default();
        view.apply(&event(1, "room", json!({})));
        for (seq, (user, role)) in (2..).zip(members) {
            view.apply(&event(
                seq,
                "member",
                json!({"user": user, "role": role, "visible_from": 0}),
            ));
        }
        view
    }

    fn now_at(at_ms: i64) -> Now {
        Now {
            at_ms,
            wall_ms: at_ms,
            new_id: || "x".to_owned(),
            log_full: false,
        }
    }

    fn request(user: &str, kind: Kind, body: &str) -> Request {
        Request {
            by: natterjack_nats_config::contract::By::default(),
            principal: Principal {
                tenant: "main".parse().unwrap(),
                user: user.parse().unwrap(),
            },
            room: "lobby".parse().unwrap(),
            kind,
            payload: SendPayload::of_body(RawValue::from_string(body.to_owned()).unwrap()),
            vouched: None,
        }
    }

    fn code(outcome: &Result<(Bytes, Receipt), Problem>) -> Option<ProblemCode> {
        outcome.as_ref().err().map(|problem| problem.code)
    }

    #[test]
    fn who_may_send_may_tell_and_readers_may_be_present() {
        let view = room_of(&[("alice", "owner"), ("bob", "reader")]);
        let large = format!("\"{}\"", "x".repeat(5000));
        let huge = format!("\"{}\"", "x".repeat(17_000));
        let rows = [
            ("alice", Kind::Typing, "{}", None),
            ("alice", Kind::Signal, large.as_str(), None),
            ("alice", Kind::Signal, huge.as_str(), Some(ProblemCode::TooLarge)),
            ("alice", Kind::Typing, large.as_str(), Some(ProblemCode::TooLarge)),
            ("bob", Kind::Presence, "{}", None),
            ("bob", Kind::Typing, "{}", Some(ProblemCode::Forbidden)),
            ("eve", Kind::Presence, "{}", Some(ProblemCode::NotFound)),
        ];
        for (user, kind, body, expected) in rows {
            let outcome = Ephemera::default().admit(&view, &request(user, kind, body), &now_at(0));
            assert_eq!(code(&outcome), expected, "{user} {kind:?}");
        }
        let outcome = Ephemera::default().admit(&view, &request("alice", Kind::Typing, "{\"on\":true}"), &now_at(0));
        let (bytes, receipt) = outcome.unwrap();
        let told: Ephemeral = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((told.from.as_str(), told.body.get()), ("alice", "{\"on\":true}"));
        assert_eq!((receipt.durability, receipt.seq), (Durability::None, Seq::ZERO));
    }

    #[test]
    fn a_sender_is_held_to_a_rate_and_delays_nobody_else() {
        let view = room_of(&[("alice", "owner"), ("bob", "member")]);
        let mut ephemera = Ephemera::default();
        let mut tell = |user, at_ms| code(&ephemera.admit(&view, &request(user, Kind::Typing, "{}"), &now_at(at_ms)));
        for _ in 0..30 {
            assert_eq!(tell("alice", 1000), None);
        }
        assert_eq!(tell("alice", 1000), Some(ProblemCode::RateLimited));
        assert_eq!(tell("bob", 1000), None);
        assert_eq!(tell("alice", 1099), Some(ProblemCode::RateLimited));
        assert_eq!(tell("alice", 1100), None);
        assert_eq!(tell("alice", 1100), Some(ProblemCode::RateLimited));
    }
}
