use std::time::Duration;

use async_nats::Client;

use super::{CheckpointError, Checkpoints, Kept};
use crate::contract::{Manifest, Part};
use crate::tail::{Bounds, Log};

/// Waiting between attempts to find out where to begin.
const RETRY: Duration = Duration::from_millis(250);
/// The same, when the log is shorter than its checkpoints.
const RETRY_SHORT: Duration = Duration::from_secs(5);

/// There is nothing to begin with; a person has to look.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The log was trimmed, and no checkpoint reaches its first frame.
    #[error(
        "the log {stream} begins at frame {first}, and no usable checkpoint in {bucket} reaches it ({found} found): what \
         was trimmed is known from checkpoints only. Restore the stream {bucket} from a backup (nats stream restore) and \
         start again; without one, keep the archive for history and begin a new log under another `nats.prefix`"
    )]
    Lost {
        /// The log's stream.
        stream: String,
        /// The bucket's stream.
        bucket: String,
        /// The log's first frame.
        first: u64,
        /// How many checkpoints there are.
        found: usize,
    },
}

/// What kept a beginning from being found.
enum Hindrance {
    Later(String),
    Short { last: u64, end: u64 },
    Never(BeginError),
}

/// Finds where to begin: the newest checkpoint that can be used, `None` for the log's first frame. Waits until NATS
/// answers. A broken checkpoint is passed over with an alarm, and the one before is taken.
///
/// `decode` gets the parts that are asked for; it runs where it may take its time.
pub async fn begin<T: Send + 'static>(
    client: &Client,
    log: &Log,
    parts: &[Part],
    decode: impl Fn(&Manifest, Vec<Vec<u8>>) -> Result<T, String> + Clone + Send + 'static,
) -> Result<Option<(Manifest, T)>, BeginError> {
    loop {
        match try_begin(client, log, parts, decode.clone()).await {
            Ok(found) => return Ok(found),
            Err(Hindrance::Never(error)) => return Err(error),
            Err(Hindrance::Later(reason)) => {
                tracing::debug!(reason, "waiting to learn where to begin");
                tokio::time::sleep(RETRY).await;
            }
            Err(Hindrance::Short { last, end }) => {
                // A leader without quorum may tell an old end, so this is waited for.
                tracing::error!(
                    last,
                    checkpoint = end,
                    "the log ends before its newest checkpoint: it lost its end, or is another log under the same name. \
                     If it was replaced on purpose, remove the stream {} and start again",
                    log.subjects.checkpoint_stream()
                );
                tokio::time::sleep(RETRY_SHORT).await;
            }
        }
    }
}

async fn try_begin<T: Send + 'static>(
    client: &Client,
    log: &Log,
    parts: &[Part],
    decode: impl Fn(&Manifest, Vec<Vec<u8>>) -> Result<T, String> + Clone + Send + 'static,
) -> Result<Option<(Manifest, T)>, Hindrance> {
    let later = |error: CheckpointError| Hindrance::Later(error.to_string());
    let checkpoints = Checkpoints::join(client, log).await.map_err(later)?;
    let kept = match &checkpoints {
        Some(checkpoints) => checkpoints.list().await.map_err(later)?,
        None => Vec::new(),
    };
    let bounds = log.bounds(client).await;
    let bounds = bounds.map_err(|error| Hindrance::Later(error.to_string()))?;
    for one in &kept {
        let Some(checkpoints) = &checkpoints else { break };
        let end = one.manifest.end;
        if end > bounds.last {
            return Err(Hindrance::Short { last: bounds.last, end });
        }
        if end + 1 < bounds.first {
            break;
        }
        if !is_of_this_log(client, log, bounds, one)
            .await
            .map_err(Hindrance::Later)?
        {
            alarm(end, "it is of another log");
            continue;
        }
        match take(checkpoints, one, parts, decode.clone()).await {
            Ok(state) => return Ok(Some((one.manifest.clone(), state))),
            Err(Taken::Broken(reason)) => alarm(end, &reason),
            Err(Taken::Later(reason)) => return Err(Hindrance::Later(reason)),
        }
    }
    if bounds.first > 1 {
        return Err(Hindrance::Never(BeginError::Lost {
            stream: log.stream(),
            bucket: log.subjects.checkpoint_stream(),
            first: bounds.first,
            found: kept.len(),
        }));
    }
    Ok(None)
}

/// Why a checkpoint was not taken up.
enum Taken {
    Broken(String),
    Later(String),
}

async fn take<T: Send + 'static>(
    checkpoints: &Checkpoints,
    kept: &Kept,
    parts: &[Part],
    decode: impl Fn(&Manifest, Vec<Vec<u8>>) -> Result<T, String> + Send + 'static,
) -> Result<T, Taken> {
    let mut read = Vec::with_capacity(parts.len());
    for part in parts {
        match checkpoints.read(kept, *part).await {
            Ok(bytes) => read.push(bytes),
            Err(error @ CheckpointError::Broken { .. }) => return Err(Taken::Broken(error.to_string())),
            Err(error) => return Err(Taken::Later(error.to_string())),
        }
    }
    let manifest = kept.manifest.clone();
    match tokio::task::spawn_blocking(move || decode(&manifest, read)).await {
        Ok(Ok(state)) => Ok(state),
        Ok(Err(reason)) => Err(Taken::Broken(reason)),
        Err(error) => Err(Taken::Later(error.to_string())),
    }
}

/// Whether the frame at which a checkpoint was made stands in this log; also if that frame was trimmed.
async fn is_of_this_log(client: &Client, log: &Log, bounds: Bounds, kept: &Kept) -> Result<bool, String> {
    let Manifest { end, frame_id, .. } = &kept.manifest;
    if *end < bounds.first {
        return Ok(true);
    }
    let found = log.frame_id(client, *end).await.map_err(|error| error.to_string())?;
    Ok(found.is_none_or(|found| found == *frame_id))
}

fn alarm(checkpoint: u64, reason: &str) {
    tracing::error!(
        checkpoint,
        reason,
        "ALARM: a checkpoint cannot be used, the one before is taken"
    );
}
