use std::collections::HashSet;
use std::sync::atomic::Ordering;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::{self, stream::Stream};
use async_nats::{Client, Message};
use futures_util::{StreamExt, TryStreamExt};
use natterjack_nats_config::contract::{MQTT_SESSIONS, Principal, Subjects};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep};

use super::sessions::{Sessions, Todo};
use super::{RETRY, Wanted, streams};
use natterjack_authz::policy::View;

/// How often the consumers are listed, for what was not heard of them.
const LIST_EVERY: Duration = Duration::from_secs(30);
/// How often it is looked whether the connection is still the one on which the records are read.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The MQTT sessions as they are now, for those who keep events for them.
pub(super) struct Watched {
    pub(super) wanted: Wanted,
    sessions: Mutex<Sessions>,
    news: Mutex<HashSet<Principal>>,
    has_news: Notify,
    complete: watch::Sender<bool>,
}

impl Watched {
    pub(super) fn new(subjects: Subjects, wanted: Wanted) -> Self {
        Self {
            sessions: Mutex::new(Sessions::new(subjects, wanted.clone())),
            wanted,
            news: Mutex::default(),
            has_news: Notify::new(),
            complete: watch::Sender::new(false),
        }
    }

    /// Waits until all sessions are known that were there when this began.
    pub(super) async fn complete(&self) {
        let mut complete = self.complete.subscribe();
        // The sender lives as long as this.
        let _ = complete.wait_for(|complete| *complete).await;
    }

    /// Whether no session asks for any room, also not for one that it may not read now.
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.lock().is_empty()
    }

    /// Waits for sessions that ask for something new, and says whose they are.
    pub(super) async fn news(&self) -> Vec<Principal> {
        loop {
            let news: Vec<Principal> = self.news.lock().drain().collect();
            if !news.is_empty() {
                return news;
            }
            self.has_news.notified().await;
        }
    }

    /// See [`Sessions::todo`]. What is to be ended counts as ended by us.
    pub(super) fn todo(&self, view: &View, whose: Option<&Principal>) -> Vec<Todo> {
        let mut sessions = self.sessions.lock();
        let todo = sessions.todo(view, whose);
        for one in &todo {
            if let Todo::End(durable) = one {
                sessions.end(durable);
            }
        }
        todo
    }

    /// A consumer that we ended or made again, before the server says so.
    pub(super) fn did(&self, todo: &Todo) {
        let mut sessions = self.sessions.lock();
        match todo {
            Todo::End(durable) => sessions.deleted(durable),
            Todo::Renew(durable, _) => sessions.created(durable),
        }
    }

    fn record(&self, message: &jetstream::Message) {
        let whose = self.sessions.lock().record(&message.subject, &message.payload);
        if let Some(whose) = whose {
            self.news.lock().insert(whose);
            self.has_news.notify_one();
        }
    }

    /// `$JS.EVENT.ADVISORY.CONSUMER.CREATED.{stream}.{consumer}`, or `DELETED`.
    fn advised(&self, message: &Message) {
        let mut tokens = message.subject.rsplit('.');
        let (Some(durable), Some(_), Some(what)) = (tokens.next(), tokens.next(), tokens.next()) else {
            return;
        };
        match what {
            "CREATED" => self.sessions.lock().created(durable),
            "DELETED" => self.sessions.lock().deleted(durable),
            _ => {}
        }
    }
}

/// Keeps it up for ever.
pub(super) async fn watch(client: &Client, watched: &Watched) {
    loop {
        if let Err(reason) = follow(client, watched).await {
            tracing::debug!(reason, "the MQTT sessions cannot be watched now");
        }
        sleep(RETRY).await;
    }
}

async fn follow(client: &Client, watched: &Watched) -> Result<(), String> {
    let connects = client.statistics().connects.load(Ordering::Relaxed);
    let mut advice = client
        .subscribe(Subjects::mqtt_consumer_advice())
        .await
        .map_err(|error| error.to_string())?;
    let messages = streams::messages(client).await?;
    let stream = jetstream::new(client.clone())
        .get_stream(MQTT_SESSIONS)
        .await
        .map_err(|error| error.to_string())?;
    let last = stream.cached_info().state.last_sequence;
    let mut records = records(&stream).await?;
    list(&messages, watched).await?;
    if last == 0 {
        watched.complete.send_replace(true);
    }
    let mut listing = interval(LIST_EVERY);
    listing.set_missed_tick_behavior(MissedTickBehavior::Delay);
    listing.reset_at(Instant::now() + LIST_EVERY);
    let mut look = interval(LOOK_EVERY);
    loop {
        tokio::select! {
            one = advice.next() => watched.advised(&one.ok_or("the subscription ended")?),
            record = records.next() => {
                let record = record.ok_or("the records ended")?.map_err(|error| error.to_string())?;
                watched.record(&record);
                if record.info().is_ok_and(|info| info.stream_sequence >= last || info.pending == 0) {
                    watched.complete.send_replace(true);
                }
            }
            _ = listing.tick() => list(&messages, watched).await?,
            _ = look.tick() => if client.statistics().connects.load(Ordering::Relaxed) != connects {
                return Err("the connection is another one".to_owned());
            },
        }
    }
}

/// The records of all sessions, and what becomes of them.
async fn records(stream: &Stream) -> Result<pull::Ordered, String> {
    let config = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::LastPerSubject,
        filter_subject: Subjects::mqtt_sessions_all(),
        ..pull::OrderedConfig::default()
    };
    let consumer = stream
        .create_consumer(config)
        .await
        .map_err(|error| error.to_string())?;
    consumer.messages().await.map_err(|error| error.to_string())
}

async fn list(messages: &Stream, watched: &Watched) -> Result<(), String> {
    let durables: HashSet<String> = messages
        .consumer_names()
        .try_collect()
        .await
        .map_err(|error| error.to_string())?;
    watched.sessions.lock().all(&durables);
    Ok(())
}
