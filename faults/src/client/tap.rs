use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures_util::StreamExt;
use natterjack_nats_config::contract::Subjects;

use super::setting::Setting;
use crate::history::{Got, Name, Reader, ReaderKind, hash};

/// How long it listens before it asks whether it is still heard.
const SILENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);

/// How many messages are read again where a room's event is not behind the one before it.
const LOOK_BACK: u64 = 1000;

/// Reads the stream ROOMS as it grows. Where the stream's own sequence goes on without a gap, so must the log.
///
/// ROOMS' sequences are nobody's cursor: what it lost with its servers is stored again, and may come to stand at a place that
/// was read already. Then a room's event does not name the one before it, and the tap looks again: what ROOMS itself lacks is
/// missing then too.
pub(crate) struct Tap {
    /// Each piece without a gap in the stream's own sequence.
    pieces: Vec<Vec<Got>>,
    /// The stream's sequence that was read last.
    last: u64,
    /// Each room's event that was read last, in this piece.
    rooms: HashMap<String, u64>,
    /// The event behind which it looked again last.
    looked_again: u64,
}

impl Tap {
    /// Reads until it is told to stop.
    pub(crate) async fn run(client: async_nats::Client, setting: Setting) -> Vec<Reader> {
        let mut tap = Self {
            pieces: Vec::new(),
            last: 0,
            rooms: HashMap::new(),
            looked_again: 0,
        };
        loop {
            tokio::select! {
                broken = tap.read(&client, &setting) => {
                    if let Err(error) = broken {
                        tracing::debug!(%error, "ROOMS is read again");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                () = setting.stop_reading.cancelled() => break,
            }
        }
        let pieces = tap.pieces.into_iter().enumerate();
        let reader = |(at, got)| Reader {
            name: Name::from(format!("piece {at} of ROOMS")),
            user: Name::from("tool"),
            kind: ReaderKind::Piece,
            rooms: setting.rooms.to_vec(),
            since: None,
            whole: true,
            got,
        };
        pieces.map(reader).collect()
    }

    async fn read(&mut self, client: &async_nats::Client, setting: &Setting) -> anyhow::Result<()> {
        let mut stream = jetstream::new(client.clone())
            .get_stream(Subjects::default().rooms_stream(0))
            .await?;
        if stream.info().await?.state.last_sequence < self.last {
            // The stream was lost and is filled anew.
            self.begin_piece();
            self.last = 0;
        }
        let config = pull::OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: self.last + 1,
            },
            ..pull::OrderedConfig::default()
        };
        let mut messages = stream.create_consumer(config).await?.messages().await?;
        loop {
            let Some(message) = tokio::time::timeout(SILENCE, messages.next()).await? else {
                return Ok(());
            };
            self.take(&message?, setting)?;
        }
    }

    fn take(&mut self, message: &jetstream::Message, setting: &Setting) -> anyhow::Result<()> {
        let place = message
            .info()
            .map_err(|error| anyhow::anyhow!("{error}"))?
            .stream_sequence;
        if place <= self.last {
            return Ok(());
        }
        if message.subject.as_str() == Subjects::default().fan_begin() {
            // Where a fan-out began: no event, and heard by nobody.
            if place != self.last + 1 {
                self.begin_piece();
            }
            self.last = place;
            return Ok(());
        }
        if self.pieces.is_empty() || place != self.last + 1 {
            self.begin_piece();
        }
        let (seq, prev) = (number(message, "Chat-Seq"), number(message, "Chat-Prev"));
        let before = self.rooms.insert(message.subject.to_string(), seq);
        if before.is_some_and(|before| before != prev) && seq > self.looked_again {
            self.looked_again = seq;
            self.begin_piece();
            self.last = place.saturating_sub(LOOK_BACK);
            anyhow::bail!("event {seq} is not behind {before:?} but {prev}");
        }
        let got = Got {
            at: setting.clock.ms(),
            seq,
            hash: hash(&message.payload),
        };
        if let Some(piece) = self.pieces.last_mut() {
            piece.push(got);
        }
        self.last = place;
        Ok(())
    }

    fn begin_piece(&mut self) {
        self.pieces.push(Vec::new());
        self.rooms.clear();
    }
}

fn number(message: &jetstream::Message, header: &str) -> u64 {
    let value = message.headers.as_ref().and_then(|headers| headers.get(header));
    value.and_then(|value| value.as_str().parse().ok()).unwrap_or_default()
}
