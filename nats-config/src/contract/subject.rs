use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Id, Kind};

/// The room name that stands for the whole tenant in subjects and events. No room may have it.
pub const TENANT_ROOM: &str = "_";

/// What nats-server puts before the subject of a message that MQTT keeps.
const MQTT_KEPT: &str = "$MQTT.msgs.";

/// The stream in which nats-server keeps messages of `QoS` 1 and 2, in an account with MQTT clients. Its name is the server's.
pub const MQTT_MESSAGES: &str = "$MQTT_msgs";

/// The stream in which nats-server keeps MQTT sessions, one message each under `$MQTT.sess.{hash of the client id}`.
pub const MQTT_SESSIONS: &str = "$MQTT_sess";

/// An event's place in the log: stream sequence of its frame `<< 10 |` index in the frame. 0 is before everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

/// Formats and parses every subject, and names the streams that follow them. Nothing else in the project does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subjects {
    prefix: String,
}

/// `chat.in.{tenant}.{user}.{room}.{kind}`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundSubject {
    /// The tenant.
    pub tenant: Id,
    /// The sender; the server lets a client publish only as itself.
    pub user: Id,
    /// The room.
    pub room: Id,
    /// What is asked for.
    pub kind: Kind,
}

/// `chat.api.{tenant}.{user}.{service}.{verb}`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiCall {
    /// The tenant.
    pub tenant: Id,
    /// The caller; the server lets a client publish only as itself.
    pub user: Id,
    /// For example `events`.
    pub service: String,
    /// For example `get`.
    pub verb: String,
}

impl Seq {
    /// Before everything.
    pub const ZERO: Self = Self(0);

    /// The place of a frame's event.
    #[must_use]
    pub fn of(stream_seq: u64, index: usize) -> Self {
        Self(stream_seq << 10 | (index as u64 & 1023))
    }

    /// The stream sequence of the frame.
    #[must_use]
    pub fn frame(self) -> u64 {
        self.0 >> 10
    }

    /// The place after which frame `stream_seq` is wholly passed.
    #[must_use]
    pub fn end_of_frame(stream_seq: u64) -> Self {
        Self(stream_seq << 10 | 1023)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Default for Subjects {
    fn default() -> Self {
        Self {
            prefix: "chat".to_owned(),
        }
    }
}

impl Subjects {
    /// Subjects below a prefix of one plain token.
    #[must_use]
    pub fn new(prefix: &Id) -> Self {
        Self {
            prefix: prefix.as_str().to_owned(),
        }
    }

    /// The first token of every subject.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn stream(&self, rest: &str) -> String {
        format!("{}_{rest}", self.prefix.to_uppercase())
    }

    /// The name of the log's stream: `CHAT_LOG_{shard}_{epoch}`.
    #[must_use]
    pub fn log_stream(&self, shard: u16, epoch: u32) -> String {
        self.stream(&format!("LOG_{shard}_{epoch}"))
    }

    /// The epoch of a shard's log, by the name of its stream; none if that is another stream.
    #[must_use]
    pub fn log_epoch(&self, shard: u16, stream: &str) -> Option<u32> {
        let epoch = stream.strip_prefix(&self.stream(&format!("LOG_{shard}_")))?;
        epoch.parse().ok().filter(|parsed: &u32| parsed.to_string() == epoch)
    }

    /// The log's one subject: `chat.log.{shard}.{epoch}`.
    #[must_use]
    pub fn log(&self, shard: u16, epoch: u32) -> String {
        format!("{}.log.{shard}.{epoch}", self.prefix)
    }

    /// The name of the rooms' stream: `CHAT_ROOMS_{shard}`.
    #[must_use]
    pub fn rooms_stream(&self, shard: u16) -> String {
        self.stream(&format!("ROOMS_{shard}"))
    }

    /// The KV bucket that holds the leases: `CHAT_LEASE`.
    #[must_use]
    pub fn lease_bucket(&self) -> String {
        self.stream("LEASE")
    }

    /// The KV bucket that holds which tickets were used: `CHAT_TICKETS`.
    #[must_use]
    pub fn ticket_bucket(&self) -> String {
        self.stream("TICKETS")
    }

    /// The object store bucket that holds the checkpoints: `CHAT_CHECKPOINTS`.
    #[must_use]
    pub fn checkpoint_bucket(&self) -> String {
        self.stream("CHECKPOINTS")
    }

    /// The stream behind that bucket, as NATS names it: `OBJ_CHAT_CHECKPOINTS`.
    #[must_use]
    pub fn checkpoint_stream(&self) -> String {
        format!("OBJ_{}", self.checkpoint_bucket())
    }

    /// Where clients ask the writer, all of them: `chat.in.>`.
    #[must_use]
    pub fn inbound_all(&self) -> String {
        format!("{}.in.>", self.prefix)
    }

    /// One request of one user: `chat.in.{tenant}.{user}.{room}.{kind}`.
    #[must_use]
    pub fn inbound(&self, to: &InboundSubject) -> String {
        format!(
            "{}.in.{}.{}.{}.{}",
            self.prefix,
            to.tenant,
            to.user,
            to.room,
            to.kind.as_str()
        )
    }

    /// Every request of one user: what that user may publish.
    #[must_use]
    pub fn inbound_of_user(&self, tenant: &Id, user: &Id) -> String {
        format!("{}.in.{tenant}.{user}.>", self.prefix)
    }

    /// Takes a subject of `chat.in.>` apart; `None` if it is not one, or an id in it is not plain.
    #[must_use]
    pub fn parse_inbound(&self, subject: &str) -> Option<InboundSubject> {
        let mut tokens = self.tokens(subject, "in")?;
        let parsed = InboundSubject {
            tenant: tokens.next()?.parse().ok()?,
            user: tokens.next()?.parse().ok()?,
            room: tokens.next()?.parse().ok()?,
            kind: Kind::parse(tokens.next()?)?,
        };
        tokens.next().is_none().then_some(parsed)
    }

    /// Where bridges put bundles for the writer: `chat.write.{shard}`.
    #[must_use]
    pub fn write(&self, shard: u16) -> String {
        format!("{}.write.{shard}", self.prefix)
    }

    /// `chat.api.{tenant}.{user}.{service}.{verb}`
    #[must_use]
    pub fn api(&self, call: &ApiCall) -> String {
        format!(
            "{}.api.{}.{}.{}.{}",
            self.prefix, call.tenant, call.user, call.service, call.verb
        )
    }

    /// One service's verb, of every user: `chat.api.*.*.{service}.{verb}`.
    #[must_use]
    pub fn api_of_service(&self, service: &str, verb: &str) -> String {
        format!("{}.api.*.*.{service}.{verb}", self.prefix)
    }

    /// Every service, for one user: what that user may publish.
    #[must_use]
    pub fn api_of_user(&self, tenant: &Id, user: &Id) -> String {
        format!("{}.api.{tenant}.{user}.>", self.prefix)
    }

    /// Takes a subject of `chat.api.>` apart.
    #[must_use]
    pub fn parse_api(&self, subject: &str) -> Option<ApiCall> {
        let mut tokens = self.tokens(subject, "api")?;
        let call = ApiCall {
            tenant: tokens.next()?.parse().ok()?,
            user: tokens.next()?.parse().ok()?,
            service: tokens.next()?.to_owned(),
            verb: tokens.next()?.to_owned(),
        };
        tokens.next().is_none().then_some(call)
    }

    /// Where the writer puts an event for its room: `chat.fan.{term}.{tenant}.{room}`.
    ///
    /// ROOMS takes in the subjects of one term only, so a fan-out of an earlier term cannot interleave.
    #[must_use]
    pub fn fan(&self, term: &str, tenant: &Id, room: &Id) -> String {
        format!("{}.fan.{term}.{tenant}.{room}", self.prefix)
    }

    /// All that ROOMS takes in during a term: `chat.fan.{term}.*.*`.
    #[must_use]
    pub fn fan_of_term(&self, term: &str) -> String {
        format!("{}.fan.{term}.*.*", self.prefix)
    }

    /// Where a fan-out begins: `chat.fan.begin`. ROOMS holds it under that name, and republishes it to nobody.
    #[must_use]
    pub fn fan_begin(&self) -> String {
        format!("{}.fan.begin", self.prefix)
    }

    /// All that ROOMS takes in, of whatever term: `chat.fan.*.*.*`.
    #[must_use]
    pub fn fan_all(&self) -> String {
        format!("{}.fan.*.*.*", self.prefix)
    }

    /// Under which subject ROOMS holds what it takes in, as a mapping of [`Subjects::fan_all`]: `chat.fan.{tenant}.{room}`.
    #[must_use]
    pub fn held_mapping(&self) -> String {
        format!("{}.fan.{{{{wildcard(2)}}}}.{{{{wildcard(3)}}}}", self.prefix)
    }

    /// Under which subject ROOMS holds a room's events: `chat.fan.{tenant}.{room}`.
    #[must_use]
    pub fn held(&self, tenant: &Id, room: &Id) -> String {
        format!("{}.fan.{tenant}.{room}", self.prefix)
    }

    /// All that ROOMS holds: `chat.fan.*.*`.
    #[must_use]
    pub fn held_all(&self) -> String {
        format!("{}.fan.*.*", self.prefix)
    }

    /// Where ROOMS republishes to, as a subject mapping.
    #[must_use]
    pub fn room_log_mapping(&self) -> String {
        format!("{}.room.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.log", self.prefix)
    }

    /// A room's events, live: `chat.room.{tenant}.{room}.log`.
    #[must_use]
    pub fn room_log(&self, tenant: &Id, room: &Id) -> String {
        format!("{}.room.{tenant}.{room}.log", self.prefix)
    }

    /// What a room does not keep (typing, presence, signals), and its head: `chat.room.{tenant}.{room}.now`.
    #[must_use]
    pub fn room_now(&self, tenant: &Id, room: &Id) -> String {
        format!("{}.room.{tenant}.{room}.now", self.prefix)
    }

    /// The same of every room: `chat.room.*.*.now`.
    #[must_use]
    pub fn room_now_all(&self) -> String {
        format!("{}.room.*.*.now", self.prefix)
    }

    /// All that a reader of a room may subscribe to: `chat.room.{tenant}.{room}.*`.
    #[must_use]
    pub fn room_all(&self, tenant: &Id, room: &Id) -> String {
        format!("{}.room.{tenant}.{room}.*", self.prefix)
    }

    /// Notices to one user: `chat.user.{tenant}.{user}`.
    #[must_use]
    pub fn user(&self, tenant: &Id, user: &Id) -> String {
        format!("{}.user.{tenant}.{user}", self.prefix)
    }

    /// Under which subject MQTT keeps what was published with `QoS` 1 or 2: `$MQTT.msgs.{subject}`.
    #[must_use]
    pub fn mqtt_kept(subject: &str) -> String {
        format!("{MQTT_KEPT}{subject}")
    }

    /// Where nats-server keeps all MQTT sessions: `$MQTT.sess.>`.
    #[must_use]
    pub fn mqtt_sessions_all() -> String {
        "$MQTT.sess.>".to_owned()
    }

    /// Where nats-server tells of consumers that are made for MQTT sessions, and that go.
    #[must_use]
    pub fn mqtt_consumer_advice() -> String {
        format!("$JS.EVENT.ADVISORY.CONSUMER.*.{MQTT_MESSAGES}.>")
    }

    /// Takes a kept request of a device apart: `$MQTT.msgs.chat.in.{tenant}.{user}.{room}.{kind}`.
    #[must_use]
    pub fn parse_mqtt_request(&self, subject: &str) -> Option<InboundSubject> {
        self.parse_inbound(subject.strip_prefix(MQTT_KEPT)?)
    }

    /// The room whose kept events an MQTT session asks for: tenant and room of `$MQTT.msgs.chat.room.{tenant}.{room}.log`,
    /// or with `*` for `log`. No other wildcard is granted to anybody.
    #[must_use]
    pub fn parse_mqtt_room(&self, filter: &str) -> Option<(Id, Id)> {
        let mut tokens = self.tokens(filter.strip_prefix(MQTT_KEPT)?, "room")?;
        let room = (tokens.next()?.parse().ok()?, tokens.next()?.parse().ok()?);
        let wanted = matches!(tokens.next()?, "log" | "*");
        (wanted && tokens.next().is_none()).then_some(room)
    }

    /// All copies of events that are kept for MQTT sessions: `$MQTT.msgs.chat.room.>`.
    #[must_use]
    pub fn mqtt_rooms_all(&self) -> String {
        Self::mqtt_kept(&format!("{}.room.>", self.prefix))
    }

    /// The durable consumer by which store reads what devices published: `CHAT_IN`.
    #[must_use]
    pub fn devices_consumer(&self) -> String {
        self.stream("IN")
    }

    /// The KV bucket that says how far the rooms' events were kept for MQTT sessions: `CHAT_DEVICES`.
    #[must_use]
    pub fn devices_bucket(&self) -> String {
        self.stream("DEVICES")
    }

    /// The store's internal service for bridges: `chat.store.{verb}`.
    #[must_use]
    pub fn store_service(&self, verb: &str) -> String {
        format!("{}.store.{verb}", self.prefix)
    }

    /// One authz worker's internal service: `chat.authz.{worker}.{verb}`.
    #[must_use]
    pub fn authz_service(&self, worker: &Id, verb: &str) -> String {
        format!("{}.authz.{worker}.{verb}", self.prefix)
    }

    /// The name under which a principal's connections show in the server: `{tenant}.{user}`.
    ///
    /// Ids hold no dot, so two principals never share one.
    #[must_use]
    pub fn principal_name(tenant: &Id, user: &Id) -> String {
        format!("{tenant}.{user}")
    }

    /// The MQTT client id of a principal: `{tenant}:{user}`, or that and `:something` for more than one device.
    ///
    /// MQTT sessions belong to their client id, so a principal may use only its own; nats-server refuses dots in one.
    #[must_use]
    pub fn mqtt_client_id(tenant: &Id, user: &Id) -> String {
        format!("{tenant}:{user}")
    }

    /// Whose MQTT session a client id names.
    #[must_use]
    pub fn parse_mqtt_client_id(client_id: &str) -> Option<(Id, Id)> {
        let mut parts = client_id.splitn(3, ':');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// All inboxes a user may hear: `_INBOX.{tenant}.{user}.>`.
    #[must_use]
    pub fn user_inbox_all(tenant: &Id, user: &Id) -> String {
        format!("{}.>", Self::user_inbox(tenant, user))
    }

    /// The inbox prefix a user's client must be set to: `_INBOX.{tenant}.{user}`.
    #[must_use]
    pub fn user_inbox(tenant: &Id, user: &Id) -> String {
        format!("_INBOX.{tenant}.{user}")
    }

    /// The inbox prefix of a worker: `_INBOX_{role}`.
    #[must_use]
    pub fn worker_inbox(role: &str) -> String {
        format!("_INBOX_{role}")
    }

    /// Whether a reply subject was made by the server's service import, so that answering it cannot
    /// be steered by whoever asked.
    #[must_use]
    pub fn is_import_reply(reply: &str) -> bool {
        reply.starts_with("_R_.")
    }

    fn tokens<'a>(&self, subject: &'a str, family: &str) -> Option<std::str::Split<'a, char>> {
        let rest = subject.strip_prefix(self.prefix.as_str())?.strip_prefix('.')?;
        Some(rest.strip_prefix(family)?.strip_prefix('.')?.split('.'))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> Id {
        text.parse().unwrap()
    }

    proptest! {
        #[test]
        fn parsing_undoes_building(t in "[A-Za-z0-9_-]{1,64}", u in "[A-Za-z0-9_-]{1,64}", r in "[A-Za-z0-9_-]{1,64}") {
            let subjects = Subjects::default();
            let inbound = InboundSubject { tenant: id(&t), user: id(&u), room: id(&r), kind: Kind::Msg };
            prop_assert_eq!(subjects.parse_inbound(&subjects.inbound(&inbound)), Some(inbound));
        }

        #[test]
        fn what_one_user_may_publish_never_covers_another(t in "[A-Za-z0-9_-]{1,8}", u in "[A-Za-z0-9_-]{1,8}", w in "[A-Za-z0-9_-]{1,8}") {
            prop_assume!(u != w);
            let subjects = Subjects::default();
            let mine = subjects.inbound_of_user(&id(&t), &id(&u));
            let theirs = subjects.inbound(&InboundSubject { tenant: id(&t), user: id(&w), room: id("r"), kind: Kind::Msg });
            prop_assert!(!theirs.starts_with(mine.trim_end_matches('>')));
        }

        #[test]
        fn no_junk_is_parsed(subject in "chat\\.in\\.\\PC{0,40}") {
            let subjects = Subjects::default();
            if let Some(parsed) = subjects.parse_inbound(&subject) {
                prop_assert_eq!(subjects.inbound(&parsed), subject);
            }
        }
    }

    #[test]
    fn what_mqtt_keeps_is_taken_apart() {
        let subjects = Subjects::default();
        let room = |filter: &str| subjects.parse_mqtt_room(filter).map(|(t, r)| format!("{t}/{r}"));
        assert_eq!(
            room("$MQTT.msgs.chat.room.main.lobby.log").as_deref(),
            Some("main/lobby")
        );
        assert_eq!(room("$MQTT.msgs.chat.room.main.lobby.*").as_deref(), Some("main/lobby"));
        for other in [
            "$MQTT.msgs.chat.room.main.lobby.now",
            "$MQTT.msgs.chat.room.main.*.log",
            "$MQTT.msgs.chat.room.main.lobby.log.x",
            "$MQTT.msgs.chat.user.main.alice",
            "chat.room.main.lobby.log",
        ] {
            assert_eq!(room(other), None, "{other}");
        }
        let request = subjects
            .parse_mqtt_request("$MQTT.msgs.chat.in.main.dev1.lobby.msg")
            .unwrap();
        assert_eq!((request.user, request.kind), (id("dev1"), Kind::Msg));
        assert_eq!(subjects.parse_mqtt_request("chat.in.main.dev1.lobby.msg"), None);
        let owner = |client_id: &str| Subjects::parse_mqtt_client_id(client_id);
        assert_eq!(owner("main:dev1"), Some((id("main"), id("dev1"))));
        assert_eq!(owner("main:dev1:phone:2"), Some((id("main"), id("dev1"))));
        assert_eq!(owner("main"), None);
    }

    #[test]
    fn streams_follow_the_prefix() {
        let subjects = Subjects::new(&id("talk"));
        assert_eq!(subjects.log_stream(0, 1), "TALK_LOG_0_1");
        assert_eq!(subjects.rooms_stream(0), "TALK_ROOMS_0");
        assert_eq!(subjects.room_log(&id("main"), &id("lobby")), "talk.room.main.lobby.log");
    }

    #[test]
    fn sequences_hold_the_frame_and_the_index() {
        let seq = Seq::of(42, 3);
        assert_eq!((seq.0, seq.frame()), (42 * 1024 + 3, 42));
        assert!(Seq::end_of_frame(41) < Seq::of(42, 0));
    }
}
