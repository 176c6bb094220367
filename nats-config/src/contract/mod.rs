//! The contract between workers and clients. Nothing in here does I/O.

mod api_key;
mod audit;
mod body;
mod bundle;
mod checkpoint;
mod direct;
mod erase;
mod event;
mod frame;
mod history;
mod hold;
mod id;
mod members;
mod problem;
mod reactions;
mod receipt;
mod request;
mod rooms;
mod search;
mod subject;
mod trail;

pub use api_key::{KEY_PREFIX, KeyBody, MAX_KEY_NAME_BYTES, key_of_jti};
pub use audit::{AUDIT_VERB, AuditReport, Fault, Finding, FindingState};
pub use body::{MAX_DEPTH, TooDeep, body_from_bytes, check_depth, compact};
pub use bundle::{Outcome, read_bundle, read_outcomes, write_bundle_line, write_outcome};
pub use checkpoint::{
    CHECKPOINT_SLOTS, CHECKPOINTS_KEPT, MANIFEST_VERSION, Manifest, Part, Piece, STATE, StateStamp, checkpoint_object,
    manifest_slot,
};
pub use direct::{direct_room, is_direct_room};
pub use erase::{
    CONTENT, Counted, Covered, ERASABLE_VERB, ERASURES_VERB, Erasable, ErasableQuery, EraseBody, Erased, Erasure,
    ErasureState, ErasuresPage, ErasuresQuery, MAX_ERASED_MESSAGES, MAX_ERASURES, PendingPart, redacted,
};
pub use event::{
    BanBody, ClaimedBy, Ephemeral, Event, EventHead, EventLine, Head, HoldBody, Kind, MAX_EMOJI_BYTES,
    MAX_ISSUER_BYTES, MAX_REASON_BYTES, MAX_RETENTION_DAYS, MemberBody, ReactBody, ReadBody, ReadUpTo, Retention,
    RoleBody, RoleScope, RoomBody, RoomHead, RoomHistory, RoomKind, Target, TokenBody, UserBody,
};
pub use frame::{FrameError, MAX_EVENT_BYTES, MAX_FRAME_BYTES, MAX_FRAME_EVENTS, events_of};
pub use history::{
    ArchiveWatermark, DEFAULT_HISTORY_LIMIT, HISTORY_VERB, HistoryPage, HistoryQuery, MAX_HISTORY_BYTES,
    MAX_HISTORY_LIMIT, MESSAGE_VERB, MessageQuery, MessageShown, PAST_VERB, PastPage, PastQuery, WATERMARK_VERB,
};
pub use hold::{HOLDS_VERB, Hold, HoldsPage, HoldsQuery, MAX_HOLDS};
pub use id::{Id, InvalidId, MAX_ID_BYTES};
pub use members::{Joined, MAX_MEMBERS, MEMBERS_VERB, MembersPage, MembersQuery};
pub use problem::{More, Problem, ProblemCode};
pub use reactions::{MAX_REACTIONS, REACTIONS_VERB, Reacted, ReactedBy, ReactionsPage, ReactionsQuery};
pub use receipt::{Durability, Receipt};
pub use request::{
    Actor, By, MAX_KEY_BYTES, MAX_TOKEN_ID_BYTES, Principal, Request, RequestError, SendPayload, TokenRef, Vouched,
};
pub use rooms::{
    MAX_LAST_MESSAGE_BYTES, MAX_LAST_MESSAGES_BYTES, MAX_ROOMS, ROOMS_VERB, RoomStanding, RoomsPage, RoomsQuery,
};
pub use search::{
    DEFAULT_SEARCH_LIMIT, MAX_SEARCH_BYTES, MAX_SEARCH_LIMIT, MAX_SEARCH_ROOMS, SEARCH_VERB, SearchPage, SearchQuery,
    SearchResult, SearchRoom, Snippet,
};
pub use subject::{ApiCall, InboundSubject, MQTT_MESSAGES, MQTT_SESSIONS, Seq, Subjects, TENANT_ROOM};
pub use trail::{DEFAULT_TRAIL_LIMIT, LoginBody, MAX_TRAIL_LIMIT, TRAIL_VERB, TrailEntry, TrailPage, TrailQuery};
