use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Request};
use futures_util::StreamExt;
use futures_util::future::join_all;
use natterjack_nats_config::contract::{Id, Seq, Subjects};
use natterjack_nats_config::lease::Leases;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::sweep::{Swept, whose};

/// The verb of the service that each authz worker offers: `chat.authz.{worker}.settle`.
const VERB: &str = "settle";
/// The lease under which an authz worker is registered: `authz.{worker}`.
pub(crate) const REGISTERED: &str = "authz.";
/// How long a worker waits for its own sweep before it answers that it is pending.
const WITHIN: Duration = Duration::from_secs(5);
/// How long an asker waits for a worker.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// Questions being waited for at once.
const AT_ONCE: usize = 1024;

/// Whether a change has reached every live connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SettledState {
    /// No connection has rights from before the change.
    Done,
    /// Not everybody has confirmed yet; the workers go on by themselves.
    Pending,
}

/// What became of the connections of a principal whose rights changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// How many were closed; they come back by themselves with the rights of now.
    pub connections_closed: usize,
    /// Whether that is all.
    pub state: SettledState,
    /// Who has not confirmed, and why, where that is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Question {
    tenant: Id,
    /// Everybody in the tenant without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<Id>,
    seq: Seq,
}

#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    passed: bool,
    connections_closed: usize,
    /// Why it is not past it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

/// Asks every registered authz worker whether the change of a user's (or of everybody's) rights at `seq` has reached all
/// connections.
/// Waits up to six seconds.
pub async fn settle(
    client: &Client,
    leases: &Leases,
    subjects: &Subjects,
    (tenant, user): (&Id, Option<&Id>),
    seq: Seq,
) -> Settled {
    let workers = match leases.holders(REGISTERED).await {
        Ok(workers) if !workers.is_empty() => workers,
        Ok(_) => return Settled::pending("an authz worker: none is registered"),
        Err(error) => return Settled::pending(&format!("the register of authz workers: {error}")),
    };
    let question = Question {
        tenant: tenant.clone(),
        user: user.cloned(),
        seq,
    };
    let payload = bytes::Bytes::from(serde_json::to_vec(&question).unwrap_or_default());
    let answers = join_all(
        workers
            .iter()
            .map(|worker| ask(client, subjects, worker, payload.clone())),
    )
    .await;
    let mut settled = Settled {
        connections_closed: 0,
        state: SettledState::Done,
        waiting_for: Vec::new(),
    };
    for (worker, reply) in workers.iter().zip(answers) {
        match reply {
            Some(reply) if reply.passed => {
                settled.connections_closed = settled.connections_closed.max(reply.connections_closed);
            }
            reply => {
                settled.state = SettledState::Pending;
                let trouble = reply.and_then(|reply| reply.trouble);
                settled
                    .waiting_for
                    .push(trouble.map_or_else(|| worker.clone(), |trouble| format!("{worker}: {trouble}")));
            }
        }
    }
    settled
}

async fn ask(client: &Client, subjects: &Subjects, worker: &str, payload: bytes::Bytes) -> Option<Reply> {
    let subject = subjects.authz_service(&worker.parse().ok()?, VERB);
    let request = Request::new().payload(payload).timeout(Some(ANSWER_WITHIN));
    let answer = client.send_request(subject, request).await.ok()?;
    serde_json::from_slice(&answer.payload).ok()
}

/// Answers [`settle`] for this worker, until it is told to stop.
pub(crate) async fn answer_settle(
    client: Client,
    subject: String,
    swept: Arc<Swept>,
    shutdown: CancellationToken,
) -> Result<(), async_nats::SubscribeError> {
    let mut questions = client.subscribe(subject).await?;
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let message = tokio::select! {
            message = questions.next() => message,
            () = shutdown.cancelled() => None,
        };
        let (Some(message), Ok(slot)) = (message, slots.clone().acquire_owned().await) else {
            return Ok(());
        };
        let (client, swept) = (client.clone(), swept.clone());
        tokio::spawn(async move {
            answer(&client, &swept, message).await;
            drop(slot);
        });
    }
}

async fn answer(client: &Client, swept: &Swept, message: async_nats::Message) {
    let Some(reply) = message.reply.filter(|reply| reply.starts_with("_INBOX_")) else {
        return;
    };
    let Ok(question) = serde_json::from_slice::<Question>(&message.payload) else {
        return;
    };
    let passed = timeout(WITHIN, swept.passed(question.seq)).await.is_ok();
    let name = whose(&question.tenant, question.user.as_ref());
    let connections_closed = if passed { swept.closed(&name, question.seq) } else { 0 };
    let answer = serde_json::to_vec(&Reply {
        passed,
        connections_closed,
        trouble: swept.trouble().filter(|_| !passed),
    })
    .unwrap_or_default();
    if let Err(error) = client.publish(reply, answer.into()).await {
        tracing::warn!(%error, "an answer was not sent");
    }
}

pub(crate) fn settle_subject(subjects: &Subjects, worker: &Id) -> String {
    subjects.authz_service(worker, VERB)
}

impl Settled {
    fn pending(waiting_for: &str) -> Self {
        Self {
            connections_closed: 0,
            state: SettledState::Pending,
            waiting_for: vec![waiting_for.to_owned()],
        }
    }
}
