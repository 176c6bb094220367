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

/// Reads the stream ROOMS as it grows, as a tool's consumer does. Where the stream's own sequence goes on without a gap,
/// so must the log.
pub(crate) struct Tap {
    /// Each piece without a gap in the stream's own sequence.
    pieces: Vec<Vec<Got>>,
    /// The stream's sequence that was read last.
    last: u64,
}

impl Tap {
    /// Reads until it is told to stop.
    pub(crate) async fn run(client: async_nats::Client, setting: Setting) -> Vec<Reader> {
        let mut tap = Self {
            pieces: Vec::new(),
            last: 0,
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
            self.last = 0;
            self.pieces.push(Vec::new());
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
                self.pieces.push(Vec::new());
            }
            self.last = place;
            return Ok(());
        }
        let seq = message.headers.as_ref().and_then(|headers| headers.get("Chat-Seq"));
        let got = Got {
            at: setting.clock.ms(),
            seq: seq.and_then(|seq| seq.as_str().parse().ok()).unwrap_or_default(),
            hash: hash(&message.payload),
        };
        match self.pieces.last_mut().filter(|_| place == self.last + 1) {
            Some(piece) => piece.push(got),
            None => self.pieces.push(vec![got]),
        }
        self.last = place;
        Ok(())
    }
}
