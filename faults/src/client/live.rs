use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, Message};
use futures_util::StreamExt;
use futures_util::stream::select_all;
use natterjack_nats_config::contract::{ApiCall, Subjects};
use tokio::sync::watch;

use super::poll::EventsPage;
use super::setting::{Clock, Setting};
use super::wire::Seen;
use crate::history::{Got, Name, Reader, ReaderKind, hash};
use crate::house::{House, TENANT};

/// How often a reader looks by cursor although nothing is missing: the last event of a quiet room leaves no gap.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A subscriber over NATS, who repairs gaps by `events.get` as the documentation tells.
pub(crate) struct Live {
    pub(crate) name: Name,
    pub(crate) user: Name,
    pub(crate) rooms: Vec<Name>,
    pub(crate) whole: bool,
    /// The last place that it was handed, for who waits for it.
    pub(crate) place: Arc<AtomicU64>,
}

/// What it has, and how far it is.
struct Merge {
    live: Vec<Got>,
    merged: Vec<Got>,
    last: HashMap<String, u64>,
    cursor: String,
    clock: Clock,
    place: Arc<AtomicU64>,
}

/// Signs a user in over NATS. The client reconnects by itself for ever; `connected` counts how often it did.
pub(crate) async fn connect_user(house: &House, user: &str) -> anyhow::Result<(Client, watch::Receiver<u64>)> {
    let (count, connected) = watch::channel(0);
    let token = house.token(user)?;
    let client = ConnectOptions::with_token(token)
        .custom_inbox_prefix(Subjects::user_inbox(&TENANT.parse()?, &user.parse()?))
        .connection_timeout(Duration::from_secs(10))
        .reconnect_delay_callback(|attempt| Duration::from_millis((100 << attempt.min(5)).min(2000)))
        .event_callback(move |event| {
            if matches!(event, Event::Connected) {
                count.send_modify(|count| *count += 1);
            }
            std::future::ready(())
        })
        .connect(house.servers.url().split(',').map(str::to_owned).collect::<Vec<_>>())
        .await?;
    Ok((client, connected))
}

impl Live {
    /// Reads until it is told to stop: what came live, and that with its gaps repaired.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<Vec<Reader>> {
        let (client, mut connected) = connect_user(&setting.house, &self.user).await?;
        let mut subscriptions = Vec::new();
        for room in &self.rooms {
            let subject = Subjects::default().room_log(&TENANT.parse()?, &room.parse()?);
            subscriptions.push(client.subscribe(subject).await?);
        }
        let mut messages = select_all(subscriptions);
        let mut merge = Merge {
            live: Vec::new(),
            merged: Vec::new(),
            last: HashMap::new(),
            cursor: "earliest".to_owned(),
            clock: setting.clock,
            place: Arc::clone(&self.place),
        };
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            let missing = tokio::select! {
                message = messages.next() => match message {
                    Some(message) => merge.take(&message),
                    None => break,
                },
                _ = look.tick() => true,
                _ = connected.changed() => true,
                () = setting.stop_reading.cancelled() => break,
            };
            if missing && self.whole {
                self.repair(&client, &mut merge).await;
            }
            setting.tally.heard.fetch_add(1, Ordering::Relaxed);
        }
        Ok(self.readers(merge))
    }

    /// Reads everything behind the cursor. What fails is tried again at the next look.
    async fn repair(&self, client: &Client, merge: &mut Merge) {
        let (Ok(tenant), Ok(user)) = (TENANT.parse(), self.user.parse()) else {
            return;
        };
        let subject = Subjects::default().api(&ApiCall {
            tenant,
            user,
            service: "events".to_owned(),
            verb: "get".to_owned(),
        });
        loop {
            let ask = serde_json::json!({"cursor": merge.cursor, "rooms": self.rooms, "wait": 0, "limit": 1000});
            let request = async_nats::Request::new()
                .payload(ask.to_string().into())
                .timeout(Some(ANSWER_WITHIN));
            let Ok(answer) = client.send_request(subject.clone(), request).await else {
                return;
            };
            match merge.take_page(&answer.payload) {
                Some(true) => {}
                Some(false) | None => return,
            }
        }
    }

    fn readers(self, merge: Merge) -> Vec<Reader> {
        let reader = |kind, got, whole| Reader {
            name: format!("{} {kind:?}", self.name).into(),
            user: self.user.clone(),
            kind,
            rooms: self.rooms.clone(),
            since: Some(0),
            whole,
            got,
        };
        let mut readers = vec![reader(ReaderKind::Live, merge.live, self.whole)];
        if self.whole {
            readers.push(reader(ReaderKind::Repaired, merge.merged, true));
        }
        readers
    }
}

impl Merge {
    /// Takes a live message in; says whether something before it is missing.
    fn take(&mut self, message: &Message) -> bool {
        let Ok(seen) = serde_json::from_slice::<Seen>(&message.payload) else {
            return false;
        };
        let got = Got {
            at: self.clock.ms(),
            seq: seen.seq,
            hash: hash(&message.payload),
        };
        self.live.push(got);
        let last = self.last.get(&seen.room).copied().unwrap_or_default();
        if seen.n == last + 1 {
            self.accept(&seen, got);
        }
        seen.n > last + 1
    }

    /// Takes a page in; says whether there is more.
    fn take_page(&mut self, body: &[u8]) -> Option<bool> {
        let page: EventsPage<'_> = serde_json::from_slice(body).ok()?;
        for event in &page.events {
            let seen: Seen = serde_json::from_str(event.get()).ok()?;
            let got = Got {
                at: self.clock.ms(),
                seq: seen.seq,
                hash: hash(event.get().as_bytes()),
            };
            if seen.n > self.last.get(&seen.room).copied().unwrap_or_default() {
                self.accept(&seen, got);
            }
        }
        self.cursor = page.cursor;
        Some(page.more)
    }

    fn accept(&mut self, seen: &Seen, got: Got) {
        self.last.insert(seen.room.clone(), seen.n);
        self.merged.push(got);
        self.place.fetch_max(seen.seq, Ordering::Relaxed);
    }
}
