//! A lease in a key-value bucket: at most one worker holds it at a time, and knows by its own clock until when.
//!
//! A lease only decides who tries. What must never happen twice is fenced elsewhere (the log's expected sequence, the
//! archive's watermark).

use std::time::Duration;

use async_nats::jetstream::{self, kv, stream::StorageType};
use futures_util::TryStreamExt;
use tokio::time::{Instant, timeout};

use crate::contract::Subjects;

/// Begins the lease of a store that reads the log, before it can take over: `reading.{shard}.{worker}`.
pub const READING: &str = "reading.";
/// Begins the lease of a store that knows the log and waits until it is free to write: `standby.{shard}.{worker}`.
pub const STANDBY: &str = "standby.";
/// How long a lease lives without being renewed.
pub const TTL: Duration = Duration::from_secs(3);
/// How often the holder renews it.
pub const RENEW_EVERY: Duration = Duration::from_secs(1);
/// How much earlier than the server the holder stops trusting its lease, for what the request took on its way.
const MARGIN: Duration = Duration::from_millis(500);

/// The bucket of all leases.
#[derive(Clone)]
pub struct Leases {
    bucket: kv::Store,
    made_by: Option<Maker>,
}

/// How to make the bucket again.
#[derive(Clone)]
struct Maker {
    client: async_nats::Client,
    subjects: Subjects,
    replicas: usize,
}

/// A lease that this worker holds, as long as [`Lease::is_valid`] says so.
pub struct Lease {
    bucket: kv::Store,
    key: String,
    value: bytes::Bytes,
    revision: u64,
    valid_until: Instant,
}

/// The bucket cannot be reached; try again.
#[derive(Debug, thiserror::Error)]
#[error("lease {key}: {reason}")]
pub struct LeaseError {
    key: String,
    reason: String,
}

impl Leases {
    /// Opens the bucket, making it when it is missing.
    pub async fn open(client: &async_nats::Client, subjects: &Subjects, replicas: usize) -> Result<Self, LeaseError> {
        let jetstream = jetstream::new(client.clone());
        let name = subjects.lease_bucket();
        let fail = |reason: String| LeaseError {
            key: name.clone(),
            reason,
        };
        let made_by = Some(Maker {
            client: client.clone(),
            subjects: subjects.clone(),
            replicas,
        });
        if let Ok(bucket) = jetstream.get_key_value(&name).await {
            return Ok(Self { bucket, made_by });
        }
        let config = kv::Config {
            bucket: name.clone(),
            description: "who is working: one key a lease".to_owned(),
            history: 1,
            max_age: TTL,
            // One in memory is gone, and not only empty, when a single server starts again: nobody could lead then. And of
            // three in memory two may forget at once who leads.
            storage: StorageType::File,
            num_replicas: replicas,
            ..kv::Config::default()
        };
        let bucket = jetstream
            .create_key_value(config)
            .await
            .map_err(|error| fail(error.to_string()))?;
        Ok(Self { bucket, made_by })
    }

    /// Opens the bucket that another worker makes; an error if it is not there yet.
    pub async fn join(client: &async_nats::Client, subjects: &Subjects) -> Result<Self, LeaseError> {
        let name = subjects.lease_bucket();
        let bucket = jetstream::new(client.clone())
            .get_key_value(&name)
            .await
            .map_err(|error| LeaseError {
                key: name,
                reason: error.to_string(),
            })?;
        Ok(Self { bucket, made_by: None })
    }

    /// Takes the lease if nobody holds it.
    pub async fn try_take(&self, key: &str, holder: &str) -> Result<Option<Lease>, LeaseError> {
        let asked = Instant::now();
        let value = bytes::Bytes::copy_from_slice(holder.as_bytes());
        let fail = |reason: String| LeaseError {
            key: key.to_owned(),
            reason,
        };
        // A request that nobody is there to answer must not hold up the next.
        let created = timeout(RENEW_EVERY, self.bucket.create(key, value.clone()));
        match created.await.map_err(|late| fail(late.to_string()))? {
            Ok(revision) => Ok(Some(Lease {
                bucket: self.bucket.clone(),
                key: key.to_owned(),
                value,
                revision,
                valid_until: asked + TTL - MARGIN,
            })),
            Err(error) if error.kind() == kv::CreateErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(fail(error.to_string())),
        }
    }

    /// Waits until the lease is free, then holds it. A bucket that is gone is made again by who made it.
    pub async fn take(&self, key: &str, holder: &str) -> Lease {
        let mut leases = self.clone();
        loop {
            match leases.try_take(key, holder).await {
                Ok(Some(lease)) => return lease,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "waiting for the lease");
                    if let Some(again) = leases.opened_again().await {
                        leases = again;
                    }
                }
            }
            tokio::time::sleep(RENEW_EVERY / 4).await;
        }
    }

    async fn opened_again(&self) -> Option<Self> {
        let Maker {
            client,
            subjects,
            replicas,
        } = self.made_by.as_ref()?;
        Self::open(client, subjects, *replicas).await.ok()
    }

    /// Who holds leases whose key starts with `prefix` (which ends in a dot): the rest of each key.
    ///
    /// Told by the stream's own index of subjects. A listing of the bucket's keys reads message after message, and misses a
    /// key that is renewed meanwhile. Left out is only who has surely released.
    pub async fn holders(&self, prefix: &str) -> Result<Vec<String>, LeaseError> {
        let fail = |reason: String| LeaseError {
            key: prefix.to_owned(),
            reason,
        };
        let keys = format!("{}{prefix}", self.bucket.prefix);
        let subjects = self
            .bucket
            .stream
            .info_with_subjects(format!("{keys}>"))
            .await
            .map_err(|error| fail(error.to_string()))?;
        let subjects: Vec<(String, usize)> = subjects.try_collect().await.map_err(|error| fail(error.to_string()))?;
        let mut holders = Vec::with_capacity(subjects.len());
        for (subject, _) in subjects {
            let Some(holder) = subject.strip_prefix(&keys) else {
                continue;
            };
            let entry = self
                .bucket
                .entry(format!("{prefix}{holder}"))
                .await
                .map_err(|error| fail(error.to_string()))?;
            if entry.is_none_or(|entry| entry.operation == kv::Operation::Put) {
                holders.push(holder.to_owned());
            }
        }
        Ok(holders)
    }
}

impl Lease {
    /// Whether this worker surely still holds it, by its own monotonic clock.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        Instant::now() < self.valid_until
    }

    /// Until when it is surely held without another renewal.
    #[must_use]
    pub fn valid_until(&self) -> Instant {
        self.valid_until
    }

    /// Renews it. `false`: it ran out, and somebody else may hold it.
    pub async fn renew(&mut self) -> Result<bool, LeaseError> {
        if self.renew_at(self.revision).await? {
            return Ok(true);
        }
        // It is still ours where an earlier renewal was stored and its ack lost.
        let entry = self.bucket.entry(&self.key).await.map_err(|error| self.fail(&error))?;
        match entry {
            Some(entry) if entry.operation == kv::Operation::Put && entry.value == self.value => {
                self.renew_at(entry.revision).await
            }
            _ => Ok(false),
        }
    }

    async fn renew_at(&mut self, revision: u64) -> Result<bool, LeaseError> {
        let asked = Instant::now();
        match self.bucket.update(&self.key, self.value.clone(), revision).await {
            Ok(revision) => {
                self.revision = revision;
                self.valid_until = asked + TTL - MARGIN;
                Ok(true)
            }
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(self.fail(&error)),
        }
    }

    fn fail(&self, error: &dyn std::fmt::Display) -> LeaseError {
        LeaseError {
            key: self.key.clone(),
            reason: error.to_string(),
        }
    }

    /// Gives it up, so that a successor need not wait for the time to run out.
    pub async fn release(self) {
        if let Err(error) = self.bucket.delete_expect_revision(&self.key, Some(self.revision)).await {
            tracing::debug!(%error, key = self.key, "the lease was not released, it will run out");
        }
    }
}
