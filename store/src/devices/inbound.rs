use std::collections::VecDeque;

use async_nats::Message;
use async_nats::jetstream;
use bytes::BytesMut;
use futures_util::StreamExt;
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{MQTT_MESSAGES, Outcome, Problem, Receipt, read_outcomes};
use tokio::time::{Duration, sleep};

use super::duty::Duty;
use super::request::{Asked, Kept, MAX_BUNDLE, Verdict, bundle, is_kept, verdict};
use super::{Accounts, DevicesConfig, RETRY, streams};
use crate::log::Asker;

/// How long the writer may take: it answers within eight seconds, also where it does not know.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);
/// How long a pull of requests lasts: when the lease of a worker that was paused has run out, so has its last pull, and nothing
/// is handed to it any more.
const PULL: Duration = Duration::from_secs(2);
/// How often the server says meanwhile that it is there. At most half of a pull.
const HEARTBEAT: Duration = Duration::from_millis(900);

/// Hands what devices publish to the writer, in the order in which the server took it.
pub(super) struct Inbound {
    accounts: Accounts,
    config: DevicesConfig,
    duty: Duty,
}

/// A kept request at work.
struct AtWork {
    message: jetstream::Message,
    asked: Option<Asked>,
}

impl Inbound {
    pub(super) fn new(accounts: Accounts, config: DevicesConfig, duty: Duty) -> Self {
        Self { accounts, config, duty }
    }

    /// Works until the duty is over.
    pub(super) async fn run(&self) {
        tokio::select! {
            never = self.kept() => never,
            never = self.live() => never,
            () = self.duty.over() => {}
        }
    }

    /// `QoS` 1 and 2: what the server keeps until it is acknowledged here.
    async fn kept(&self) {
        loop {
            if let Err(reason) = self.read_kept().await {
                tracing::debug!(reason, "the devices' requests cannot be read now");
            }
            sleep(RETRY).await;
        }
    }

    async fn read_kept(&self) -> Result<(), String> {
        let subjects = &self.config.log.subjects;
        let stream = streams::messages(&self.accounts.devices).await?;
        // A stream that was made anew counts from 1 again: its birth tells its numbers from the earlier ones.
        let birth = stream.cached_info().created.unix_timestamp_nanos();
        let consumer = streams::requests(&stream, subjects).await?;
        // What a predecessor had at work comes first, in its order, and not when its time has run out behind the rest.
        self.begin_at_the_first_open().await?;
        let requests = consumer
            .stream()
            .max_messages_per_batch(MAX_BUNDLE)
            .expires(PULL)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| error.to_string())?;
        let mut requests = requests.ready_chunks(MAX_BUNDLE);
        let mut handed_out = 0;
        while let Some(some) = requests.next().await {
            let mut at_work = VecDeque::with_capacity(some.len());
            for message in some {
                let message = message.map_err(|error| error.to_string())?;
                let number = message.info().map_err(|error| error.to_string())?.consumer_sequence;
                if number != handed_out + 1 {
                    return Err("somebody else was handed requests; beginning again at the first open one".to_owned());
                }
                handed_out = number;
                at_work.push_back(self.take(message, birth)?);
            }
            self.put(at_work).await?;
        }
        Ok(())
    }

    async fn begin_at_the_first_open(&self) -> Result<(), String> {
        let name = self.config.log.subjects.devices_consumer();
        let answer: serde_json::Value = jetstream::new(self.accounts.devices.clone())
            .request(format!("CONSUMER.RESET.{MQTT_MESSAGES}.{name}"), &serde_json::json!({}))
            .await
            .map_err(|error| error.to_string())?;
        match answer.get("error") {
            None => Ok(()),
            Some(error) => Err(error.to_string()),
        }
    }

    fn take(&self, message: jetstream::Message, birth: i128) -> Result<AtWork, String> {
        let info = message.info().map_err(|error| error.to_string())?;
        let key = format!("mqtt-{birth:x}-{}", info.stream_sequence);
        let published_ms = i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        let to = self.config.log.subjects.parse_mqtt_request(&message.subject);
        if to.is_none() {
            tracing::warn!("dropped a device's message on a subject of no known form");
        }
        let kept = Kept {
            key,
            taken_ms: published_ms,
        };
        let asked = to.and_then(|to| Asked::read(to, &message.payload, Some(kept), clock::now_ms()));
        Ok(AtWork { message, asked })
    }

    /// Brings requests to the writer until each stands in the log or is refused for good; only then is it acknowledged.
    async fn put(&self, mut at_work: VecDeque<AtWork>) -> Result<(), String> {
        while !at_work.is_empty() {
            let lines = at_work.iter().filter_map(AtWork::line);
            let (requests, count) = bundle(lines);
            let outcomes = if count == 0 {
                Vec::new()
            } else if let Ok(outcomes) = self.ask(requests, count).await.inspect_err(|reason| {
                tracing::debug!(reason, "the writer does not answer yet, asking again");
            }) {
                outcomes
            } else {
                sleep(RETRY).await;
                continue;
            };
            if !self.settle(&mut at_work, outcomes).await? {
                sleep(RETRY).await;
            }
        }
        Ok(())
    }

    /// Acknowledges what is decided, and keeps the rest, in order. `false`: the writer asks for patience.
    async fn settle(&self, at_work: &mut VecDeque<AtWork>, outcomes: Vec<Outcome>) -> Result<bool, String> {
        let mut outcomes = outcomes.into_iter();
        let mut left = VecDeque::new();
        let mut at_once = true;
        for one in at_work.drain(..) {
            let verdict = match &one.asked {
                None => Verdict::Done,
                Some(Asked { line: Err(problem), .. }) => Verdict::Told(Err(problem.clone())),
                Some(_) => {
                    let answered = outcomes.next().map(verdict);
                    at_once &= answered != Some(Verdict::Later);
                    // Without an outcome it is of the next bundle.
                    answered.unwrap_or(Verdict::Later)
                }
            };
            match (verdict, &one.asked) {
                (Verdict::Later, _) => {
                    left.push_back(one);
                    continue;
                }
                (Verdict::Told(outcome), Some(asked)) => self.tell(&asked.asker, outcome).await,
                _ => {}
            }
            one.message.ack().await.map_err(|error| error.to_string())?;
        }
        *at_work = left;
        Ok(at_once)
    }

    /// `QoS` 0: what comes while somebody listens, once and never again. What the server keeps besides comes by the other way.
    async fn live(&self) {
        loop {
            match self
                .accounts
                .devices
                .subscribe(self.config.log.subjects.inbound_all())
                .await
            {
                Ok(requests) => {
                    let mut requests = requests.ready_chunks(MAX_BUNDLE);
                    while let Some(some) = requests.next().await {
                        self.pass_on(some).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "devices cannot be listened to"),
            }
            sleep(RETRY).await;
        }
    }

    async fn pass_on(&self, messages: Vec<Message>) {
        let subjects = &self.config.log.subjects;
        let mut asked: VecDeque<Asked> = messages
            .iter()
            .filter(|message| !is_kept(message.headers.as_ref()))
            .filter_map(|message| Asked::read(subjects.parse_inbound(&message.subject)?, &message.payload, None, 0))
            .collect();
        while !asked.is_empty() {
            let (requests, count) = bundle(asked.iter().filter_map(|asked| asked.line.as_ref().ok()));
            let outcomes = if count == 0 {
                Vec::new()
            } else {
                self.ask(requests, count).await.unwrap_or_else(|reason| {
                    tracing::warn!(reason, count, "messages of devices with QoS 0 may be lost");
                    Vec::new()
                })
            };
            self.tell_outcomes(&mut asked, outcomes, count).await;
        }
    }

    async fn tell_outcomes(&self, asked: &mut VecDeque<Asked>, outcomes: Vec<Outcome>, mut count: usize) {
        let mut outcomes = outcomes.into_iter();
        while let Some(one) = asked.pop_front() {
            let outcome = match one.line {
                Err(problem) => Some(Err(problem)),
                Ok(_) if count == 0 => {
                    asked.push_front(one);
                    return;
                }
                Ok(_) => {
                    count -= 1;
                    outcomes.next().map(Into::into)
                }
            };
            if let Some(outcome) = outcome {
                self.tell(&one.asker, outcome).await;
            }
        }
    }

    /// Asks the writer, whoever that is now; only while this worker surely holds the lease.
    async fn ask(&self, requests: BytesMut, count: usize) -> Result<Vec<Outcome>, String> {
        if !self.duty.is_valid() {
            return Err("the lease of the devices is not surely held".to_owned());
        }
        let log = &self.config.log;
        let request = async_nats::Request::new()
            .payload(requests.freeze())
            .timeout(Some(ANSWER_WITHIN));
        let answer = self
            .accounts
            .core
            .send_request(log.subjects.write(log.shard), request)
            .await
            .map_err(|error| error.to_string())?;
        let outcomes: Vec<Outcome> = read_outcomes(&answer.payload)
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?;
        if outcomes.len() == count {
            Ok(outcomes)
        } else {
            Err(format!("{} answers to {count} requests", outcomes.len()))
        }
    }

    /// Tells a device what became of its request, if that is no new event: on its own subject, as MQTT has no replies.
    async fn tell(&self, asker: &Asker, outcome: Result<Receipt, Problem>) {
        let Some(notice) = asker.notice(&self.config.log.subjects, outcome) else {
            return;
        };
        let told = self
            .accounts
            .core
            .publish_with_headers(notice.subject, notice.headers.unwrap_or_default(), notice.payload)
            .await;
        if let Err(error) = told {
            tracing::debug!(%error, "a device was not told of an outcome");
        }
    }
}

impl AtWork {
    fn line(&self) -> Option<&BytesMut> {
        self.asked.as_ref()?.line.as_ref().ok()
    }
}
