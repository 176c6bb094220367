use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use natterjack_nats_config::tail::{Log, TailError};

use super::Feed;

/// Waiting between attempts to learn where the log ends.
const RETRY: Duration = Duration::from_millis(100);

/// Reads the log from its beginning, for ever; ends only by an error that needs somebody to look.
pub(crate) async fn follow(feed: Arc<Feed>, client: Client, log: Log) -> TailError {
    let end = loop {
        match log.end(&client).await {
            Ok(end) => break end,
            Err(error) => tracing::debug!(%error, "waiting for the log"),
        }
        tokio::time::sleep(RETRY).await;
    };
    if end == 0 {
        feed.caught_up.send_replace(true);
    }
    let mut tail = log.tail(&client, 0);
    loop {
        match tail.next().await {
            Ok(frame) => {
                feed.take_in(frame.stream_seq, &frame.events);
                if frame.stream_seq >= end && !feed.is_caught_up() {
                    tracing::info!(frame = frame.stream_seq, "the log is read up to its end");
                    feed.caught_up.send_replace(true);
                }
            }
            Err(error) => return error,
        }
    }
}
