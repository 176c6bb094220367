//! Refused logins, for the audit trail: counted for a while, and then told to the log in a few events, so that a flood of them
//! is a few numbers there and nothing more ([ADR 19](../../docs/adr/0019-the-audit-trail.md)).

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{Client, Request as Ask};
use bytes::BytesMut;
use natterjack_nats_config::contract::{
    By, Id, Kind, LoginBody, Outcome, Principal, Request, SendPayload, TENANT_ROOM, read_outcomes, write_bundle_line,
};
use natterjack_nats_config::tail::Log;
use parking_lot::Mutex;
use serde_json::value::to_raw_value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How many are told apart at a time; all others are one number.
const MOST: usize = 16;
/// How long they are counted before the first of them is told.
const GATHER: Duration = Duration::from_secs(1);
/// The pause after that: 17 events of some 400 bytes in it are the most that a worker writes, 40 MB a day.
const PAUSE: Duration = Duration::from_secs(15);
/// How long the writer has.
const WITHIN: Duration = Duration::from_secs(10);
/// How long it has when this worker stops.
const LAST: Duration = Duration::from_secs(1);
/// The longest reason, in characters: it may quote what was sent.
const MAX_REASON: usize = 160;

/// One kind of refused login.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedLogin {
    /// Who it was said to be.
    pub user: Option<Id>,
    /// From where.
    pub source: Option<String>,
    /// Over which door.
    pub door: &'static str,
    /// Why. Never a token.
    pub reason: String,
}

/// The refused logins of one worker.
#[derive(Debug)]
pub struct RefusedLogins {
    tenant: Id,
    worker: Id,
    counts: Mutex<Counts>,
    noted: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    apart: BTreeMap<RefusedLogin, u64>,
    rest: u64,
}

impl RefusedLogins {
    /// Those that `worker` refuses; told in the audit trail of a tenant.
    #[must_use]
    pub fn new(tenant: Id, worker: Id) -> Self {
        Self {
            tenant,
            worker,
            counts: Mutex::default(),
            noted: Notify::new(),
        }
    }

    /// Counts one.
    pub fn note(&self, refused: RefusedLogin) {
        self.counts.lock().note(refused);
        self.noted.notify_one();
    }

    /// Tells the log of them, until it is told to stop. What cannot be told is lost: the worker's own log has it too.
    pub async fn keep_telling(&self, client: &Client, log: &Log, shutdown: &CancellationToken) {
        let telling = async {
            loop {
                self.noted.notified().await;
                tokio::time::sleep(GATHER).await;
                if let Err(reason) = self.tell(client, log).await {
                    tracing::warn!(reason, "refused logins are missing in the audit trail");
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = telling => {}
            () = shutdown.cancelled() => {}
        }
        // Those of the last moment, as far as a stop can wait for that.
        let told = tokio::time::timeout(LAST, self.tell(client, log)).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::debug!("the last refused logins are missing in the audit trail");
        }
    }

    async fn tell(&self, client: &Client, log: &Log) -> Result<(), String> {
        let counted = std::mem::take(&mut *self.counts.lock());
        let bodies = counted.into_bodies(&self.worker);
        if bodies.is_empty() {
            return Ok(());
        }
        let mut bundle = BytesMut::new();
        for body in &bodies {
            let request = self.request(body).map_err(|error| error.to_string())?;
            write_bundle_line(&mut bundle, &request).map_err(|error| error.to_string())?;
        }
        let ask = Ask::new().payload(bundle.freeze()).timeout(Some(WITHIN));
        let answer = client.send_request(log.subjects.write(log.shard), ask).await;
        let answer = answer.map_err(|error| error.to_string())?;
        for outcome in read_outcomes(&answer.payload) {
            if let Outcome::Problem(problem) = outcome.map_err(|error| error.to_string())? {
                return Err(problem.to_string());
            }
        }
        Ok(())
    }

    fn request(&self, body: &LoginBody) -> Result<Request, serde_json::Error> {
        let house: Id = TENANT_ROOM.parse().map_err(serde::de::Error::custom)?;
        let payload = SendPayload {
            // A bundle that is sent again is written once.
            key: Some(uuid::Uuid::now_v7().to_string()),
            ..SendPayload::of_body(to_raw_value(body)?)
        };
        Ok(Request {
            principal: Principal {
                tenant: self.tenant.clone(),
                user: house.clone(),
            },
            by: By::House,
            room: house,
            kind: Kind::Login,
            payload,
            vouched: None,
        })
    }
}

impl RefusedLogin {
    /// A refusal as it may be kept.
    #[must_use]
    pub fn new(user: Option<Id>, source: &str, door: &'static str, reason: &impl std::fmt::Display) -> Self {
        let plain = |text: &str, most| -> String {
            let text = text.chars().map(|c| if c.is_control() { ' ' } else { c });
            text.take(most).collect()
        };
        Self {
            user,
            source: (!source.is_empty()).then(|| plain(source, 64)),
            door,
            reason: plain(&reason.to_string(), MAX_REASON),
        }
    }
}

impl Counts {
    fn note(&mut self, refused: RefusedLogin) {
        let is_full = self.apart.len() >= MOST;
        match self.apart.get_mut(&refused) {
            Some(count) => *count += 1,
            None if is_full => self.rest += 1,
            None => drop(self.apart.insert(refused, 1)),
        }
    }

    fn into_bodies(self, worker: &Id) -> Vec<LoginBody> {
        let apart = self.apart.into_iter().map(|(refused, count)| LoginBody {
            user: refused.user,
            source: refused.source,
            door: refused.door.to_owned(),
            reason: refused.reason,
            count,
            worker: worker.clone(),
        });
        let rest = (self.rest > 0).then(|| LoginBody {
            user: None,
            source: None,
            door: "*".to_owned(),
            reason: "more than are told apart".to_owned(),
            count: self.rest,
            worker: worker.clone(),
        });
        apart.chain(rest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_numbers_and_nobody_is_forgotten() {
        let mut counts = Counts::default();
        let one = |user: &str, source: &str| RefusedLogin::new(user.parse().ok(), source, "nats", &"expired");
        for number in 0..10_000 {
            counts.note(one("mallory", "10.0.0.1"));
            counts.note(one("bob", &format!("10.0.{}.{}", number / 256, number % 256)));
        }
        let bodies = counts.into_bodies(&"w".parse().unwrap());
        assert_eq!(bodies.len(), MOST + 1);
        assert_eq!(bodies.iter().map(|body| body.count).sum::<u64>(), 20_000);
        let mallory = bodies.iter().find(|body| body.user == "mallory".parse().ok()).unwrap();
        assert_eq!(mallory.count, 10_000);
        assert_eq!(bodies.last().unwrap().door, "*");
    }

    #[test]
    fn what_was_sent_is_quoted_plainly_and_shortly() {
        let refused = RefusedLogin::new(None, "", "mqtt", &format!("bad\r\n{}", "x".repeat(1000)));
        assert_eq!(
            (refused.source.as_deref(), refused.reason.chars().count()),
            (None, MAX_REASON)
        );
        assert!(refused.reason.starts_with("bad  x"));
    }
}
