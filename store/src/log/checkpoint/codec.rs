use natterjack_authz::policy::{SnapshotError, View};
use natterjack_nats_config::contract::{Id, InvalidId, Seq};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::log::keys::{Entry, EventId, Fingerprint};
use crate::log::recent::Said;
use crate::log::state::{Head, STATE_VERSION, State, Time};

const MAGIC: [u8; 8] = *b"nj-write";
/// Versions before this one that are read too. The first lacks the records behind `Key`; what was remembered then is the same.
/// The others differ by their views alone.
const READ_TOO: [u16; 4] = [101, 202, 203, 204];

/// A state as bytes, in its two parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) policy: Vec<u8>,
    pub(crate) writer: Vec<u8>,
}

/// Bytes that are no state, or not one of this version.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    #[error(transparent)]
    Policy(#[from] SnapshotError),
    #[error("these are not the bytes of a writer's state")]
    NotAState,
    #[error("the writer's state is of version {0}, this program reads version {STATE_VERSION}")]
    Version(u16),
    #[error("the writer's state is damaged: {0}")]
    Damaged(#[from] postcard::Error),
    #[error("the writer's state is damaged: {0}")]
    Name(#[from] InvalidId),
    #[error("the writer's state is damaged: {0}")]
    Order(&'static str),
    #[error("the parts are of frames {policy} and {writer}")]
    Apart { policy: u64, writer: u64 },
}

#[derive(Serialize, Deserialize)]
struct Start {
    magic: [u8; 8],
    version: u16,
    end: u64,
    at_ms: i64,
    written_ms: i64,
    in_term: bool,
    records: u64,
}

/// A fact of the writer's part. Heads come in the order of the names, keys in the order in which they were used.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Record<'a> {
    /// The heads that follow are of this tenant's rooms.
    Tenant(&'a str),
    Head {
        room: &'a str,
        seq: u64,
        n: u64,
    },
    Key {
        name: Fingerprint,
        content: Fingerprint,
        principal: Fingerprint,
        id: Name<'a>,
        seq: u64,
        n: u64,
        at_ms: i64,
        written_ms: i64,
    },
    /// The latest messages are remembered.
    Remembers,
    /// The messages that follow are of this room.
    Room(&'a str),
    Said {
        id: [u8; 16],
        seq: u64,
        from: &'a str,
        deleted: bool,
    },
}

/// An event's id, as the window of keys keeps it.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Name<'a> {
    Uuid([u8; 16]),
    Other(&'a str),
}

struct Writer {
    bytes: Vec<u8>,
    records: u64,
}

/// A state that is being put together.
struct Reader {
    state: State,
    tenant: Option<Id>,
    room: Option<Id>,
}

/// A state at the end of a frame as bytes. Equal states give equal bytes.
pub(crate) fn encode(state: &State) -> Result<Encoded, CodecError> {
    let mut records = Writer {
        bytes: Vec::new(),
        records: 0,
    };
    for (tenant, rooms) in state.heads() {
        records.put(&Record::Tenant(tenant.as_str()))?;
        for (room, head) in rooms {
            records.put(&Record::Head {
                room: room.as_str(),
                seq: head.seq.0,
                n: head.n,
            })?;
        }
    }
    records.put_recent(state)?;
    records.put_keys(state)?;
    let Time {
        at_ms,
        written_ms,
        in_term,
    } = state.time();
    let start = Start {
        magic: MAGIC,
        version: STATE_VERSION,
        end: state.end(),
        at_ms,
        written_ms,
        in_term,
        records: records.records,
    };
    let mut writer = postcard::to_allocvec(&start)?;
    writer.append(&mut records.bytes);
    Ok(Encoded {
        policy: state.view.to_bytes()?,
        writer,
    })
}

/// The state that was encoded. Its hash is made anew from what was read.
pub(crate) fn decode(encoded: &Encoded) -> Result<State, CodecError> {
    let bytes = &encoded.writer;
    let (start, mut rest) = postcard::take_from_bytes::<Start>(bytes).map_err(|_| CodecError::NotAState)?;
    if start.magic != MAGIC {
        return Err(CodecError::NotAState);
    }
    if start.version != STATE_VERSION && !READ_TOO.contains(&start.version) {
        return Err(CodecError::Version(start.version));
    }
    let view = View::from_bytes(&encoded.policy)?;
    if view.seq() != Seq::end_of_frame(start.end) {
        return Err(CodecError::Apart {
            policy: view.seq().frame(),
            writer: start.end,
        });
    }
    let mut reader = Reader {
        state: State::of(view),
        tenant: None,
        room: None,
    };
    for _ in 0..start.records {
        let (record, after) = postcard::take_from_bytes::<Record<'_>>(rest)?;
        rest = after;
        reader.take(record)?;
    }
    if !rest.is_empty() {
        return Err(CodecError::Order("something follows the last record"));
    }
    let time = Time {
        at_ms: start.at_ms,
        written_ms: start.written_ms,
        in_term: start.in_term,
    };
    Ok(reader.state.restored(start.end, time))
}

impl Writer {
    fn put(&mut self, record: &Record<'_>) -> Result<(), CodecError> {
        self.bytes = postcard::to_extend(record, std::mem::take(&mut self.bytes))?;
        self.records += 1;
        Ok(())
    }

    fn put_recent(&mut self, state: &State) -> Result<(), CodecError> {
        if !state.recent.is_on() {
            return Ok(());
        }
        self.put(&Record::Remembers)?;
        for (tenant, rooms) in state.recent.rooms() {
            self.put(&Record::Tenant(tenant.as_str()))?;
            for (room, messages) in rooms {
                self.put(&Record::Room(room.as_str()))?;
                for said in messages {
                    self.put(&Record::Said {
                        id: said.id.into_bytes(),
                        seq: said.seq.0,
                        from: said.from.as_str(),
                        deleted: said.deleted,
                    })?;
                }
            }
        }
        Ok(())
    }

    fn put_keys(&mut self, state: &State) -> Result<(), CodecError> {
        for (name, entry) in state.keys.entries() {
            self.put(&Record::Key {
                name: *name,
                content: entry.content,
                principal: entry.principal,
                id: match &entry.id {
                    EventId::Uuid(uuid) => Name::Uuid(uuid.into_bytes()),
                    EventId::Other(text) => Name::Other(text),
                },
                seq: entry.seq.0,
                n: entry.n,
                at_ms: entry.at_ms,
                written_ms: entry.written_ms,
            })?;
        }
        Ok(())
    }
}

impl Reader {
    fn take(&mut self, record: Record<'_>) -> Result<(), CodecError> {
        match record {
            Record::Tenant(name) => self.tenant = Some(name.parse()?),
            Record::Head { room, seq, n } => {
                let tenant = self.tenant.as_ref().ok_or(CodecError::Order("no tenant is named"))?;
                self.state.put_head(tenant, &room.parse()?, Head { seq: Seq(seq), n });
            }
            Record::Key {
                name,
                content,
                principal,
                id,
                seq,
                n,
                at_ms,
                written_ms,
            } => {
                let entry = Entry {
                    content,
                    principal,
                    id: match id {
                        Name::Uuid(bytes) => EventId::Uuid(Uuid::from_bytes(bytes)),
                        Name::Other(text) => EventId::Other(text.into()),
                    },
                    seq: Seq(seq),
                    n,
                    at_ms,
                    written_ms,
                };
                self.state.keys.put(name, entry);
            }
            Record::Remembers => self.state.recent.begin_term(true),
            Record::Room(name) => self.room = Some(name.parse()?),
            Record::Said { id, seq, from, deleted } => {
                let said = Said {
                    id: Uuid::from_bytes(id),
                    seq: Seq(seq),
                    from: from.parse()?,
                    deleted,
                };
                self.put_said(said)?;
            }
        }
        Ok(())
    }

    fn put_said(&mut self, said: Said) -> Result<(), CodecError> {
        let (Some(tenant), Some(room)) = (&self.tenant, &self.room) else {
            return Err(CodecError::Order("no room is named"));
        };
        // Where the view knows the names, its memory is shared.
        let known = self.state.view.names(tenant.as_str(), room.as_str());
        let (tenant, room) = known.map_or((tenant, room), |known| known);
        self.state.recent.put(&tenant.clone(), &room.clone(), said);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
