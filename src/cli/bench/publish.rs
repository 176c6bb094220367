use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::Client;
use async_nats::jetstream;
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::{Measured, SUBJECT};

/// Single JetStream publishes, as many in flight as said.
pub(super) async fn publish(
    client: &Client,
    in_flight: usize,
    size: usize,
    length: Duration,
) -> anyhow::Result<Measured> {
    let jetstream = jetstream::new(client.clone());
    let payload = Bytes::from(vec![b'x'; size]);
    let start = Instant::now();
    let one = || async {
        let asked = Instant::now();
        jetstream.publish(SUBJECT, payload.clone()).await?.await?;
        anyhow::Ok(asked.elapsed())
    };
    let mut running: FuturesUnordered<_> = (0..in_flight).map(|_| one()).collect();
    let mut times = Vec::new();
    while let Some(time) = running.next().await {
        times.push(time.context("a publish failed")?);
        if start.elapsed() < length {
            running.push(one());
        }
    }
    Ok(Measured {
        times,
        took: start.elapsed(),
    })
}
