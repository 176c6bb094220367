use std::time::Duration;

use async_nats::Client;
use natterjack_nats_config::contract::Seq;
use natterjack_nats_config::tail::{Log, TailError};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::ring::Entry;
use super::{Feed, Page, Reader, archived};

/// The most frames read for one answer.
const MAX_FRAMES: usize = 1000;
/// The most bytes of the log read for one answer.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// The longest that reading for one answer takes.
const MAX_TIME: Duration = Duration::from_secs(2);

/// Serves readers who are further behind than the ring from the log itself, and from the archive what was trimmed from it.
pub(crate) struct Past {
    client: Client,
    log: Log,
    places: Semaphore,
    most: usize,
}

/// Why the past cannot be read now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PastError {
    /// As many readers as allowed are at it: try again.
    #[error("too many readers are far behind at once")]
    Busy,
    /// The log does not answer: try again.
    #[error("the log does not answer")]
    Silent,
    /// The archive does not answer, or has not got there yet: try again.
    #[error("the archive does not tell what was trimmed from the log")]
    Lagging,
    /// What was trimmed from the log there is not in the archive either.
    #[error("what follows the cursor is kept neither in the log nor in the archive")]
    Expired {
        /// Everything after this place is kept.
        earliest: Seq,
    },
    /// The archive's answer cannot be read: somebody has to look.
    #[error("the archive's answer cannot be read: {0}")]
    Damaged(serde_json::Error),
    /// The log cannot be read there: somebody has to look.
    #[error(transparent)]
    Tail(#[from] TailError),
}

impl Past {
    pub(crate) fn new(client: Client, log: Log, places: usize) -> Self {
        Self {
            client,
            log,
            places: Semaphore::new(places.max(1)),
            most: places.max(1),
        }
    }

    /// How many readers are being served.
    pub(crate) fn readers(&self) -> usize {
        self.most.saturating_sub(self.places.available_permits())
    }

    /// Fills a page from the log until what follows is in the ring, or a limit is reached (then there is `more`).
    pub(crate) async fn read(&self, feed: &Feed, reader: &Reader, page: &mut Page) -> Result<(), PastError> {
        let _place = self.places.try_acquire().map_err(|_| PastError::Busy)?;
        let deadline = Instant::now() + MAX_TIME;
        let mut tail = self.log.tail(&self.client, passed_frame(page.seq));
        let (mut frames, mut bytes) = (0, 0);
        while page.seq < feed.floor() {
            if frames >= MAX_FRAMES || bytes >= MAX_BYTES {
                page.more = true;
                return Ok(());
            }
            let Ok(frame) = tokio::time::timeout_at(deadline, tail.next()).await else {
                page.more = true;
                return if frames == 0 { Err(PastError::Silent) } else { Ok(()) };
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(TailError::Trimmed { .. }) => {
                    let from = (&self.client, &self.log);
                    return archived::read(from, feed, reader, page, deadline).await;
                }
                Err(error) => return Err(error.into()),
            };
            frames += 1;
            bytes += frame.events.iter().map(|line| line.bytes.len()).sum::<usize>();
            let is_full = feed.with_view(|view| {
                frame
                    .events
                    .iter()
                    .any(|line| page.offer(view, reader, &Entry::of(line)).is_break())
            });
            if is_full {
                return Ok(());
            }
            page.pass(Seq::end_of_frame(frame.stream_seq));
        }
        Ok(())
    }
}

/// The last frame that is wholly passed at a place.
fn passed_frame(seq: Seq) -> u64 {
    if seq == Seq::end_of_frame(seq.frame()) {
        seq.frame()
    } else {
        seq.frame().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_inside_a_frame_needs_that_frame_again() {
        let table = [
            (Seq::ZERO, 0),
            (Seq::of(1, 0), 0),
            (Seq::of(7, 3), 6),
            (Seq::end_of_frame(7), 7),
            (Seq::end_of_frame(0), 0),
        ];
        for (seq, expected) in table {
            assert_eq!(passed_frame(seq), expected, "{seq}");
        }
    }
}
