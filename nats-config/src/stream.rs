//! The streams: what they must be, and bringing them there.

use async_nats::jetstream::{
    self,
    stream::{Config, DiscardPolicy, PersistenceMode, Republish, RetentionPolicy, StorageType, SubjectTransform},
};

use crate::contract::Subjects;
use crate::tail::Log;

/// How many of a room's last events the ROOMS stream keeps for consumers and late subscribers.
pub const ROOM_EVENTS_KEPT: i64 = 1000;

/// The most that the rooms' last events may take in each server's memory, in bytes, where they are replicated: half of what
/// the server's configuration gives. Beyond it the oldest of all go.
const ROOMS_IN_MEMORY: i64 = 512 << 20;

/// A stream that cannot be brought to what it must be.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// JetStream does not answer: try again.
    #[error("stream {stream}: {reason}")]
    Unavailable {
        /// Which.
        stream: String,
        /// What the client says.
        reason: String,
    },
    /// The stream has a flag that lets one header destroy or forge messages: a person has to look.
    #[error(
        "stream {stream} is unsafe: {flags} must be off. Take a backup, then switch off what can be switched off with \
         `nats stream edit {stream}`, or let Natterjack make the stream anew under another prefix"
    )]
    Unsafe {
        /// Which.
        stream: String,
        /// The flags that are on.
        flags: String,
    },
}

/// What the log's stream must be: file, nothing ever discarded by itself, no flag that lets a header change the past.
#[must_use]
pub fn log_config(log: &Log, replicas: usize, max_bytes: i64) -> Config {
    Config {
        name: log.stream(),
        description: Some("Natterjack's log: the truth. Written by the leader of store only".to_owned()),
        subjects: vec![log.subject()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        num_replicas: replicas,
        max_bytes,
        allow_direct: true,
        ..Config::default()
    }
}

/// The settings of ROOMS that change with each term and while it is filled.
pub const CHANGING_IN_ROOMS: &[&str] = &["subjects", "republish"];

/// What the rooms' stream must be: a view, quick to write, that republishes what it stores.
///
/// It takes in the subjects of one `term` only and holds them under names without it. That fences a fan-out of an earlier
/// term, where `Nats-Expected-Last-Sequence` would not do: the server republishes that header, and the stream that a tool
/// makes of a room's events would judge it and refuse them. Within the term `allow_batched` does: the server takes a
/// message only behind the one before it, and what it goes by is not in the message.
///
/// The names under which it holds them must come out the same in every term: a server that reads its Raft log again
/// maps what came in an earlier term as it maps now (seen: the replicas of one stream differed).
#[must_use]
pub fn rooms_config(subjects: &Subjects, shard: u16, replicas: usize, term: &str) -> Config {
    let replicated = replicas > 1;
    Config {
        name: subjects.rooms_stream(shard),
        description: Some("Natterjack's rooms: a view of the log, one subject a room".to_owned()),
        subjects: vec![subjects.fan_of_term(term), subjects.fan_begin()],
        subject_transform: Some(SubjectTransform {
            source: subjects.fan_all(),
            destination: subjects.held_mapping(),
        }),
        retention: RetentionPolicy::Limits,
        storage: if replicated {
            StorageType::Memory
        } else {
            StorageType::File
        },
        persist_mode: (!replicated).then_some(PersistenceMode::Async),
        discard: DiscardPolicy::Old,
        num_replicas: replicas,
        max_messages_per_subject: ROOM_EVENTS_KEPT,
        max_bytes: if replicated { ROOMS_IN_MEMORY } else { -1 },
        allow_direct: true,
        allow_batch_publish: true,
        republish: Some(Republish {
            source: subjects.held_all(),
            destination: subjects.room_log_mapping(),
            headers_only: false,
        }),
        ..Config::default()
    }
}

/// Makes the stream, or changes the one that is there to what it must be, logging each difference; those in `changing`
/// are nothing to worry about.
///
/// `max_bytes` is only ever raised: an operator may have given the log more. Other limits and the description are left alone.
pub async fn reconcile(client: &async_nats::Client, wanted: Config, changing: &[&str]) -> Result<(), StreamError> {
    let jetstream = jetstream::new(client.clone());
    let name = wanted.name.clone();
    let unavailable = |reason: String| StreamError::Unavailable {
        stream: name.clone(),
        reason,
    };
    let found = match jetstream.get_stream(&name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(error) if is_not_found(&error) => {
            tracing::info!(stream = name, replicas = wanted.num_replicas, "making the stream");
            jetstream
                .create_stream(wanted)
                .await
                .map_err(|error| unavailable(error.to_string()))?;
            return Ok(());
        }
        Err(error) => return Err(unavailable(error.to_string())),
    };
    let flags = unsafe_flags(&found);
    if !flags.is_empty() {
        return Err(StreamError::Unsafe {
            stream: name,
            flags: flags.join(", "),
        });
    }
    let drifts = drifts(&found, &wanted);
    if drifts.is_empty() {
        return Ok(());
    }
    for drift in drifts.iter().filter(|drift| !changing.contains(&drift.setting)) {
        tracing::warn!(
            stream = name,
            setting = drift.setting,
            found = drift.found,
            wanted = drift.wanted,
            "drift"
        );
    }
    let mended = mended(found, wanted);
    jetstream
        .update_stream(mended)
        .await
        .map_err(|error| unavailable(error.to_string()))?;
    Ok(())
}

/// A setting that is not what it must be.
#[derive(Debug, PartialEq, Eq)]
struct Drift {
    setting: &'static str,
    found: String,
    wanted: String,
}

fn drifts(found: &Config, wanted: &Config) -> Vec<Drift> {
    let pairs = [
        (
            "subjects",
            format!("{:?}", found.subjects),
            format!("{:?}", wanted.subjects),
        ),
        (
            "discard",
            format!("{:?}", found.discard),
            format!("{:?}", wanted.discard),
        ),
        (
            "num_replicas",
            found.num_replicas.to_string(),
            wanted.num_replicas.to_string(),
        ),
        (
            "max_age",
            format!("{:?}", found.max_age),
            format!("{:?}", wanted.max_age),
        ),
        ("max_messages", limit(found.max_messages), limit(wanted.max_messages)),
        ("max_bytes", limit(found.max_bytes), limit(raised(found, wanted))),
        (
            "allow_direct",
            found.allow_direct.to_string(),
            wanted.allow_direct.to_string(),
        ),
        (
            "allow_batched",
            found.allow_batch_publish.to_string(),
            wanted.allow_batch_publish.to_string(),
        ),
        ("republish", republish(found), republish(wanted)),
        ("subject_transform", transform(found), transform(wanted)),
    ];
    pairs
        .into_iter()
        .filter(|(_, found, wanted)| found != wanted)
        .map(|(setting, found, wanted)| Drift { setting, found, wanted })
        .collect()
}

fn limit(value: i64) -> String {
    if value <= 0 {
        "none".to_owned()
    } else {
        value.to_string()
    }
}

fn republish(config: &Config) -> String {
    config
        .republish
        .as_ref()
        .map_or_else(String::new, |to| format!("{} to {}", to.source, to.destination))
}

fn transform(config: &Config) -> String {
    config
        .subject_transform
        .as_ref()
        .map_or_else(String::new, |to| format!("{} to {}", to.source, to.destination))
}

/// No limit stays no limit.
fn raised(found: &Config, wanted: &Config) -> i64 {
    if found.max_bytes <= 0 || wanted.max_bytes <= 0 {
        found.max_bytes
    } else {
        found.max_bytes.max(wanted.max_bytes)
    }
}

fn mended(found: Config, wanted: Config) -> Config {
    let max_bytes = raised(&found, &wanted);
    Config {
        max_bytes,
        subjects: wanted.subjects,
        discard: wanted.discard,
        num_replicas: wanted.num_replicas,
        max_age: wanted.max_age,
        max_messages: wanted.max_messages,
        allow_direct: wanted.allow_direct,
        allow_batch_publish: wanted.allow_batch_publish,
        republish: wanted.republish,
        subject_transform: wanted.subject_transform,
        ..found
    }
}

/// One header on a message of such a stream could wipe, forge or expire others (seen: 5,003 messages wiped by one).
fn unsafe_flags(config: &Config) -> Vec<&'static str> {
    [
        ("allow_rollup_hdrs", config.allow_rollup),
        ("allow_msg_ttl", config.allow_message_ttl),
        ("allow_msg_schedules", config.allow_message_schedules),
        ("subject_delete_marker_ttl", config.subject_delete_marker_ttl.is_some()),
        ("allow_atomic", config.allow_atomic_publish),
    ]
    .into_iter()
    .filter_map(|(flag, on)| on.then_some(flag))
    .collect()
}

/// Whether the stream is not there, and nothing else is wrong.
#[must_use]
pub fn is_not_found(error: &jetstream::context::GetStreamError) -> bool {
    use jetstream::context::GetStreamErrorKind;
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Log {
        Log::first(Subjects::default())
    }

    #[test]
    fn what_is_right_has_no_drift_and_no_unsafe_flag() {
        let config = log_config(&log(), 1, 1 << 30);
        assert!(drifts(&config, &config).is_empty());
        assert!(unsafe_flags(&config).is_empty());
        assert!(unsafe_flags(&rooms_config(&Subjects::default(), 0, 1, "t1")).is_empty());
    }

    #[test]
    fn each_drift_is_named_and_mended() {
        let wanted = log_config(&log(), 3, 1 << 30);
        let found = Config {
            discard: DiscardPolicy::Old,
            num_replicas: 1,
            ..wanted.clone()
        };
        let names: Vec<_> = drifts(&found, &wanted).into_iter().map(|drift| drift.setting).collect();
        assert_eq!(names, ["discard", "num_replicas"]);
        let mended = mended(found, wanted.clone());
        assert!(drifts(&mended, &wanted).is_empty());
    }

    #[test]
    fn the_log_may_grow_and_never_shrinks() {
        for (found, wanted, expected) in [(7, 9, 9), (9, 7, 9), (-1, 7, -1)] {
            let wanted = log_config(&log(), 1, wanted);
            let found = Config {
                max_bytes: found,
                ..wanted.clone()
            };
            assert_eq!(drifts(&found, &wanted).is_empty(), found.max_bytes == expected);
            assert_eq!(mended(found, wanted).max_bytes, expected);
        }
    }

    #[test]
    fn flags_that_let_a_header_destroy_are_found() {
        let config = Config {
            allow_rollup: true,
            allow_message_ttl: true,
            ..log_config(&log(), 1, 1)
        };
        assert_eq!(unsafe_flags(&config), ["allow_rollup_hdrs", "allow_msg_ttl"]);
    }
}
