use std::time::Duration;

use async_nats::Client;
use natterjack_nats_config::checkpoint::{CheckpointError, Checkpoints, Kept, next_slot};
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{MANIFEST_VERSION, Manifest, Part, Piece, StateStamp};
use natterjack_nats_config::lease::Leases;
use natterjack_nats_config::tail::{Bounds, Log};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::codec::{CodecError, Encoded, decode, encode};
use super::plan::{Every, is_due, point};
use crate::archive::keeper;
use crate::log::state::{Diverged, STATE_VERSION, State};
use crate::log::writer::fold;

/// How often it is looked whether a checkpoint is due: one question to the log's leader.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The pause after one could not be made.
const PAUSE: Duration = Duration::from_secs(10);
/// How long the log may keep silent about frames that it has.
const SILENCE: Duration = Duration::from_secs(10);

/// What making checkpoints needs to know.
#[derive(Debug, Clone)]
pub struct CheckpointConfig {
    /// Of which log.
    pub log: Log,
    /// Names this worker; unique.
    pub worker: String,
    /// Copies of the bucket: 1 or 3.
    pub replicas: usize,
    /// The most frames of log behind the newest checkpoint, about.
    pub every_frames: u64,
    /// The most bytes of log behind the newest checkpoint, about.
    pub every_bytes: u64,
}

/// Why there is no new checkpoint; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotMade {
    #[error(transparent)]
    Bucket(#[from] CheckpointError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Diverged(#[from] Diverged),
    #[error("what was read back is not what was put away")]
    NotAsWritten,
    #[error("the checkpoint has the hash {found}, the writer says {expected}")]
    NotConfirmed { found: String, expected: String },
    #[error("{0}")]
    Other(String),
}

/// A state at the end of a frame, as bytes, and what the writer said of it in the next frame.
struct Taken {
    end: u64,
    at_ms: i64,
    encoded: Encoded,
    stamp: StateStamp,
}

/// Makes a checkpoint whenever one is due, until it is told to stop. `leading` says whether this process has the writer: it
/// leaves the work to others, where there are any.
///
/// One worker at a time makes one: who holds the lease `checkpoint.{shard}`.
pub async fn keep_checkpoints(
    client: Client,
    config: CheckpointConfig,
    leading: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    let mut pause = LOOK_EVERY;
    // As far as this worker knows; there may be a newer one.
    let mut newest = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        let is_writer = *leading.borrow();
        let looked = tokio::select! {
            looked = look(&client, &config, &mut newest, is_writer) => looked,
            () = shutdown.cancelled() => return,
        };
        pause = match looked {
            Ok(()) => LOOK_EVERY,
            Err(NotMade::Bucket(error @ CheckpointError::Unavailable(_))) => {
                tracing::debug!(%error, "no look at the checkpoints");
                LOOK_EVERY
            }
            Err(error @ NotMade::Other(_)) => {
                tracing::warn!(%error, "no checkpoint could be made, it is tried again");
                PAUSE
            }
            Err(error) => {
                tracing::error!(%error, "ALARM: a checkpoint is not what it must be, it does not count");
                PAUSE
            }
        };
    }
}

async fn look(
    client: &Client,
    config: &CheckpointConfig,
    known: &mut Option<Manifest>,
    is_writer: bool,
) -> Result<(), NotMade> {
    let log = &config.log;
    let every = Every {
        frames: config.every_frames,
        bytes: config.every_bytes,
    };
    let bounds = bounds(client, log).await?;
    let Some(point) = point(bounds.last).filter(|_| is_due(every, known.as_ref(), bounds, is_writer)) else {
        return Ok(());
    };
    let checkpoints = Checkpoints::open(client, log, config.replicas).await?;
    *known = newest(&checkpoints.list().await?).cloned();
    if !is_due(every, known.as_ref(), bounds, is_writer) {
        return Ok(());
    }
    let leases = Leases::open(client, &log.subjects, config.replicas)
        .await
        .map_err(other)?;
    let key = format!("checkpoint.{}", log.shard);
    let Some(lease) = leases.try_take(&key, &config.worker).await.map_err(other)? else {
        return Ok(());
    };
    let (work, done) = (CancellationToken::new(), CancellationToken::new());
    let keeper = tokio::spawn(keeper::keep(lease, work.clone(), done.clone()));
    // A guard: when this future is dropped, nobody works any more and nobody must hold the lease.
    let working = done.drop_guard();
    let made = tokio::select! {
        made = make(client, config, &checkpoints, (bounds, point)) => made,
        () = work.cancelled() => Err(other("the lease was lost")),
    };
    drop(working);
    keeper.await.map_err(other)?;
    made
}

/// The checkpoint before, the log since, and what they come to is put away, read back, compared, and then counts.
async fn make(
    client: &Client,
    config: &CheckpointConfig,
    checkpoints: &Checkpoints,
    (bounds, point): (Bounds, u64),
) -> Result<(), NotMade> {
    let log = &config.log;
    // Asked again under the lease: another worker may have made one meanwhile.
    let kept = checkpoints.list().await?;
    if newest(&kept).is_some_and(|newest| newest.end + 1 >= point) {
        return Ok(());
    }
    let state = super::begin(client, log).await.map_err(other)?;
    let taken = fold_to(client, log, state, (bounds, point)).await?;
    let (policy, writer) = (Piece::of(&taken.encoded.policy), Piece::of(&taken.encoded.writer));
    let slot = next_slot(&kept);
    checkpoints.clear(slot).await?;
    checkpoints.put(slot, Part::Policy, &taken.encoded.policy).await?;
    checkpoints.put(slot, Part::Writer, &taken.encoded.writer).await?;
    let frame_id = log.frame_id(client, taken.end).await.map_err(other)?;
    let manifest = Manifest {
        v: MANIFEST_VERSION,
        state_version: STATE_VERSION,
        end: taken.end,
        frame_id: frame_id.unwrap_or_default(),
        at_ms: taken.at_ms,
        hash: taken.stamp.hash,
        policy,
        writer,
        log_first: bounds.first,
        log_bytes: bounds.bytes,
        maker: config.worker.clone(),
        made_at_ms: clock::now_ms(),
    };
    drop(taken.encoded);
    check(checkpoints, slot, &manifest).await?;
    checkpoints.confirm(slot, &manifest).await?;
    let (policy_bytes, writer_bytes) = (manifest.policy.bytes, manifest.writer.bytes);
    tracing::info!(
        frame = manifest.end,
        policy_bytes,
        writer_bytes,
        "a checkpoint was made and confirmed"
    );
    Ok(())
}

/// Takes in the log up to the frame before `point`, where the writer tells the hash that this state must have.
async fn fold_to(
    client: &Client,
    log: &Log,
    mut state: State,
    (bounds, point): (Bounds, u64),
) -> Result<Taken, NotMade> {
    let mut tail = log.tail(client, state.end());
    let stamp = loop {
        if tail.passed() >= bounds.last {
            return Err(other(format!(
                "no frame from {point} to {} tells the hash",
                bounds.last
            )));
        }
        let frame = timeout(SILENCE, tail.next()).await.map_err(other)?.map_err(other)?;
        let stamp = frame.stamp.as_ref().filter(|stamp| stamp.version == STATE_VERSION);
        if let Some(stamp) = stamp.filter(|_| frame.stream_seq >= point) {
            state.compare(frame.stream_seq, Some(stamp))?;
            break stamp.clone();
        }
        fold(&mut state, &frame)?;
    };
    let taken = spawn_blocking(move || {
        Ok(Taken {
            end: state.end(),
            at_ms: state.at_ms(),
            encoded: encode(&state)?,
            stamp,
        })
    });
    taken.await.map_err(other)?
}

/// Reads the parts back and makes the state anew from them: its hash must be the one that the writer told.
pub(super) async fn check(checkpoints: &Checkpoints, slot: usize, manifest: &Manifest) -> Result<(), NotMade> {
    let policy = checkpoints.read_slot(slot, Part::Policy).await?;
    let writer = checkpoints.read_slot(slot, Part::Writer).await?;
    if Piece::of(&policy) != manifest.policy || Piece::of(&writer) != manifest.writer {
        return Err(NotMade::NotAsWritten);
    }
    let found = spawn_blocking(move || Ok::<_, CodecError>(decode(&Encoded { policy, writer })?.stamp().hash));
    let found = found.await.map_err(other)??;
    if found != manifest.hash {
        return Err(NotMade::NotConfirmed {
            found,
            expected: manifest.hash.clone(),
        });
    }
    Ok(())
}

async fn bounds(client: &Client, log: &Log) -> Result<Bounds, NotMade> {
    let bounds = log.bounds(client).await;
    bounds.map_err(|error| CheckpointError::Unavailable(error.to_string()).into())
}

fn newest(kept: &[Kept]) -> Option<&Manifest> {
    kept.first().map(|kept| &kept.manifest)
}

fn other(error: impl std::fmt::Display) -> NotMade {
    NotMade::Other(error.to_string())
}
