use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use natterjack_authz::begin_view;
use natterjack_authz::policy::View;
use natterjack_nats_config::contract::Seq;
use natterjack_nats_config::tail::{Bounds, Log, TailError};

use super::Feed;
use crate::error::BridgeError;

/// Waiting between attempts to learn where the log ends.
const RETRY: Duration = Duration::from_millis(100);
/// Frames that are read again although the checkpoint has taken them in, so that readers who come back after a restart
/// find in memory what they have not seen: read in well under a second.
const READ_AGAIN: u64 = 10_000;

/// Reads the log from the newest checkpoint on, for ever; ends only by an error that needs somebody to look.
pub(crate) async fn follow(feed: Arc<Feed>, client: Client, log: Log) -> BridgeError {
    loop {
        let view = match begin_view(&client, &log).await {
            Ok(view) => view,
            Err(error) => return error.into(),
        };
        match read_on(&feed, &client, &log, view).await {
            TailError::Trimmed { wanted, first } if wanted < bounds(&client, &log).await.first => {
                tracing::warn!(
                    wanted,
                    first,
                    "the log was trimmed past this bridge, it begins again from a checkpoint"
                );
            }
            error => return error.into(),
        }
    }
}

async fn read_on(feed: &Feed, client: &Client, log: &Log, view: View) -> TailError {
    let Bounds { first, last, .. } = bounds(client, log).await;
    let frame = view.seq().frame();
    let begin = frame.saturating_sub(READ_AGAIN).max(first - 1).min(frame);
    let floor = if begin == 0 {
        Seq::ZERO
    } else {
        Seq::end_of_frame(begin)
    };
    feed.begin_at(view, floor);
    let mut tail = log.tail(client, begin);
    loop {
        if tail.passed() >= last && !feed.is_caught_up() {
            tracing::info!(checkpoint = frame, end = last, "the log is read up to its end");
            feed.caught_up.send_replace(true);
        }
        match tail.next().await {
            Ok(frame) => feed.take_in(frame.stream_seq, &frame.events),
            Err(error) => return error,
        }
    }
}

async fn bounds(client: &Client, log: &Log) -> Bounds {
    loop {
        match log.bounds(client).await {
            Ok(bounds) => return bounds,
            Err(error) => tracing::debug!(%error, "waiting for the log"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
