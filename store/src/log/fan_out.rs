use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream::{self, stream::Config};
use async_nats::{Client, HeaderMap, Subscriber};
use futures_util::StreamExt;
use natterjack_nats_config::contract::{EventLine, Kind, Seq};
use natterjack_nats_config::stream::{CHANGING_IN_ROOMS, reconcile, rooms_config};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::broken::broken;
use super::keeper::LeaseState;
use super::writer::WriterConfig;

/// Frames whose events are on their way into ROOMS without an ack yet. Only a frame's last event is acknowledged, with the
/// sequence that ROOMS gave it: a loss before it shows there.
const IN_FLIGHT: usize = 8;
/// How long an ack may take before the fan-out starts again from what ROOMS holds.
const ACK_WITHIN: Duration = Duration::from_secs(5);
/// Waiting before it starts again.
const RETRY: Duration = Duration::from_millis(250);

/// Why the fan-out starts again from what ROOMS holds. Never an end: it is a view, and can always be filled anew.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Interrupted(String);

/// Where ROOMS stands.
struct Place {
    /// ROOMS' own last sequence.
    rooms_seq: u64,
    /// The last event that it holds.
    chat_seq: Seq,
}

struct FanOut {
    client: Client,
    config: WriterConfig,
    acks: Subscriber,
    inbox: String,
    term: String,
    in_flight: VecDeque<u64>,
    place: Place,
}

/// Hands every event of the log to its room, each once and in order, until it is told to stop.
pub(crate) async fn run(
    client: Client,
    config: WriterConfig,
    mut lease: watch::Receiver<LeaseState>,
    stop: CancellationToken,
) {
    loop {
        // A worker that was paused must not take the rooms from its successor: only who surely holds the lease begins.
        tokio::select! {
            _ = lease.wait_for(|lease| Instant::now() < lease.valid_until) => {}
            () = stop.cancelled() => return,
        }
        tokio::select! {
            Err(reason) = follow(&client, &config) => tracing::warn!(%reason, "the fan-out starts again"),
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn follow(client: &Client, config: &WriterConfig) -> Result<std::convert::Infallible, Interrupted> {
    let log = &config.log;
    let term = uuid::Uuid::now_v7().simple().to_string();
    let wanted = rooms_config(&log.subjects, log.shard, config.replicas, &term);
    let refill_to = prepare(client, config, &wanted).await?;
    let inbox = client.new_inbox();
    let acks = client.subscribe(inbox.clone()).await.map_err(interrupted)?;
    let mut refilling = refill_to > 0;
    if !refilling {
        reconcile(client, wanted.clone(), CHANGING_IN_ROOMS)
            .await
            .map_err(interrupted)?;
    }
    // Read only now that no fan-out of another term can add to it.
    let mut place = place(client, &wanted.name).await?;
    if broken("fan-out-resume") {
        place.chat_seq = Seq::end_of_frame(log.end(client).await.map_err(interrupted)?);
    }
    let mut tail = log.tail(client, place.chat_seq.frame().saturating_sub(1));
    let in_flight = VecDeque::new();
    let mut fan_out = FanOut {
        client: client.clone(),
        config: config.clone(),
        acks,
        inbox,
        term,
        in_flight,
        place,
    };
    loop {
        let frame = tokio::select! {
            biased;
            frame = tail.next() => frame.map_err(interrupted)?,
            ack = fan_out.acks.next(), if !fan_out.in_flight.is_empty() => {
                fan_out.acked(ack.as_ref())?;
                continue;
            }
        };
        fan_out.drain(IN_FLIGHT - 1).await?;
        for (index, line) in frame.events.iter().enumerate() {
            fan_out.put(line, index + 1 == frame.events.len(), !refilling).await?;
        }
        if refilling && frame.stream_seq >= refill_to {
            fan_out.drain(0).await?;
            reconcile(client, wanted.clone(), CHANGING_IN_ROOMS)
                .await
                .map_err(interrupted)?;
            tracing::info!(events = fan_out.place.rooms_seq, "the rooms are filled again");
            refilling = false;
        }
    }
}

/// Makes ROOMS when it is missing. An empty one is filled before it republishes, so that nobody hears history again:
/// up to the frame that is given back.
async fn prepare(client: &Client, config: &WriterConfig, wanted: &Config) -> Result<u64, Interrupted> {
    let end = config.log.end(client).await.map_err(interrupted)?;
    let jetstream = jetstream::new(client.clone());
    let live = match jetstream.get_stream(&wanted.name).await {
        Ok(stream) => stream.cached_info().config.republish.is_some() && stream.cached_info().state.last_sequence > 0,
        Err(_) => false,
    };
    if live {
        return Ok(0);
    }
    let silent = Config {
        republish: None,
        ..wanted.clone()
    };
    reconcile(client, silent, CHANGING_IN_ROOMS)
        .await
        .map_err(interrupted)?;
    Ok(end)
}

async fn place(client: &Client, stream: &str) -> Result<Place, Interrupted> {
    let mut stream = jetstream::new(client.clone())
        .get_stream(stream)
        .await
        .map_err(interrupted)?;
    let rooms_seq = stream.info().await.map_err(interrupted)?.state.last_sequence;
    if rooms_seq == 0 {
        return Ok(Place {
            rooms_seq,
            chat_seq: Seq::ZERO,
        });
    }
    let last = stream.get_raw_message(rooms_seq).await.map_err(interrupted)?;
    let chat_seq = last.headers.get("Chat-Seq").and_then(|seq| seq.as_str().parse().ok());
    let chat_seq = chat_seq
        .map(Seq)
        .ok_or_else(|| Interrupted("ROOMS' last message has no Chat-Seq".to_owned()))?;
    Ok(Place { rooms_seq, chat_seq })
}

impl FanOut {
    async fn put(&mut self, line: &EventLine, is_last: bool, live: bool) -> Result<(), Interrupted> {
        let event = &line.event;
        if event.seq <= self.place.chat_seq {
            return Ok(());
        }
        let subjects = &self.config.log.subjects;
        let mut headers = HeaderMap::new();
        headers.insert("Chat-Seq", event.seq.to_string().as_str());
        headers.insert("Chat-Prev", event.prev.to_string().as_str());
        let subject = subjects.fan(&self.term, &event.tenant, &event.room);
        self.place = Place {
            rooms_seq: self.place.rooms_seq + 1,
            chat_seq: event.seq,
        };
        let (client, bytes) = (&self.client, line.bytes.clone());
        if is_last {
            let inbox = self.inbox.clone();
            client
                .publish_with_reply_and_headers(subject, inbox, headers, bytes)
                .await
                .map_err(interrupted)?;
            self.in_flight.push_back(self.place.rooms_seq);
        } else {
            client
                .publish_with_headers(subject, headers, bytes)
                .await
                .map_err(interrupted)?;
        }
        if let Some(user) = event
            .concerns()
            .filter(|_| live && matches!(event.kind, Kind::Member | Kind::User))
        {
            let notice = subjects.user(&event.tenant, &user);
            self.client
                .publish(notice, line.bytes.clone())
                .await
                .map_err(interrupted)?;
        }
        Ok(())
    }

    /// Waits until at most `most` events are without an ack.
    async fn drain(&mut self, most: usize) -> Result<(), Interrupted> {
        while self.in_flight.len() > most {
            let ack = tokio::time::timeout(ACK_WITHIN, self.acks.next())
                .await
                .map_err(interrupted)?;
            self.acked(ack.as_ref())?;
        }
        Ok(())
    }

    fn acked(&mut self, ack: Option<&async_nats::Message>) -> Result<(), Interrupted> {
        let ack = ack.ok_or_else(|| Interrupted("the subscription ended".to_owned()))?;
        let expected = self.in_flight.pop_front();
        let answer: serde_json::Value = serde_json::from_slice(&ack.payload).map_err(interrupted)?;
        if answer.get("seq").and_then(serde_json::Value::as_u64) == expected {
            return Ok(());
        }
        Err(Interrupted(format!(
            "ROOMS answered {answer}, sequence {expected:?} was expected"
        )))
    }
}

fn interrupted(error: impl std::fmt::Display) -> Interrupted {
    Interrupted(error.to_string())
}
