use natterjack_authz::policy::{Permission, View, may, may_in_tenant};
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{
    BanBody, By, Durability, EraseBody, Event, HoldBody, Id, KeyBody, Kind, LoginBody, MAX_EMOJI_BYTES,
    MAX_EVENT_BYTES, MAX_FRAME_BYTES, MAX_FRAME_EVENTS, MemberBody, Principal, Problem, ProblemCode, ReactBody,
    ReadBody, ReadUpTo, Receipt, Request, RoleBody, RoomBody, RoomHistory, Seq, TENANT_ROOM, Target, TokenBody,
    UserBody,
};
use serde_json::value::{RawValue, to_raw_value};

use super::api_keys::{permit_key, read_key};
use super::behalf::permit_send;
use super::claims::permit_claim;
use super::erase::{permit_erasure, read_erasure};
use super::keys::{Content, Known, Marked};
use super::rates::SendRates;
use super::recent;
use super::roles::{permit_member, permit_role, permit_user, read_role};
use super::rooms::{Companion, check_reason, permit_ban, permit_room, read_ban, read_room, with_ban, with_room};
use super::state::{State, membership_request};
use super::target;
use super::tokens::{by_a_good_token, permit_revocation, read_revocation, stamp_revocation};

/// Room that one request may need beyond its body: the envelope, and the events that come with it.
const ENVELOPE_BYTES: usize = 2048;
/// The most events of one request: a direct room and its two people.
const MAX_EVENTS: usize = 3;

/// What does not come from the log: the time and the ids.
pub(crate) struct Now {
    /// Log time in milliseconds since 1970.
    pub(crate) at_ms: i64,
    /// This machine's clock, in milliseconds since 1970: by it is told how long ago a server took what it kept, and nothing else.
    pub(crate) wall_ms: i64,
    /// Gives a fresh UUIDv7.
    pub(crate) new_id: fn() -> String,
    /// Above the log's soft limit only policy is written.
    pub(crate) log_full: bool,
}

/// A frame that is being built for the place after the state's end.
pub(crate) struct Draft {
    stream_seq: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) events: usize,
    pub(crate) has_policy: bool,
}

/// An event as it was asked for.
pub(super) struct Wanted {
    room: Id,
    pub(super) kind: Kind,
    pub(super) body: Box<RawValue>,
    target: Option<Target>,
    key: Option<Marked>,
}

/// What a request would change, as far as its permission depends on it.
enum Change {
    Room(RoomBody),
    Member(MemberBody),
    User(UserBody),
    Role(RoleBody),
    Ban(BanBody),
    /// One message.
    Message,
    /// What its user has read.
    Read(Seq),
    Token(TokenBody),
    Key(KeyBody),
    /// Said by a worker, which nobody has to permit.
    House,
    /// What must be kept.
    Hold,
    /// What is erased.
    Erase(EraseBody),
    Nothing,
}

impl Draft {
    /// An empty frame behind `end`.
    pub(crate) fn after(end: u64) -> Self {
        Self {
            stream_seq: end + 1,
            bytes: Vec::new(),
            events: 0,
            has_policy: false,
        }
    }

    /// The place of the event that is written next.
    fn next_seq(&self) -> Seq {
        Seq::of(self.stream_seq, self.events)
    }

    /// Whether another request surely fits.
    pub(crate) fn fits(&self, request: &Request) -> bool {
        let bytes = self.bytes.len() + request.payload.body.get().len() + ENVELOPE_BYTES;
        self.events == 0 || (self.events + MAX_EVENTS <= MAX_FRAME_EVENTS && bytes <= MAX_FRAME_BYTES)
    }
}

/// [`admit_at_rate`] without limits.
#[cfg(test)]
pub(crate) fn admit(state: &mut State, draft: &mut Draft, request: &Request, now: &Now) -> Result<Receipt, Problem> {
    admit_at_rate(
        state,
        draft,
        request,
        now,
        &mut SendRates::new(std::sync::Arc::default()),
    )
}

/// Decides a request against the exact state at its place in the log. What is admitted is added to the draft and to the
/// state; the receipt is good only once the draft stands in the log.
pub(crate) fn admit_at_rate(
    state: &mut State,
    draft: &mut Draft,
    request: &Request,
    now: &Now,
    rates: &mut SendRates,
) -> Result<Receipt, Problem> {
    let (mut wanted, change) = read(request)?;
    let known = wanted.key.as_ref().map(|key| state.keys.look_up(key));
    // What stands in the log stands, whatever has become of the sender's rights and tokens since.
    if let Some(Known::Same(receipt)) = known {
        return Ok(receipt);
    }
    let now_ms = now.at_ms.max(state.at_ms());
    by_a_good_token(&state.view, request, now, now_ms)?;
    match &change {
        Change::Message => wanted.target = Some(target::judge(state, request)?),
        Change::Erase(body) => wanted.target = permit_erasure(state, request, body)?,
        Change::Read(seq) => permit_read(state, request, *seq)?,
        Change::Token(change) => permit_revocation(&state.view, request, change, now_ms)?,
        Change::Key(key) => permit_key(&state.view, request, key, now_ms)?,
        change => permit(&state.view, request, change)?,
    }
    known.as_ref().map_or(Ok(()), free)?;
    if now.log_full && !request.kind.is_policy() {
        return Err(log_full());
    }
    let head = state.head(&request.principal.tenant, &request.room);
    if request.payload.if_last.is_some_and(|expected| expected != head.seq) {
        let detail = format!("`if_last` is not the room's last event, which is {}", head.seq);
        return Err(Problem::new(ProblemCode::SequenceConflict, detail));
    }
    rates.charge(&state.view, request, now_ms)?;
    stamp_visible_from(&state.view, request, &mut wanted, draft)?;
    stamp_revocation(&state.view, &request.principal.tenant, &mut wanted, now_ms)?;
    let companions = companions(&state.view, request, &change)?;
    let receipt = write(state, draft, request, &wanted, now)?;
    write_companions(state, draft, request, companions, now)?;
    Ok(receipt)
}

/// What comes with the event that is asked for.
fn companions(view: &View, request: &Request, change: &Change) -> Result<Vec<Companion>, Problem> {
    match change {
        Change::Room(change) => with_room(view, request, change),
        Change::Ban(change) => with_ban(view, request, change),
        _ => Ok(Vec::new()),
    }
}

fn write_companions(
    state: &mut State,
    draft: &mut Draft,
    request: &Request,
    companions: Vec<Companion>,
    now: &Now,
) -> Result<(), Problem> {
    if companions.is_empty() {
        return Ok(());
    }
    let keyless = Request {
        payload: without_key(request),
        ..request.clone()
    };
    for (kind, body) in companions {
        let wanted = Wanted {
            room: request.room.clone(),
            kind,
            body,
            target: None,
            key: None,
        };
        write(state, draft, &keyless, &wanted, now)?;
    }
    Ok(())
}

/// The first event of a tenant: who administers it. Asked for by the configuration, not by a principal.
pub(crate) fn found_tenant(state: &mut State, draft: &mut Draft, admin: &Principal, now: &Now) -> Result<(), Problem> {
    let body = UserBody {
        user: admin.user.clone(),
        role: "admin".parse().ok(),
        claimed: None,
    };
    let room = tenant_room()?;
    let body = raw(&body)?;
    let request = Request {
        principal: admin.clone(),
        by: By::House,
        room: room.clone(),
        kind: Kind::User,
        payload: natterjack_nats_config::SendPayload::of_body(body.clone()),
        vouched: None,
    };
    let wanted = Wanted {
        room,
        kind: Kind::User,
        body,
        target: None,
        key: None,
    };
    write(state, draft, &request, &wanted, now).map(|_| ())
}

/// Reads what is asked for, whoever asks.
fn read(request: &Request) -> Result<(Wanted, Change), Problem> {
    check_place(request)?;
    let (body, change) = understand(request)?;
    // How the body counts when a repeated request is compared with the first, where that is not the body as it is written.
    let requested = match &change {
        Change::Member(change) => Some(membership_request(change)),
        Change::Erase(body) => Some(body.requested()),
        _ => None,
    };
    // What somebody has read is no event of the room: it would be unread by all others.
    let room = match change {
        Change::Read(_) => tenant_room()?,
        _ => request.room.clone(),
    };
    let key = request.payload.key.as_deref().map(|key| {
        let content = Content {
            tenant: &request.principal.tenant,
            user: &request.principal.user,
            room: &room,
            kind: request.kind,
            reply_to: request.payload.reply_to.as_deref(),
            target: request.payload.target.as_deref(),
            on_behalf_of: request.payload.on_behalf_of.as_ref(),
            body: requested.as_deref().unwrap_or(body.get()),
        };
        Marked::of(key, &content)
    });
    let wanted = Wanted {
        room,
        kind: request.kind,
        body,
        target: None,
        key,
    };
    Ok((wanted, change))
}

/// The body as it will be written, and what it changes.
fn understand(request: &Request) -> Result<(Box<RawValue>, Change), Problem> {
    let as_asked = &request.payload.body;
    Ok(match request.kind {
        Kind::Room => {
            let change = read_room(as_asked)?;
            (raw(&change)?, Change::Room(change))
        }
        Kind::Role => {
            let change = read_role(as_asked)?;
            (raw(&change)?, Change::Role(change))
        }
        Kind::Ban => {
            let change = read_ban(as_asked)?;
            (raw(&change)?, Change::Ban(change))
        }
        Kind::Member => {
            let change: MemberBody = parse(as_asked)?;
            (as_asked.clone(), Change::Member(change))
        }
        Kind::User => {
            let change: UserBody = parse(as_asked)?;
            (raw(&change)?, Change::User(change))
        }
        Kind::Read => {
            let ReadUpTo { seq } = parse(as_asked)?;
            let room = request.room.clone();
            (raw(&ReadBody { room, seq })?, Change::Read(seq))
        }
        Kind::React | Kind::Unreact => (raw(&react_body(as_asked)?)?, Change::Message),
        kind if kind.has_target() => (as_asked.clone(), Change::Message),
        Kind::Token => {
            let change = read_revocation(as_asked)?;
            (raw(&change)?, Change::Token(change))
        }
        Kind::Login => {
            if request.by != By::House {
                return Err(Problem::invalid("`login` is no one's to say but the workers'"));
            }
            let body: LoginBody = parse(as_asked)?;
            (raw(&body)?, Change::House)
        }
        Kind::Key => {
            let key = read_key(as_asked)?;
            (raw(&key)?, Change::Key(key))
        }
        Kind::Hold => (raw(&hold_body(as_asked)?)?, Change::Hold),
        Kind::Erase => erasure(request)?,
        kind if kind.is_ephemeral() => return Err(Problem::invalid("what is not kept has no place in the log")),
        _ => (as_asked.clone(), Change::Nothing),
    })
}

fn erasure(request: &Request) -> Result<(Box<RawValue>, Change), Problem> {
    let body = read_erasure(request)?;
    Ok((raw(&body)?, Change::Erase(body)))
}

/// Whether the request is about a room, the tenant or a message, as its kind is.
fn check_place(request: &Request) -> Result<(), Problem> {
    let about_tenant = request.room.as_str() == TENANT_ROOM;
    let (is_of_tenant, has_target) = match request.kind {
        // Of a user, or of a message.
        Kind::Erase => (request.payload.target.is_none(), !about_tenant),
        kind => (kind.is_of_tenant(), kind.has_target()),
    };
    if about_tenant != is_of_tenant {
        return Err(Problem::invalid(format!(
            "the room `{TENANT_ROOM}` stands for the whole tenant: only `user`, `token`, `key`, `login`, `hold`, `role` and (of a user) `erase` events \
             go there, and nowhere else"
        )));
    }
    if request.payload.target.is_some() != has_target {
        let name = request.kind.as_str();
        return Err(Problem::invalid(format!(
            "`target`, the id of a message, goes with what changes one, and with nothing else; this is `{name}`"
        )));
    }
    if request.payload.on_behalf_of.is_some() && !request.kind.is_message() {
        return Err(Problem::invalid(
            "only messages, commands and replies are sent `as` somebody else",
        ));
    }
    if request.payload.reply_to.as_deref().is_some_and(|id| !recent::is_id(id)) {
        return Err(Problem::invalid(
            "`reply_to` must be the `id` of a message, as its event and its receipt have it",
        ));
    }
    Ok(())
}

fn tenant_room() -> Result<Id, Problem> {
    TENANT_ROOM
        .parse()
        .map_err(|error| Problem::invalid(format!("{error}")))
}

fn react_body(body: &RawValue) -> Result<ReactBody, Problem> {
    let body: ReactBody = parse(body)?;
    if !(1..=MAX_EMOJI_BYTES).contains(&body.emoji.len()) || body.emoji.chars().any(char::is_control) {
        return Err(Problem::invalid(format!(
            "`emoji` must be 1 to {MAX_EMOJI_BYTES} bytes without control characters"
        )));
    }
    Ok(body)
}

fn hold_body(body: &RawValue) -> Result<HoldBody, Problem> {
    let body: HoldBody = parse(body)?;
    if body.room.is_some() == body.user.is_some() {
        return Err(Problem::invalid("hold a `room` or a `user`"));
    }
    check_reason(body.reason.as_deref())?;
    Ok(body)
}

/// Whether the principal may have this done, by the policy at this place in the log.
fn permit(view: &View, request: &Request, change: &Change) -> Result<(), Problem> {
    let (who, room) = (&request.principal, &request.room);
    match change {
        Change::Room(change) => permit_room(view, request, change)?,
        Change::Member(change) => permit_member(view, request, change)?,
        // Judged by the time too.
        Change::Token(_) | Change::Key(_) | Change::Erase(_) | Change::House => {}
        Change::Hold => may_in_tenant(view, who, Permission::TenantAudit)?,
        Change::User(UserBody {
            claimed: Some(by),
            user,
            role,
        }) => permit_claim(view, request, (user, role.as_ref(), by))?,
        Change::User(change) => permit_user(view, who, change)?,
        Change::Role(change) => permit_role(view, who, change)?,
        Change::Ban(change) => permit_ban(view, request, change)?,
        Change::Nothing => permit_send(view, request)?,
        Change::Message | Change::Read(_) => may(view, who, room, Permission::RoomSend)?,
    }
    Ok(())
}

/// Readers say what they have read, up to the room's last event.
fn permit_read(state: &State, request: &Request, seq: Seq) -> Result<(), Problem> {
    let (who, room) = (&request.principal, &request.room);
    may(&state.view, who, room, Permission::RoomRead)?;
    let last = state.head(&who.tenant, room).seq;
    if seq > last {
        return Err(Problem::invalid(format!(
            "`seq` is behind the room's last event, which is {last}"
        )));
    }
    Ok(())
}

/// Someone who is in the room keeps what he could see; a newcomer sees what the request says, by default everything, or what
/// comes after joining where the room is set so. Judged after the key, so that a repeated removal gets its first receipt again.
fn stamp_visible_from(view: &View, request: &Request, wanted: &mut Wanted, draft: &Draft) -> Result<(), Problem> {
    if wanted.kind != Kind::Member {
        return Ok(());
    }
    let mut body: MemberBody = parse(&wanted.body)?;
    let now = view.membership(&request.principal.tenant, &request.room, &body.user);
    body.visible_from = match (&body.role, now) {
        (None, None) => {
            return Err(Problem::new(
                ProblemCode::NotFound,
                format!("{} is no member of this room", body.user),
            ));
        }
        (None, Some(_)) => None,
        (Some(_), Some(member)) => Some(body.visible_from.unwrap_or_default().max(member.visible_from)),
        (Some(_), None) => {
            let room = view.room(&request.principal.tenant, &request.room);
            let joined = room.is_some_and(|room| room.history == RoomHistory::Joined);
            let at_least = if joined { draft.next_seq() } else { Seq::ZERO };
            Some(body.visible_from.unwrap_or_default().max(at_least))
        }
    };
    wanted.body = raw(&body)?;
    Ok(())
}

/// Whether a key may be taken for a new event.
fn free(known: &Known) -> Result<(), Problem> {
    match known {
        Known::New | Known::Same(_) => Ok(()),
        Known::Different => Err(Problem::new(
            ProblemCode::IdempotencyMismatch,
            "this key was used within the last ten minutes for another request; take a new key",
        )),
        Known::Full => Err(Problem::rate_limited(
            "keys per principal",
            "too many keys of this user within ten minutes; send more slowly",
            1000,
        )),
    }
}

fn write(
    state: &mut State,
    draft: &mut Draft,
    request: &Request,
    wanted: &Wanted,
    now: &Now,
) -> Result<Receipt, Problem> {
    let tenant = &request.principal.tenant;
    let head = state.head(tenant, &wanted.room);
    let behalf = request.payload.on_behalf_of.as_ref();
    let event = Event {
        v: 1,
        seq: draft.next_seq(),
        n: head.n + 1,
        prev: head.seq,
        id: (now.new_id)(),
        tenant: tenant.clone(),
        room: wanted.room.clone(),
        from: behalf.unwrap_or(&request.principal.user).clone(),
        via: behalf.map(|_| request.principal.user.clone()),
        kind: wanted.kind,
        at: clock::format_ms(now.at_ms.max(state.at_ms())),
        key: request.payload.key.clone(),
        reply_to: request.payload.reply_to.clone(),
        target: wanted.target.clone(),
        body: wanted.body.clone(),
        erased: None,
    };
    let start = draft.bytes.len();
    serde_json::to_writer(&mut draft.bytes, &event).map_err(|error| internal(&error))?;
    if draft.bytes.len() - start > MAX_EVENT_BYTES {
        draft.bytes.truncate(start);
        let detail = format!("the event would be larger than {MAX_EVENT_BYTES} bytes; send a reference instead");
        return Err(Problem::new(ProblemCode::TooLarge, detail));
    }
    draft.bytes.push(b'\n');
    draft.events += 1;
    draft.has_policy |= wanted.kind.is_policy();
    state.apply_with_key(&event, wanted.key.as_ref());
    Ok(Receipt {
        id: event.id,
        seq: event.seq,
        n: event.n,
        at: event.at,
        durability: Durability::Log,
        duplicate: false,
    })
}

pub(crate) fn log_full() -> Problem {
    Problem::new(
        ProblemCode::LogFull,
        "the log is nearly full, messages are refused until there is room; raise `store.log_max_bytes` and restart store",
    )
}

fn without_key(request: &Request) -> natterjack_nats_config::SendPayload {
    natterjack_nats_config::SendPayload::of_body(request.payload.body.clone())
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(body: &RawValue) -> Result<T, Problem> {
    serde_json::from_str(body.get()).map_err(|error| Problem::invalid(format!("`body`: {error}")))
}

pub(super) fn raw<T: serde::Serialize>(value: &T) -> Result<Box<RawValue>, Problem> {
    to_raw_value(value).map_err(|error| internal(&error))
}

fn internal(error: &serde_json::Error) -> Problem {
    Problem::new(ProblemCode::Internal, format!("the event cannot be encoded: {error}"))
}

#[cfg(test)]
mod tests;
