use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use natterjack_nats_config::contract::{ArchiveWatermark, Seq, WATERMARK_VERB};
use natterjack_nats_config::tail::Log;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Waiting between two questions while somebody waits: the archive writes a batch in some milliseconds.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// The same when there is no answer.
const WHEN_UNWELL: Duration = Duration::from_millis(250);
/// How long an answer may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// How far the archive has read the log. It is asked only while somebody waits, once for all of them.
pub(crate) struct Archive {
    wanted: watch::Sender<Seq>,
    reached: watch::Sender<Seq>,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self {
            wanted: watch::Sender::new(Seq::ZERO),
            reached: watch::Sender::new(Seq::ZERO),
        }
    }

    /// Waits until the archive has the event; `false` if it has not by the deadline.
    pub(super) async fn wait(&self, seq: Seq, deadline: Instant) -> bool {
        // In this order: whoever gives up asking looks for waiting ones first.
        let mut reached = self.reached.subscribe();
        self.wanted.send_if_modified(|wanted| {
            let is_new = seq > *wanted;
            *wanted = seq.max(*wanted);
            is_new
        });
        matches!(
            timeout_at(deadline, reached.wait_for(|reached| *reached >= seq)).await,
            Ok(Ok(_))
        )
    }

    /// How much the archive lacks of what is waited for.
    fn is_behind(&self) -> bool {
        *self.reached.borrow() < *self.wanted.borrow()
    }

    /// Nobody waits any more: what was wanted last is not wanted.
    fn rest(&self) {
        self.wanted.send_if_modified(|wanted| {
            if self.reached.receiver_count() == 0 {
                *wanted = *self.reached.borrow();
            }
            false
        });
    }
}

/// Asks the archive for ever, as long as somebody waits.
pub(crate) async fn follow_archive(archive: Arc<Archive>, client: Client, log: Log) {
    let mut wanted = archive.wanted.subscribe();
    loop {
        while archive.is_behind() && archive.reached.receiver_count() > 0 {
            let pause = match ask(&client, &log).await {
                Some(reached) => {
                    archive.reached.send_replace(reached);
                    ASK_EVERY
                }
                None => WHEN_UNWELL,
            };
            if archive.is_behind() {
                sleep(pause).await;
            }
        }
        archive.rest();
        if !archive.is_behind() && wanted.changed().await.is_err() {
            return;
        }
    }
}

async fn ask(client: &Client, log: &Log) -> Option<Seq> {
    let asked = client.request(log.subjects.store_service(WATERMARK_VERB), "".into());
    let answer = match timeout(ANSWERS_WITHIN, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the archive does not say how far it is");
            return None;
        }
        Err(_) => return None,
    };
    // A problem is no watermark.
    let told: Option<ArchiveWatermark> = serde_json::from_slice(&answer.payload).ok();
    told.map(|told| told.watermark)
}
