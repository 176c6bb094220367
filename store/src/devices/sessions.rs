use std::collections::{BTreeMap, HashMap, HashSet};

use natterjack_authz::policy::{View, readable};
use natterjack_nats_config::contract::{Id, Principal, Subjects};
use serde::Deserialize;
use serde_json::Value;

use super::Wanted;

/// The MQTT sessions that ask for rooms' events at `QoS` 1: by the records that nats-server writes of them, and by the
/// consumers that it makes for them. Only where both are there is an event kept for a session.
pub(super) struct Sessions {
    subjects: Subjects,
    wanted: Wanted,
    by_record: HashMap<String, Vec<String>>,
    asks: HashMap<String, Ask>,
    alive: HashSet<String>,
    ended: HashSet<String>,
}

/// A session's subscription to a room.
struct Ask {
    who: Principal,
    tenant: Id,
    room: Id,
    /// A session that ends with its connection is never given back what was ended.
    lasts: bool,
    config: Value,
}

/// What has to be done so that a session is kept exactly what it may read.
#[derive(Debug, PartialEq)]
pub(super) enum Todo {
    /// Its consumer has to go: nothing that follows may reach it, nor what is kept already.
    End(String),
    /// Its consumer has to be made again, under the same name, where the record expects it: it begins anew at its end.
    Renew(String, Value),
}

/// A session as nats-server records it.
#[derive(Deserialize)]
struct Record {
    id: String,
    #[serde(default)]
    clean: bool,
    #[serde(default)]
    cons: Option<BTreeMap<String, Value>>,
}

impl Sessions {
    pub(super) fn new(subjects: Subjects, wanted: Wanted) -> Self {
        Self {
            subjects,
            wanted,
            by_record: HashMap::new(),
            asks: HashMap::new(),
            alive: HashSet::new(),
            ended: HashSet::new(),
        }
    }

    /// Takes in a session's record, `name` being where it is kept. Says whose it is, if it asks for anything.
    pub(super) fn record(&mut self, name: &str, record: &[u8]) -> Option<Principal> {
        for durable in self.by_record.remove(name).unwrap_or_default() {
            self.forget(&durable);
        }
        let record: Record = serde_json::from_slice(record).ok()?;
        let (tenant, user) = Subjects::parse_mqtt_client_id(&record.id)?;
        let who = Principal { tenant, user };
        let mut durables = Vec::new();
        for config in record.cons.unwrap_or_default().into_values() {
            let text = |field: &str| config.get(field).and_then(Value::as_str);
            let Some((durable, filter)) = text("durable_name").zip(text("filter_subject")) else {
                continue;
            };
            let Some((tenant, room)) = self.subjects.parse_mqtt_room(filter) else {
                continue;
            };
            let durable = durable.to_owned();
            let ask = Ask {
                who: who.clone(),
                tenant,
                room,
                lasts: !record.clean,
                config,
            };
            if self.alive.contains(&durable) {
                self.wanted.add(&ask.tenant, &ask.room);
            }
            self.asks.insert(durable.clone(), ask);
            durables.push(durable);
        }
        let asks = !durables.is_empty();
        self.by_record.insert(name.to_owned(), durables);
        asks.then_some(who)
    }

    /// A consumer was made.
    pub(super) fn created(&mut self, durable: &str) {
        self.ended.remove(durable);
        if self.alive.insert(durable.to_owned())
            && let Some(ask) = self.asks.get(durable)
        {
            self.wanted.add(&ask.tenant, &ask.room);
        }
    }

    /// A consumer is gone. If it was not ended by us, the session does not want it any more.
    pub(super) fn deleted(&mut self, durable: &str) {
        if self.alive.remove(durable)
            && let Some(ask) = self.asks.get(durable)
        {
            self.wanted.remove(&ask.tenant, &ask.room);
        }
        if !self.ended.contains(durable) {
            self.asks.remove(durable);
        }
    }

    /// These consumers are there, and no others.
    pub(super) fn all(&mut self, durables: &HashSet<String>) {
        let gone: Vec<String> = self.alive.difference(durables).cloned().collect();
        for durable in gone {
            self.deleted(&durable);
        }
        for durable in durables {
            self.created(durable);
        }
    }

    /// Whether no session asks for any room.
    pub(super) fn is_empty(&self) -> bool {
        self.asks.is_empty()
    }

    /// What has to be done for one principal, or for everybody, by the policy as it is at this place in the log.
    pub(super) fn todo(&self, view: &View, whose: Option<&Principal>) -> Vec<Todo> {
        let concerned = self
            .asks
            .iter()
            .filter(|(_, ask)| whose.is_none_or(|who| *who == ask.who));
        let todo = |(durable, ask): (&String, &Ask)| {
            let may_read = ask.who.tenant == ask.tenant && readable(view, &ask.who, &ask.room).is_some();
            match (self.alive.contains(durable), may_read) {
                (true, false) => Some(Todo::End(durable.clone())),
                (false, true) if ask.lasts => Some(Todo::Renew(durable.clone(), ask.config.clone())),
                _ => None,
            }
        };
        concerned.filter_map(todo).collect()
    }

    /// Notes that a consumer is being ended by us: its session keeps its place.
    pub(super) fn end(&mut self, durable: &str) {
        self.ended.insert(durable.to_owned());
    }

    fn forget(&mut self, durable: &str) {
        if let Some(ask) = self.asks.remove(durable)
            && self.alive.contains(durable)
        {
            self.wanted.remove(&ask.tenant, &ask.room);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use natterjack_nats_config::contract::Seq;

    use super::*;

    const LOBBY: &str = "$MQTT.msgs.chat.room.main.lobby.log";

    fn id(text: &str) -> Id {
        text.parse().unwrap()
    }

    fn sessions() -> (Sessions, Wanted) {
        let wanted = Wanted::default();
        (Sessions::new(Subjects::default(), wanted.clone()), wanted)
    }

    fn record(client: &str, clean: bool, cons: &[(&str, &str)]) -> Vec<u8> {
        let cons: serde_json::Map<String, Value> = cons
            .iter()
            .map(|(durable, filter)| {
                let config =
                    json!({"durable_name": durable, "filter_subject": filter, "deliver_subject": "$MQTT.sub.x"});
                ((*filter).to_owned(), config)
            })
            .collect();
        json!({"origin": "x", "id": client, "clean": clean, "subs": {}, "cons": cons})
            .to_string()
            .into_bytes()
    }

    fn view(members: &[&str]) -> View {
        let event = |seq: u64, kind: &str, body: Value| {
            serde_json::from_value(json!({
                "v": 1, "seq": seq, "n": seq, "prev": 0, "id": "x", "tenant": "main", "room": "lobby", "from": "alice",
                "kind": kind, "at": "2026-11-23T06:00:00.123Z", "body": body
            }))
            .unwrap()
        };
        let mut view = View::default();
        view.apply(&event(1, "room", json!({})));
        for (seq, user) in (2..).zip(members) {
            view.apply(&event(
                seq,
                "member",
                json!({"user": user, "role": "member", "visible_from": 0}),
            ));
        }
        view
    }

    #[test]
    fn a_room_is_wanted_while_a_session_has_a_record_and_a_consumer() {
        let (mut sessions, wanted) = sessions();
        let is_wanted = || wanted.want(&id("main"), &id("lobby"), Seq(1));
        let user = sessions
            .record("a", &record("main:dev1", false, &[("a_1", LOBBY)]))
            .unwrap();
        assert_eq!(user.user, id("dev1"));
        assert!(!is_wanted());
        sessions.created("a_1");
        sessions.created("a_1");
        assert!(is_wanted());
        sessions.record("b", &record("main:dev2:x", true, &[("b_1", LOBBY)]));
        sessions.created("b_1");
        sessions.deleted("a_1");
        assert!(is_wanted());
        assert_eq!(sessions.record("b", &record("main:dev2:x", true, &[])), None);
        assert!(!is_wanted() && wanted.is_empty());
        for other in [
            record("nobody", false, &[("c_1", LOBBY)]),
            record("main:dev3", false, &[("c_1", "$MQTT.msgs.chat.user.main.dev3")]),
            b"no record".to_vec(),
        ] {
            sessions.created("c_1");
            assert_eq!(sessions.record("c", &other), None);
            assert!(wanted.is_empty());
        }
    }

    #[test]
    fn a_listing_mends_what_was_not_heard() {
        let (mut sessions, wanted) = sessions();
        sessions.record("a", &record("main:dev1", false, &[("a_1", LOBBY)]));
        sessions.all(&HashSet::from(["a_1".to_owned(), "x_1".to_owned()]));
        assert!(!wanted.is_empty());
        sessions.all(&HashSet::new());
        assert!(wanted.is_empty());
    }

    #[test]
    fn who_may_not_read_keeps_nothing_and_begins_anew_when_they_may_again() {
        let (mut sessions, wanted) = sessions();
        sessions.record("a", &record("main:dev1", false, &[("a_1", LOBBY)]));
        sessions.record("b", &record("main:dev2", true, &[("b_1", LOBBY)]));
        sessions.all(&HashSet::from(["a_1".to_owned(), "b_1".to_owned()]));
        let (nobody, both) = (view(&[]), view(&["dev1", "dev2"]));
        assert_eq!(sessions.todo(&both, None), []);
        let dev1 = Principal {
            tenant: id("main"),
            user: id("dev1"),
        };
        assert_eq!(sessions.todo(&nobody, Some(&dev1)), [Todo::End("a_1".to_owned())]);
        for durable in ["a_1", "b_1"] {
            sessions.end(durable);
            sessions.deleted(durable);
        }
        assert!(wanted.is_empty());
        assert_eq!(sessions.todo(&nobody, None), []);
        let renewed = sessions.todo(&both, None);
        assert!(
            matches!(&renewed[..], [Todo::Renew(durable, config)] if durable == "a_1" && config["filter_subject"] == LOBBY)
        );
        // The device itself gave it up.
        sessions.created("a_1");
        sessions.deleted("a_1");
        assert_eq!(sessions.todo(&both, None), []);
    }

    #[test]
    fn a_session_of_another_tenant_is_ended() {
        let (mut sessions, _) = sessions();
        sessions.record("a", &record("other:dev1", false, &[("a_1", LOBBY)]));
        sessions.created("a_1");
        assert_eq!(sessions.todo(&view(&["dev1"]), None), [Todo::End("a_1".to_owned())]);
    }
}
