use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message};
use futures_util::StreamExt;
use natterjack_nats_config::contract::{Ephemeral, Seq, Subjects};
use tokio::time::Instant;

use super::Feed;

/// How far behind the writer a bridge may be to hand on what is not kept: later it is no news.
const FRESH_WITHIN: Duration = Duration::from_secs(1);
/// Waiting between attempts to listen.
const RETRY: Duration = Duration::from_secs(1);

/// Listens to what is told to rooms and not kept, for ever.
pub(crate) async fn listen(feed: Arc<Feed>, client: Client, subjects: Subjects) {
    loop {
        match client.subscribe(subjects.room_now_all()).await {
            Ok(mut messages) => {
                while let Some(message) = messages.next().await {
                    take(&feed, &message).await;
                }
            }
            Err(error) => tracing::warn!(%error, "what is not kept cannot be heard"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Takes in one of it, once this bridge knows the rights by which the writer let it be told. Room heads are for others.
async fn take(feed: &Feed, message: &Message) {
    let Ok(told) = serde_json::from_slice::<Ephemeral>(&message.payload) else {
        return;
    };
    let after = message.headers.as_ref().and_then(|headers| headers.get("Chat-Seq"));
    let Some(after) = after.and_then(|after| after.as_str().parse().ok()).map(Seq) else {
        return;
    };
    if feed.wait_passed(after, Instant::now() + FRESH_WITHIN).await {
        feed.tell(told.tenant, told.room, message.payload.clone());
    }
}
