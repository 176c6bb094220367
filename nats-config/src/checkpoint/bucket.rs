use std::collections::HashMap;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::object_store::{self, GetErrorKind, ObjectMetadata, ObjectStore};
use async_nats::jetstream::{self, stream::StorageType};
use futures_util::TryStreamExt;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::contract::{CHECKPOINT_SLOTS, MANIFEST_VERSION, Manifest, Part, Piece, checkpoint_object, manifest_slot};
use crate::stream::is_not_found;
use crate::tail::Log;

/// How long an answer about the bucket may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long nothing may come of a part that is being read: its chunks are gone then.
const SILENCE: Duration = Duration::from_secs(10);
/// The largest part that is read: some tens of millions of rooms.
const MAX_PART_BYTES: u64 = 8 << 30;
/// Chunks of an object; as large as `max_payload` allows with room for headers.
const CHUNK: usize = 512 * 1024;
/// Under this key the manifest stands in the metadata of its object, so that a listing tells all of them.
const MANIFEST: &str = "manifest";

/// The checkpoints of one log.
#[derive(Clone)]
pub struct Checkpoints {
    bucket: ObjectStore,
    log: Log,
}

/// A checkpoint that counts, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its place.
    pub slot: usize,
    /// What is known of it.
    pub manifest: Manifest,
}

/// Why a checkpoint was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// NATS does not answer as it should: try again.
    #[error("the checkpoints' bucket cannot be used now: {0}")]
    Unavailable(String),
    /// What was read is not what was written: take the one before.
    #[error("the checkpoint's part `{part}` is broken: {reason}", part = part.as_str())]
    Broken {
        /// Which.
        part: Part,
        /// In what way.
        reason: String,
    },
}

impl Checkpoints {
    /// Opens the bucket, making it when it is missing.
    pub async fn open(client: &Client, log: &Log, replicas: usize) -> Result<Self, CheckpointError> {
        if let Some(found) = Self::join(client, log).await? {
            return Ok(found);
        }
        let config = object_store::Config {
            bucket: log.subjects.checkpoint_bucket(),
            description: Some("Natterjack's checkpoints: where workers begin".to_owned()),
            storage: StorageType::File,
            num_replicas: replicas,
            max_bytes: -1,
            ..object_store::Config::default()
        };
        let bucket = jetstream::new(client.clone())
            .create_object_store(config)
            .await
            .map_err(unavailable)?;
        Ok(Self {
            bucket,
            log: log.clone(),
        })
    }

    /// Opens the bucket if it is there.
    pub async fn join(client: &Client, log: &Log) -> Result<Option<Self>, CheckpointError> {
        let jetstream = jetstream::new(client.clone());
        match jetstream.get_stream(log.subjects.checkpoint_stream()).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(unavailable(error)),
        }
        let bucket = jetstream
            .get_object_store(log.subjects.checkpoint_bucket())
            .await
            .map_err(unavailable)?;
        Ok(Some(Self {
            bucket,
            log: log.clone(),
        }))
    }

    /// All checkpoints that count, the newest first. One whose manifest cannot be read is passed over with an alarm.
    pub async fn list(&self) -> Result<Vec<Kept>, CheckpointError> {
        let listed = async {
            let list = self.bucket.list().await.map_err(unavailable)?;
            list.try_collect::<Vec<_>>().await.map_err(unavailable)
        };
        let objects = timeout(ANSWER_WITHIN, listed).await.map_err(unavailable)??;
        let mut kept = Vec::new();
        for object in objects {
            let Some(slot) = manifest_slot(self.log.shard, self.log.epoch, &object.name) else {
                continue;
            };
            match read_manifest(&object.metadata) {
                Ok(manifest) => kept.push(Kept { slot, manifest }),
                Err(reason) => tracing::error!(object = object.name, reason, "ALARM: a checkpoint is passed over"),
            }
        }
        kept.sort_by_key(|kept| std::cmp::Reverse(kept.manifest.end));
        Ok(kept)
    }

    /// A part, whole: its size and its SHA-256 are as the manifest says.
    pub async fn read(&self, kept: &Kept, part: Part) -> Result<Vec<u8>, CheckpointError> {
        let bytes = self.read_slot(kept.slot, part).await?;
        if Piece::of(&bytes) != *kept.manifest.piece(part) {
            return Err(broken(part, "its size or its SHA-256 is not that of the manifest"));
        }
        Ok(bytes)
    }

    /// A part as it stands in a slot.
    pub async fn read_slot(&self, slot: usize, part: Part) -> Result<Vec<u8>, CheckpointError> {
        let name = self.object(slot, part.as_str());
        let mut object = match timeout(ANSWER_WITHIN, self.bucket.get(&name))
            .await
            .map_err(unavailable)?
        {
            Ok(object) => object,
            Err(error) if error.kind() == GetErrorKind::NotFound => return Err(broken(part, "it is not there")),
            Err(error) => return Err(unavailable(error)),
        };
        let size = object.info.size as u64;
        if size > MAX_PART_BYTES {
            return Err(broken(part, "it is larger than any checkpoint"));
        }
        let mut bytes = Vec::with_capacity(object.info.size);
        loop {
            match timeout(SILENCE, object.read_buf(&mut bytes)).await {
                Ok(Ok(0)) => return Ok(bytes),
                Ok(Ok(_)) if bytes.len() as u64 > size => return Err(broken(part, "it is longer than it says")),
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => return Err(broken(part, error)),
                Ok(Err(error)) => return Err(unavailable(error)),
                Err(_) => return Err(broken(part, "some of it is not there")),
            }
        }
    }

    /// Puts a part into a slot, where no checkpoint counts any more until [`confirm`](Self::confirm).
    pub async fn put(&self, slot: usize, part: Part, bytes: &[u8]) -> Result<(), CheckpointError> {
        let meta = ObjectMetadata {
            name: self.object(slot, part.as_str()),
            chunk_size: Some(CHUNK),
            ..ObjectMetadata::default()
        };
        let mut bytes = bytes;
        self.bucket.put(meta, &mut bytes).await.map_err(unavailable)?;
        Ok(())
    }

    /// Empties a slot: what is in it does not count any more.
    pub async fn clear(&self, slot: usize) -> Result<(), CheckpointError> {
        use object_store::{DeleteErrorKind, InfoErrorKind};
        let name = self.object(slot, MANIFEST);
        match self.bucket.info(&name).await {
            Ok(info) if info.deleted => return Ok(()),
            Err(error) if error.kind() == InfoErrorKind::NotFound => return Ok(()),
            Ok(_) | Err(_) => {}
        }
        match self.bucket.delete(&name).await {
            Err(error) if error.kind() != DeleteErrorKind::NotFound => Err(unavailable(error)),
            _ => Ok(()),
        }
    }

    /// Makes the checkpoint in a slot count.
    pub async fn confirm(&self, slot: usize, manifest: &Manifest) -> Result<(), CheckpointError> {
        let text = serde_json::to_string(manifest).map_err(unavailable)?;
        let meta = ObjectMetadata {
            name: self.object(slot, MANIFEST),
            metadata: HashMap::from([(MANIFEST.to_owned(), text)]),
            ..ObjectMetadata::default()
        };
        let mut nothing: &[u8] = &[];
        self.bucket.put(meta, &mut nothing).await.map_err(unavailable)?;
        Ok(())
    }

    fn object(&self, slot: usize, what: &str) -> String {
        checkpoint_object(self.log.shard, self.log.epoch, slot, what)
    }
}

/// The slot that the next checkpoint goes into: a free one, else that of the oldest.
#[must_use]
pub fn next_slot(kept: &[Kept]) -> usize {
    let is_free = |slot: &usize| kept.iter().all(|kept| kept.slot != *slot);
    let oldest = kept.iter().min_by_key(|kept| kept.manifest.end);
    (0..CHECKPOINT_SLOTS)
        .find(is_free)
        .or(oldest.map(|kept| kept.slot))
        .unwrap_or_default()
}

fn read_manifest(metadata: &HashMap<String, String>) -> Result<Manifest, String> {
    let text = metadata.get(MANIFEST).ok_or("it has no manifest")?;
    // The version first: a manifest of another one may have other fields.
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let version = value.get("v").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(MANIFEST_VERSION)) {
        return Err(format!(
            "its manifest is of version {version:?}, this program reads {MANIFEST_VERSION}"
        ));
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn broken(part: Part, reason: impl std::fmt::Display) -> CheckpointError {
    CheckpointError::Broken {
        part,
        reason: reason.to_string(),
    }
}

fn unavailable(error: impl std::fmt::Display) -> CheckpointError {
    CheckpointError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(slot: usize, end: u64) -> Kept {
        Kept {
            slot,
            manifest: Manifest {
                v: MANIFEST_VERSION,
                state_version: 1,
                end,
                frame_id: "x".to_owned(),
                at_ms: 0,
                hash: String::new(),
                policy: Piece::default(),
                writer: Piece::default(),
                log_first: 1,
                log_bytes: 1,
                maker: "store-1".to_owned(),
                made_at_ms: 0,
            },
        }
    }

    #[test]
    fn a_new_checkpoint_takes_a_free_slot_else_the_oldest_one_s() {
        let table: [(&[Kept], usize); 4] = [
            (&[], 0),
            (&[kept(0, 9)], 1),
            (&[kept(0, 9), kept(2, 7), kept(3, 8)], 1),
            (&[kept(0, 9), kept(1, 6), kept(2, 7), kept(3, 8)], 1),
        ];
        for (kept, slot) in table {
            assert_eq!(next_slot(kept), slot, "{kept:?}");
        }
    }

    #[test]
    fn a_manifest_of_another_version_is_not_read() {
        let read = |text: &str| read_manifest(&HashMap::from([(MANIFEST.to_owned(), text.to_owned())]));
        let text = serde_json::to_string(&kept(0, 9).manifest).unwrap();
        assert_eq!(read(&text).unwrap(), kept(0, 9).manifest);
        for bad in ["", "{}", "{\"v\":2}", "{\"v\":1}"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read_manifest(&HashMap::new()).is_err());
    }
}
