use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The version of [`Manifest`] itself. One of another version is passed over.
pub const MANIFEST_VERSION: u16 = 1;
/// How many checkpoints are kept for good: should the newest be damaged, there is the one before, and one before that.
pub const CHECKPOINTS_KEPT: usize = 3;
/// Places for checkpoints: those that are kept, and one in the making.
pub const CHECKPOINT_SLOTS: usize = CHECKPOINTS_KEPT + 1;
/// The header in which the writer tells its state's hash, on some frames: [`StateStamp`].
pub const STATE: &str = "Chat-State";

/// A part of a checkpoint, an object of its own, so that who needs only rights reads only rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Who may do what: a policy view.
    Policy,
    /// What only the writer needs: room heads, the window of keys, log time.
    Writer,
}

/// The size and the SHA-256 of a part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// In bytes.
    pub bytes: u64,
    /// In lower-case hex.
    pub sha256: String,
}

/// What is known of a checkpoint. It is written last, once the parts were read back and found to be the state whose hash
/// the writer told in the log: a checkpoint without one does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`]
    pub v: u16,
    /// The version of the state in the parts.
    pub state_version: u16,
    /// The last frame that the state has taken in.
    pub end: u64,
    /// The `Nats-Msg-Id` of that frame: it tells a log from another one under the same name.
    pub frame_id: String,
    /// Log time there, in milliseconds since 1970.
    pub at_ms: i64,
    /// The state's hash, as the writer told it in the frame after `end`.
    pub hash: String,
    /// The part for readers of rights.
    pub policy: Piece,
    /// The part for writers.
    pub writer: Piece,
    /// The log's first frame when this was made.
    pub log_first: u64,
    /// The log's size when this was made, in bytes.
    pub log_bytes: u64,
    /// The worker that made it.
    pub maker: String,
    /// When, by that worker's wall clock, in milliseconds since 1970.
    pub made_at_ms: i64,
}

/// The hash of the writer's state before a frame, as it stands in that frame's header: `{version} {hash}`.
///
/// Stand-bys compare it with theirs. One of another version says nothing: its worker keeps other facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateStamp {
    /// The version of the state.
    pub version: u16,
    /// The hash: 32 digits of lower-case hex.
    pub hash: String,
}

impl Part {
    /// The name of the part in the name of its object.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Writer => "writer",
        }
    }
}

impl Piece {
    /// What these bytes come to.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use std::fmt::Write;
        let mut sha256 = String::with_capacity(64);
        for byte in Sha256::digest(bytes) {
            let _ = write!(sha256, "{byte:02x}");
        }
        Self {
            bytes: bytes.len() as u64,
            sha256,
        }
    }
}

impl Manifest {
    /// What is known of a part.
    #[must_use]
    pub fn piece(&self, part: Part) -> &Piece {
        match part {
            Part::Policy => &self.policy,
            Part::Writer => &self.writer,
        }
    }
}

impl StateStamp {
    /// The header's value.
    #[must_use]
    pub fn to_header(&self) -> String {
        format!("{} {}", self.version, self.hash)
    }

    /// Reads a header's value; `None` if it is none.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let (version, hash) = header.split_once(' ')?;
        let is_hash = hash.len() == 32 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_hash.then_some(Self {
            version: version.parse().ok()?,
            hash: hash.to_owned(),
        })
    }
}

/// The name of an object of a checkpoint: `{shard}-{epoch}/{slot}/{what}`.
///
/// The names are few and used again and again, so that a bucket that has lived for years lists as quickly as a new one.
#[must_use]
pub fn checkpoint_object(shard: u16, epoch: u32, slot: usize, what: &str) -> String {
    format!("{shard}-{epoch}/{slot}/{what}")
}

/// The slot of a log's manifest by its object's name; `None` if it is none of this log.
#[must_use]
pub fn manifest_slot(shard: u16, epoch: u32, object: &str) -> Option<usize> {
    let rest = object.strip_prefix(&format!("{shard}-{epoch}/"))?;
    let slot = rest.strip_suffix("/manifest")?.parse().ok()?;
    (slot < CHECKPOINT_SLOTS).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written_and_nothing_else_is_one() {
        let stamp = StateStamp {
            version: 3,
            hash: format!("{:032x}", 0xabc),
        };
        assert_eq!(StateStamp::parse(&stamp.to_header()), Some(stamp.clone()));
        for bad in [
            "",
            "3",
            "x 0",
            "3 ABC",
            &format!("3 {}g", &stamp.hash[1..]),
            &format!("-1 {}", stamp.hash),
        ] {
            assert_eq!(StateStamp::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_manifest_is_known_by_its_name() {
        for slot in 0..CHECKPOINT_SLOTS {
            let name = checkpoint_object(7, 12, slot, "manifest");
            assert_eq!(manifest_slot(7, 12, &name), Some(slot));
            assert_eq!(manifest_slot(7, 1, &name), None);
            assert_eq!(manifest_slot(7, 12, &checkpoint_object(7, 12, slot, "policy")), None);
        }
        assert_eq!(manifest_slot(0, 1, "0-1/4/manifest"), None);
    }
}
