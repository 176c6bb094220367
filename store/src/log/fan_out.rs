use std::time::Duration;

use async_nats::jetstream::{self, stream::Config};
use async_nats::{Client, HeaderMap};
use natterjack_nats_config::contract::{EventLine, Kind, Seq};
use natterjack_nats_config::stream::{CHANGING_IN_ROOMS, reconcile, rooms_config};
use natterjack_nats_config::tail::{Frame, Log, Tail};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::broken::broken;
use super::fan_batch::{Batch, Heard, SERVER};
use super::fan_erased::Erasures;
use super::heads::Heads;
use super::keeper::LeaseState;
use super::writer::WriterConfig;
use crate::devices;

/// Waiting before it starts again.
const RETRY: Duration = Duration::from_millis(250);

/// Why the fan-out starts again from what ROOMS holds. Never an end: it is a view, and can always be filled anew.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Interrupted(pub(super) String);

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
    batch: Batch,
    term: String,
    /// The last event that was put.
    put: Seq,
    /// What comes up to here is stored and not heard: it was heard before, or is history.
    silent_to: Seq,
    heads: Heads,
    erased: Erasures,
}

/// Hands every event of the log to its room, each once and in order, until it is told to stop. `before` is where the log stood
/// when this worker began to lead, `erased` what was erased by then.
pub(crate) async fn run(
    client: Client,
    config: WriterConfig,
    (before, erased): (Seq, Erasures),
    mut lease: watch::Receiver<LeaseState>,
    stop: CancellationToken,
) {
    let heard = Heard::of(config.replicas, before);
    loop {
        // A worker that was paused must not take the rooms from its successor: only who surely holds the lease begins.
        tokio::select! {
            _ = lease.wait_for(|lease| Instant::now() < lease.valid_until) => {}
            () = stop.cancelled() => return,
        }
        tokio::select! {
            Err(reason) = follow(&client, &config, &heard, &erased) => tracing::warn!(%reason, "the fan-out starts again"),
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn follow(
    client: &Client,
    config: &WriterConfig,
    heard: &Heard,
    erased: &Erasures,
) -> Result<std::convert::Infallible, Interrupted> {
    let log = &config.log;
    let term = uuid::Uuid::now_v7().simple().to_string();
    let wanted = rooms_config(&log.subjects, log.shard, config.replicas, &term);
    let (mut place, silent_to) = begin_term(client, log, &wanted, heard).await?;
    // ROOMS may lose it again, with the power; an earlier term has told it, or it is history.
    heard.note(place.chat_seq.max(silent_to));
    if broken("fan-out-resume") {
        place.chat_seq = Seq::end_of_frame(log.end(client).await.map_err(interrupted)?);
    }
    let mut tail = log.tail(client, begin_behind(client, log, &place).await?);
    let begin = log.subjects.fan_begin();
    let mut fan_out = FanOut {
        client: client.clone(),
        config: config.clone(),
        batch: Batch::begin(client, begin, place.rooms_seq, place.chat_seq, heard.clone()).await?,
        term,
        put: place.chat_seq,
        silent_to,
        heads: Heads::new(Instant::now()),
        erased: erased.clone(),
    };
    loop {
        let frame = fan_out.next(&mut tail).await?;
        for line in &frame.events {
            if fan_out.is_silent() && line.event.seq > fan_out.silent_to {
                fan_out = fan_out.go_live(&wanted, heard).await?;
            }
            fan_out.put(line).await?;
        }
        if fan_out.is_silent() && Seq::end_of_frame(frame.stream_seq) >= fan_out.silent_to {
            fan_out = fan_out.go_live(&wanted, heard).await?;
        }
    }
}

/// Takes the rooms over, and says where they stand and up to where they are filled before they republish, so that nobody
/// hears history as news, or again what ROOMS had not written to disk when its server died.
async fn begin_term(client: &Client, log: &Log, wanted: &Config, heard: &Heard) -> Result<(Place, Seq), Interrupted> {
    let forgets = heard.is_one_copy() && has_restarted(client, log).await;
    if heard.upto() == Seq::ZERO && !forgets && is_live(client, wanted).await {
        set(client, wanted).await?;
        return Ok((place(client, log).await?, Seq::ZERO));
    }
    let silent = Config {
        republish: None,
        ..wanted.clone()
    };
    set(client, &silent).await?;
    let place = place(client, log).await?;
    let has_lost = forgets || place.chat_seq < heard.upto();
    // Then what it had not acknowledged may have been heard as well.
    let silent_to = if has_lost || heard.upto() == Seq::ZERO {
        heard.may_be()
    } else {
        Seq::ZERO
    };
    if place.chat_seq >= silent_to {
        set(client, wanted).await?;
        return Ok((place, Seq::ZERO));
    }
    Ok((place, silent_to))
}

/// Whether the server is another than the one that took in the beginning of the last term: of what ROOMS had then it may have
/// lost the last events, and everybody's connection is a new one.
async fn has_restarted(client: &Client, log: &Log) -> bool {
    let begin = async {
        let stream = jetstream::new(client.clone())
            .get_stream(log.subjects.rooms_stream(log.shard))
            .await
            .ok()?;
        let subject = log.subjects.fan_begin();
        let begin = stream.get_last_raw_message_by_subject(&subject).await.ok()?;
        Some(begin.headers.get(SERVER)?.as_str().to_owned())
    };
    begin
        .await
        .is_some_and(|server| server != client.server_info().server_id)
}

async fn is_live(client: &Client, wanted: &Config) -> bool {
    match jetstream::new(client.clone()).get_stream(&wanted.name).await {
        Ok(stream) => stream.cached_info().config.republish.is_some() && stream.cached_info().state.messages > 0,
        Err(_) => false,
    }
}

/// The frame behind which the log has to be read. Trimming never overtakes the rooms, so only rooms that were lost begin
/// where the log now begins, and what they held before that is in the history; or rooms that were filled with what came
/// before a new epoch of the log.
async fn begin_behind(client: &Client, log: &Log, place: &Place) -> Result<u64, Interrupted> {
    let first = log.bounds(client).await.map_err(interrupted)?.first;
    Ok(place.chat_seq.frame().max(first).saturating_sub(1))
}

async fn set(client: &Client, wanted: &Config) -> Result<(), Interrupted> {
    reconcile(client, wanted.clone(), CHANGING_IN_ROOMS)
        .await
        .map_err(interrupted)
}

/// The last event that the rooms hold.
pub(super) async fn reached(client: &Client, log: &Log) -> Result<Seq, impl std::fmt::Display + use<>> {
    place(client, log).await.map(|place| place.chat_seq)
}

/// The same, for others than the writer.
pub(crate) async fn rooms_reached(client: &Client, log: &Log) -> Result<Seq, String> {
    reached(client, log).await.map_err(|error| error.to_string())
}

/// Where ROOMS stands now. Something of an earlier term may still land behind; then the batch does not begin.
async fn place(client: &Client, log: &Log) -> Result<Place, Interrupted> {
    let stream = jetstream::new(client.clone())
        .get_stream(log.subjects.rooms_stream(log.shard))
        .await
        .map_err(interrupted)?;
    let state = &stream.cached_info().state;
    let mut place = Place {
        rooms_seq: state.last_sequence,
        chat_seq: Seq::ZERO,
    };
    if state.messages == 0 {
        return Ok(place);
    }
    let last = stream.get_raw_message(place.rooms_seq).await.map_err(interrupted)?;
    let chat_seq = last.headers.get("Chat-Seq").and_then(|seq| seq.as_str().parse().ok());
    let missing = || Interrupted("ROOMS' last message has no Chat-Seq".to_owned());
    place.chat_seq = Seq(chat_seq.ok_or_else(missing)?);
    Ok(place)
}

impl FanOut {
    fn is_silent(&self) -> bool {
        self.silent_to > Seq::ZERO
    }

    /// The log's next frame; what comes due before it is done meanwhile.
    async fn next(&mut self, tail: &mut Tail) -> Result<Frame, Interrupted> {
        loop {
            tokio::select! {
                biased;
                lost = self.batch.watch() => match lost? {},
                () = at(self.heads.due()) => self.tell_heads().await?,
                frame = tail.next() => return frame.map_err(interrupted),
            }
        }
    }

    async fn put(&mut self, line: &EventLine) -> Result<(), Interrupted> {
        let event = &line.event;
        if event.seq <= self.put {
            return Ok(());
        }
        self.erased.take(event);
        let subjects = &self.config.log.subjects;
        let mut headers = HeaderMap::new();
        headers.insert("Chat-Seq", event.seq.to_string());
        headers.insert("Chat-Prev", event.prev.to_string());
        if !self.is_silent() {
            self.heads.note(event, Instant::now());
            // Sessions of QoS 1 get the copy that is kept for them, and pass over one that says so.
            if self.config.devices.want(&event.tenant, &event.room, event.seq) {
                headers.insert(devices::KEPT, "1");
            }
        }
        let subject = subjects.fan(&self.term, &event.tenant, &event.room);
        let bytes = if self.is_silent() {
            self.erased.left(line)
        } else {
            line.bytes.clone()
        };
        self.batch.put(subject, headers, bytes, event.seq).await?;
        self.put = event.seq;
        if let Some(user) = event
            .concerns()
            .filter(|_| !self.is_silent() && matches!(event.kind, Kind::Member | Kind::User | Kind::Read))
        {
            let notice = subjects.user(&event.tenant, &user);
            self.client
                .publish(notice, line.bytes.clone())
                .await
                .map_err(interrupted)?;
        }
        Ok(())
    }

    /// Says where the rooms stand that changed: who hears events at most once sees by it that the last one is missing.
    async fn tell_heads(&mut self) -> Result<(), Interrupted> {
        for head in self.heads.take(Instant::now()) {
            let subject = self.config.log.subjects.room_now(&head.tenant, &head.room);
            let bytes = serde_json::to_vec(&head).map_err(interrupted)?;
            self.client.publish(subject, bytes.into()).await.map_err(interrupted)?;
        }
        Ok(())
    }

    /// Waits until all is stored, and has ROOMS republish what is put from now on.
    async fn go_live(self, wanted: &Config, heard: &Heard) -> Result<Self, Interrupted> {
        let rooms_seq = self.batch.end().await?;
        set(&self.client, wanted).await?;
        let begin = self.config.log.subjects.fan_begin();
        let batch = Batch::begin(&self.client, begin, rooms_seq, self.put, heard.clone()).await?;
        tracing::info!(events = rooms_seq, "the rooms are filled again");
        Ok(Self {
            batch,
            silent_to: Seq::ZERO,
            ..self
        })
    }
}

/// Waits until then, or for ever.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

pub(super) fn interrupted(error: impl std::fmt::Display) -> Interrupted {
    Interrupted(error.to_string())
}
