use async_nats::Client;
use async_nats::jetstream::{self, kv, stream::StorageType};
use natterjack_nats_config::contract::Seq;
use tokio::time::{Duration, Instant};

use super::DevicesConfig;

/// How often the place is written down: after a failure so much is kept again, and the server knows most of it again by name.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Up to where events were kept for sessions, written down where a successor finds it.
///
/// Whoever writes names the revision before, so that a worker that was paused cannot set it back.
pub(super) struct Place {
    bucket: kv::Store,
    key: String,
    revision: u64,
    written: Seq,
    written_at: Instant,
}

impl Place {
    /// Opens it; gives what is written there.
    pub(super) async fn open(core: &Client, config: &DevicesConfig) -> Result<(Self, Option<Seq>), String> {
        let bucket = bucket(core, config).await?;
        let key = format!("kept.{}.{}", config.log.shard, config.log.epoch);
        let entry = bucket.entry(key.clone()).await.map_err(|error| error.to_string())?;
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let found = entry
            .filter(|entry| entry.operation == kv::Operation::Put)
            .and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok())
            .map(Seq);
        let place = Self {
            bucket,
            key,
            revision,
            written: found.unwrap_or_default(),
            written_at: Instant::now(),
        };
        Ok((place, found))
    }

    /// Writes a place down if it is time to.
    pub(super) async fn reached(&mut self, seq: Seq) -> Result<(), String> {
        if self.written_at.elapsed() < WRITE_EVERY {
            return Ok(());
        }
        self.write(seq).await
    }

    /// Writes a place down.
    pub(super) async fn write(&mut self, seq: Seq) -> Result<(), String> {
        if seq > self.written || self.revision == 0 {
            let value = seq.to_string().into();
            let revision = self.bucket.update(&self.key, value, self.revision).await;
            self.revision = revision.map_err(|error| error.to_string())?;
            self.written = seq;
        }
        self.written_at = Instant::now();
        Ok(())
    }

    /// Forgets it: nobody listens, and who comes later begins then.
    pub(super) async fn forget(&mut self) -> Result<(), String> {
        if self.written > Seq::ZERO {
            self.bucket
                .delete_expect_revision(&self.key, Some(self.revision))
                .await
                .map_err(|error| error.to_string())?;
            let left = self.bucket.entry(self.key.clone()).await;
            let left = left.map_err(|error| error.to_string())?;
            self.revision = left.map_or(0, |entry| entry.revision);
            self.written = Seq::ZERO;
        }
        Ok(())
    }
}

async fn bucket(core: &Client, config: &DevicesConfig) -> Result<kv::Store, String> {
    let jetstream = jetstream::new(core.clone());
    let name = config.log.subjects.devices_bucket();
    if let Ok(bucket) = jetstream.get_key_value(&name).await {
        return Ok(bucket);
    }
    let wanted = kv::Config {
        bucket: name,
        description: "up to where rooms' events were kept for MQTT sessions".to_owned(),
        history: 1,
        storage: StorageType::File,
        num_replicas: config.replicas,
        ..kv::Config::default()
    };
    jetstream
        .create_key_value(wanted)
        .await
        .map_err(|error| error.to_string())
}
