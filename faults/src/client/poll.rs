use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::http::{Answer, Http};
use super::setting::Setting;
use super::wire::Refused;
use crate::history::{Got, Name, Reader, ReaderKind, hash};

/// The pause after an error.
const PAUSE: Duration = Duration::from_millis(200);
/// How often a cursor is presented once more, which must give the same again.
const ASK_AGAIN: f64 = 0.02;

/// A reader by long-poll, at one bridge after the other, who goes on from its cursor for ever.
pub(crate) struct Poll {
    pub(crate) name: Name,
    pub(crate) user: Name,
    pub(crate) rooms: Vec<Name>,
    pub(crate) whole: bool,
    pub(crate) bridges: Vec<Http>,
    pub(crate) rng: StdRng,
    /// Seconds that a poll waits, and the most events on a page.
    pub(crate) wait: u64,
    pub(crate) limit: usize,
    /// The last place that it was handed, for who waits for it.
    pub(crate) place: Arc<AtomicU64>,
}

#[derive(Deserialize)]
pub(super) struct EventsPage<'a> {
    #[serde(borrow)]
    pub(super) events: Vec<&'a RawValue>,
    pub(super) cursor: String,
    #[serde(default)]
    pub(super) more: bool,
}

#[derive(Deserialize)]
struct Place {
    seq: u64,
}

impl Poll {
    /// Reads its rooms from their beginning until it is told to stop.
    pub(crate) async fn run(mut self, setting: Setting) -> Reader {
        let mut got: Vec<Got> = Vec::new();
        let mut cursor = "earliest".to_owned();
        let mut turn = 0;
        loop {
            turn += 1;
            let page = tokio::select! {
                page = self.page(&setting, &cursor, turn) => page,
                () = setting.stop_reading.cancelled() => break,
            };
            let Some((events, next)) = page else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            // Presented again, a cursor gives what it gave; only who presents the next one has taken it.
            if self.rng.random_bool(ASK_AGAIN) && !events.is_empty() {
                continue;
            }
            if let Some(last) = events.last() {
                self.place.store(last.seq, Ordering::Relaxed);
            }
            setting.tally.heard.fetch_add(events.len() as u64, Ordering::Relaxed);
            got.extend(events);
            cursor = next;
        }
        Reader {
            name: self.name,
            user: self.user,
            kind: ReaderKind::Cursor,
            rooms: self.rooms,
            since: Some(0),
            whole: self.whole,
            got,
        }
    }

    async fn page(&mut self, setting: &Setting, cursor: &str, turn: usize) -> Option<(Vec<Got>, String)> {
        let rooms = self.rooms.join(",");
        let (wait, limit) = (self.wait, self.limit);
        let path = format!("/v1/events?cursor={cursor}&rooms={rooms}&wait={wait}&limit={limit}");
        let number = self.bridges.len().max(1);
        match self.bridges.get_mut(turn % number)?.get(&path).await.ok()? {
            Answer { status: 200, body } => events_of(&body, setting),
            Answer { status, body } => {
                let code = serde_json::from_slice::<Refused>(&body).map_or_else(|_| String::new(), |told| told.code);
                setting.tally.told(format!("poll: {status} {code}"));
                None
            }
        }
    }
}

fn events_of(body: &[u8], setting: &Setting) -> Option<(Vec<Got>, String)> {
    let page: EventsPage<'_> = serde_json::from_slice(body).ok()?;
    let at = setting.clock.ms();
    let mut events = Vec::with_capacity(page.events.len());
    for event in page.events {
        let Place { seq } = serde_json::from_str(event.get()).ok()?;
        let hash = hash(event.get().as_bytes());
        events.push(Got { at, seq, hash });
    }
    Some((events, page.cursor))
}
