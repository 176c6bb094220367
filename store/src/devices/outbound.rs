use std::sync::Arc;

use async_nats::jetstream::{self, Context};
use async_nats::{Client, HeaderMap};
use futures_util::future::join_all;
use natterjack_authz::policy::{Change, View};
use natterjack_nats_config::contract::{EventLine, Kind, MQTT_MESSAGES, Principal, Seq, Subjects};
use natterjack_nats_config::tail::{Frame, TailError};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::duty::Duty;
use super::place::Place;
use super::sessions::Todo;
use super::watch::Watched;
use super::{Accounts, DevicesConfig, DevicesError, KEPT, RETRY, streams};
use crate::log::begin_state;

/// What is kept for sessions may take this much, in bytes: half of what the account has (`DEVICES` in single.conf). The rest is
/// for the devices' own requests, which must not be refused because somebody's session never comes back.
const MOST_BYTES: u64 = 128 << 20;
/// Events kept between two looks at that.
const LOOK_EVERY: usize = 500;

/// Keeps rooms' events for MQTT sessions of `QoS` 1, each once, and ends what a session may not read any more.
pub(super) struct Outbound {
    accounts: Accounts,
    config: DevicesConfig,
    watched: Arc<Watched>,
    duty: Duty,
}

/// Why it begins again.
enum Interrupted {
    /// From the place that is written down.
    Retry(String),
    /// Not at all.
    Die(DevicesError),
}

struct Keeper<'a> {
    jetstream: Context,
    core: &'a Client,
    config: &'a DevicesConfig,
    watched: &'a Watched,
    duty: &'a Duty,
    view: View,
    kept: usize,
}

impl Outbound {
    pub(super) fn new(accounts: Accounts, config: DevicesConfig, watched: Arc<Watched>, duty: Duty) -> Self {
        Self {
            accounts,
            config,
            watched,
            duty,
        }
    }

    /// Works until the duty is over.
    pub(super) async fn run(&self) -> Result<(), DevicesError> {
        loop {
            let ended = tokio::select! {
                ended = self.follow() => ended,
                () = self.duty.over() => {
                    self.watched.wanted.since(Some(Seq::ZERO));
                    return Ok(());
                }
            };
            match ended {
                Ok(never) => match never {},
                Err(Interrupted::Die(error)) => return Err(error),
                Err(Interrupted::Retry(reason)) => tracing::warn!(reason, "keeping events for MQTT begins again"),
            }
            tokio::select! {
                () = sleep(RETRY) => {}
                () = self.duty.over() => return Ok(()),
            }
        }
    }

    async fn follow(&self) -> Result<std::convert::Infallible, Interrupted> {
        let Self {
            accounts,
            config,
            watched,
            duty,
        } = self;
        watched.complete().await;
        let (mut place, found) = Place::open(&accounts.core, config).await?;
        let start = self.start(&mut place, found).await?;
        let start = self.behind_what_was_trimmed(start).await?;
        let view = begin_state(&accounts.core, &config.log)
            .await
            .map_err(DevicesError::from)?
            .view;
        let mut keeper = Keeper {
            jetstream: jetstream::new(accounts.devices.clone()),
            core: &accounts.core,
            config,
            watched,
            duty,
            view,
            kept: 0,
        };
        keeper.fold_to(start.frame()).await?;
        keeper.tidy(None).await?;
        let mut tail = config.log.tail(&accounts.core, start.frame());
        loop {
            tokio::select! {
                frame = tail.next() => {
                    let frame = frame?;
                    keeper.keep(&frame).await?;
                    place.reached(Seq::end_of_frame(frame.stream_seq)).await?;
                }
                news = watched.news() => for whose in news {
                    keeper.tidy(Some(&whose)).await?;
                }
            }
        }
    }

    /// Where to go on: where a predecessor was (always between two frames), or at the log's end once somebody listens.
    async fn start(&self, place: &mut Place, found: Option<Seq>) -> Result<Seq, Interrupted> {
        let wanted = &self.watched.wanted;
        if let Some(found) = found.filter(|_| !self.watched.is_empty()) {
            wanted.since(Some(found));
            return Ok(found);
        }
        wanted.since(None);
        place.forget().await?;
        if self.watched.is_empty() {
            // Without MQTT nobody reads the log for it.
            self.watched.news().await;
        }
        let end = self.config.log.end(&self.accounts.core).await;
        let end = Seq::end_of_frame(end.map_err(|error| error.to_string())?);
        wanted.since(Some(end));
        Ok(end)
    }

    /// The same place, or the log's beginning where that is behind it: sessions see by `n` what they missed, and read it in
    /// the history.
    async fn behind_what_was_trimmed(&self, start: Seq) -> Result<Seq, Interrupted> {
        let bounds = self.config.log.bounds(&self.accounts.core).await;
        let first = bounds.map_err(|error| error.to_string())?.first;
        if start.frame() + 1 >= first {
            return Ok(start);
        }
        tracing::warn!(
            place = start.frame(),
            first,
            "the log was trimmed past what was kept for MQTT sessions; what lies between is in the history only"
        );
        Ok(Seq::end_of_frame(first.saturating_sub(1)))
    }
}

impl Keeper<'_> {
    /// Learns who may do what, up to a frame, from the checkpoint on.
    async fn fold_to(&mut self, last: u64) -> Result<(), Interrupted> {
        let mut tail = self.config.log.tail(self.core, self.view.seq().frame()).of_policy();
        while tail.passed() < last {
            let frame = tail.next().await?;
            for line in &frame.events {
                self.view.apply(&line.event);
            }
            self.view.pass(Seq::end_of_frame(frame.stream_seq));
        }
        Ok(())
    }

    /// Keeps a frame's events that sessions listen to. What changes somebody's rights is obeyed at its place: before it for
    /// what is given, behind it for what is taken.
    async fn keep(&mut self, frame: &Frame) -> Result<(), Interrupted> {
        let mut waiting: Vec<&EventLine> = Vec::new();
        // A checkpoint can know more than was kept yet: rights are never set back.
        let known = self.view.seq();
        for line in &frame.events {
            let is_new = line.event.seq > known;
            let changes = if is_new {
                self.view.apply(&line.event)
            } else {
                Vec::new()
            };
            let changed = whose(changes, line.event.kind);
            if !changed.is_empty() {
                self.store(&std::mem::take(&mut waiting)).await?;
            }
            for whose in &changed {
                self.renew(whose.as_ref()).await?;
            }
            if self.watched.wanted.keep(&line.event.tenant, &line.event.room) {
                waiting.push(line);
            }
            if !changed.is_empty() {
                self.store(&std::mem::take(&mut waiting)).await?;
            }
            for whose in &changed {
                self.tidy(whose.as_ref()).await?;
            }
        }
        self.store(&waiting).await?;
        self.view.pass(Seq::end_of_frame(frame.stream_seq));
        Ok(())
    }

    /// Stores copies in order, until the server has them all. Their names make that each once, unless minutes lie between.
    async fn store(&mut self, lines: &[&EventLine]) -> Result<(), Interrupted> {
        if lines.is_empty() {
            return Ok(());
        }
        loop {
            if !self.duty.is_valid() {
                return Err("the lease of the devices is not surely held".to_owned().into());
            }
            match self.try_store(lines).await {
                Ok(()) => break,
                Err(reason) => {
                    tracing::warn!(
                        reason,
                        events = lines.len(),
                        "events cannot be kept for MQTT sessions, trying again"
                    );
                    self.watched.wanted.refuse(true);
                    self.make_room().await?;
                }
            }
            sleep(RETRY).await;
        }
        self.watched.wanted.refuse(false);
        self.kept += lines.len();
        if self.kept >= LOOK_EVERY {
            self.kept = 0;
            self.make_room().await?;
        }
        Ok(())
    }

    async fn try_store(&self, lines: &[&EventLine]) -> Result<(), String> {
        let mut acks = Vec::with_capacity(lines.len());
        for EventLine { event, bytes } in lines {
            let subject = Subjects::mqtt_kept(&self.config.log.subjects.room_log(&event.tenant, &event.room));
            let mut headers = HeaderMap::new();
            headers.insert(KEPT, "1");
            headers.insert("Nats-Msg-Id", event.id.as_str());
            let ack = self
                .jetstream
                .publish_with_headers(subject, headers, bytes.clone())
                .await;
            acks.push(ack.map_err(|error| error.to_string())?.into_future());
        }
        let acks = join_all(acks).await;
        acks.into_iter()
            .try_for_each(|ack| ack.map(|_| ()).map_err(|error| error.to_string()))
    }

    /// Lets the oldest copies go when sessions that stay away hold too many.
    async fn make_room(&self) -> Result<(), Interrupted> {
        let stream = streams::messages_of(&self.jetstream).await?;
        let state = &stream.cached_info().state;
        if state.bytes <= MOST_BYTES {
            return Ok(());
        }
        let filter = self.config.log.subjects.mqtt_rooms_all();
        let purged = stream.purge().filter(filter).keep(state.messages / 2).await;
        let purged = purged.map_err(|error| error.to_string())?;
        tracing::warn!(
            events = purged.purged,
            "MQTT sessions that stay away held too much: their oldest events are let go, which they see by `n`"
        );
        Ok(())
    }

    /// Gives consumers back to who may read again: somebody, or everybody.
    async fn renew(&self, whose: Option<&Principal>) -> Result<(), Interrupted> {
        for todo in self.watched.todo(&self.view, whose) {
            if matches!(todo, Todo::Renew(..)) {
                self.act(todo).await?;
            }
        }
        Ok(())
    }

    /// Does all that is to be done for somebody, or for everybody.
    async fn tidy(&self, whose: Option<&Principal>) -> Result<(), Interrupted> {
        for todo in self.watched.todo(&self.view, whose) {
            self.act(todo).await?;
        }
        Ok(())
    }

    async fn act(&self, todo: Todo) -> Result<(), Interrupted> {
        if !self.duty.is_valid() {
            return Err("the lease of the devices is not surely held".to_owned().into());
        }
        let answer: Result<Value, _> = match &todo {
            Todo::End(durable) => {
                let subject = format!("CONSUMER.DELETE.{MQTT_MESSAGES}.{durable}");
                self.jetstream.request(subject, &json!({})).await
            }
            Todo::Renew(durable, config) => {
                let subject = format!("CONSUMER.DURABLE.CREATE.{MQTT_MESSAGES}.{durable}");
                let wanted = json!({"stream_name": MQTT_MESSAGES, "config": config});
                self.jetstream.request(subject, &wanted).await
            }
        };
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.get("error") {
            // Nobody's any more: so much the better.
            Some(error) if error.get("code").and_then(Value::as_u64) != Some(404) => {
                return Err(error.to_string().into());
            }
            _ => tracing::info!(?todo, "a session's rights have changed"),
        }
        self.watched.did(&todo);
        Ok(())
    }
}

/// Whose rooms may have changed; none for everybody's. What is about tokens takes no room from anybody.
fn whose(changes: Vec<Change>, kind: Kind) -> Vec<Option<Principal>> {
    let changes = changes.into_iter().filter(|_| kind != Kind::Token);
    let whose = changes.map(|change| {
        let tenant = change.tenant;
        change.user.map(|user| Principal { tenant, user })
    });
    whose.collect()
}

impl From<TailError> for Interrupted {
    fn from(error: TailError) -> Self {
        match error {
            // The next attempt begins where the log does now.
            TailError::Trimmed { .. } => Self::Retry(error.to_string()),
            TailError::Damaged(_) => Self::Die(error.into()),
        }
    }
}

impl From<DevicesError> for Interrupted {
    fn from(error: DevicesError) -> Self {
        Self::Die(error)
    }
}

impl From<String> for Interrupted {
    fn from(reason: String) -> Self {
        Self::Retry(reason)
    }
}
