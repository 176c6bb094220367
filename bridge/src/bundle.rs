//! Sending: what waits is put into one bundle for the writer; the next bundle gathers while one is in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Message, StatusCode, Subscriber};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{
    Outcome, Problem, ProblemCode, Receipt, Request, read_outcomes, write_bundle_line,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::metrics::Metrics;

/// The most requests in a bundle: half a frame, so that a bundle never waits for a second frame.
const MAX_REQUESTS: usize = 512;
/// A bundle this large takes in no more. One request adds at most 128 KiB and some, and `max_payload` is 1 MB.
const FULL_BYTES: usize = 512 * 1024;
/// Turns of the scheduler in which nobody new comes before a bundle leaves: some microseconds where nobody else is at work.
const QUIET_TURNS: u32 = 4;
/// How long a bundle is tried for, and how long a request waits in the queue.
const GIVE_UP: Duration = Duration::from_secs(10);
/// How long the writer has for an answer before the same bundle is sent again: the first time, and at most. A commit takes
/// milliseconds; an answer that was lost with a server's restart is missed after the first; a new writer after a crash takes
/// a few seconds.
const ASK_AGAIN: Duration = Duration::from_millis(500);
const ASK_AGAIN_AT_MOST: Duration = Duration::from_secs(2);
/// Waiting for a writer, or for NATS, to come back.
const RETRY: Duration = Duration::from_millis(50);

/// Takes requests for the writer. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sending {
    queue: mpsc::Sender<Job>,
    answered_at_ms: Arc<AtomicI64>,
}

/// A request that waits for the writer's answer.
pub(crate) struct Pending(oneshot::Receiver<Result<Receipt, Problem>>);

/// The one task that talks to the writer.
pub(crate) struct Bundler {
    client: Client,
    subject: String,
    queue: mpsc::Receiver<Job>,
    answered_at_ms: Arc<AtomicI64>,
    number: u64,
    metrics: Arc<Metrics>,
}

struct Job {
    request: Request,
    answer: oneshot::Sender<Result<Receipt, Problem>>,
    since: Instant,
}

/// What became of a bundle.
enum Delivered {
    Answered(Bytes),
    /// An attempt before the last one was answered. Its receipts are true; what it refused may stand by now.
    AnsweredEarlier(Bytes),
    /// Surely nobody took it.
    NotTaken,
    /// Somebody may have taken it.
    Unknown,
}

/// The inbox on which the writer answers; made anew when it breaks.
struct Inbox {
    prefix: String,
    answers: Subscriber,
}

/// Makes both ends of the queue to the writer; `subject` is where bundles go.
pub(crate) fn channel(client: Client, subject: String, queue: usize, metrics: Arc<Metrics>) -> (Sending, Bundler) {
    let (sender, receiver) = mpsc::channel(queue.max(1));
    let answered_at_ms = Arc::new(AtomicI64::new(0));
    let sending = Sending {
        queue: sender,
        answered_at_ms: Arc::clone(&answered_at_ms),
    };
    (
        sending,
        Bundler {
            client,
            subject,
            queue: receiver,
            answered_at_ms,
            number: 0,
            metrics,
        },
    )
}

impl Sending {
    /// Asks the writer. What one caller asks one after the other is decided in that order. The request needs a key, because
    /// it may be sent twice.
    pub(crate) fn ask(&self, request: Request) -> Result<Pending, Problem> {
        let (answer, outcome) = oneshot::channel();
        let job = Job {
            request,
            answer,
            since: Instant::now(),
        };
        self.queue.try_send(job).map_err(|_| {
            Problem::new(
                ProblemCode::Overloaded,
                "too many sends are waiting for the log; send again with the same key",
            )
        })?;
        Ok(Pending(outcome))
    }

    /// How many requests wait to be bundled.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// When the writer last answered, in milliseconds since 1970; 0 if it never did.
    pub(crate) fn answered_at_ms(&self) -> i64 {
        self.answered_at_ms.load(Ordering::Relaxed)
    }
}

impl Pending {
    /// Waits for what the writer says.
    pub(crate) async fn outcome(self) -> Result<Receipt, Problem> {
        self.0.await.unwrap_or_else(|_| Err(outcome_unknown()))
    }
}

impl Bundler {
    /// Works until every [`Sending`] is gone.
    pub(crate) async fn run(mut self) -> Result<(), async_nats::SubscribeError> {
        let mut inbox = Inbox::open(&self.client).await?;
        let mut waiting = Vec::with_capacity(MAX_REQUESTS);
        // Used for one bundle after the other: the one before is answered, and so gone, when the next is written.
        let mut buffer = BytesMut::with_capacity(FULL_BYTES / 4);
        loop {
            if waiting.is_empty() && self.queue.recv_many(&mut waiting, MAX_REQUESTS).await == 0 {
                return Ok(());
            }
            self.gather_more(&mut waiting).await;
            let (bundle, jobs) = gather(&mut waiting, &mut buffer);
            if jobs.is_empty() {
                continue;
            }
            let (began, bytes) = (Instant::now(), bundle.len());
            let delivered = self.deliver(&mut inbox, bundle).await?;
            self.metrics.bundle(jobs.len(), bytes, began.elapsed());
            self.answer(jobs, &delivered);
        }
    }

    /// Whoever is about to send gets the chance to be in this bundle, until nobody new comes: fewer, fuller frames.
    async fn gather_more(&mut self, waiting: &mut Vec<Job>) {
        let mut quiet = 0;
        while quiet < QUIET_TURNS && waiting.len() < MAX_REQUESTS {
            tokio::task::yield_now().await;
            let before = waiting.len();
            while waiting.len() < MAX_REQUESTS
                && let Ok(job) = self.queue.try_recv()
            {
                waiting.push(job);
            }
            quiet = if waiting.len() == before { quiet + 1 } else { 0 };
        }
    }

    /// Sends a bundle until it is answered or it is time to give up. It is the same bundle with the same keys each
    /// time, so the writer does not write it twice, and a receipt for any attempt is the receipt. A refusal is final only
    /// as the answer to the last attempt: the writer decides each one that reaches it, in order, and what it refused at
    /// the first it may admit at the second, when a right was given in between.
    async fn deliver(&mut self, inbox: &mut Inbox, bundle: Bytes) -> Result<Delivered, async_nats::SubscribeError> {
        self.number += 1;
        let give_up = Instant::now() + GIVE_UP;
        let mut may_be_taken = false;
        let mut earlier = None;
        let (mut attempt, mut patience) = (0u32, ASK_AGAIN);
        while Instant::now() < give_up {
            if self.client.connection_state() != State::Connected {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            attempt += 1;
            let reply = format!("{}.{}.{attempt}", inbox.prefix, self.number);
            if self
                .client
                .publish_with_reply(self.subject.clone(), reply.clone(), bundle.clone())
                .await
                .is_err()
            {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            let ask_again = give_up.min(Instant::now() + patience);
            patience = ASK_AGAIN_AT_MOST.min(patience * 2);
            let answer = inbox.answer_to(self.number, &reply, &mut earlier);
            match timeout_at(ask_again, answer).await {
                Ok(Some(message)) if message.status == Some(StatusCode::NO_RESPONDERS) => {
                    tokio::time::sleep(RETRY).await;
                }
                Ok(Some(message)) => return Ok(Delivered::Answered(message.payload)),
                Ok(None) => {
                    may_be_taken = true;
                    *inbox = Inbox::open(&self.client).await?;
                }
                Err(_) => {
                    may_be_taken = true;
                    tracing::warn!(
                        attempt,
                        bytes = bundle.len(),
                        "the writer does not answer, asking again"
                    );
                }
            }
        }
        Ok(match earlier {
            Some(answers) => Delivered::AnsweredEarlier(answers),
            None if may_be_taken => Delivered::Unknown,
            None => Delivered::NotTaken,
        })
    }

    fn answer(&self, jobs: Vec<Job>, delivered: &Delivered) {
        let mut outcomes = match delivered {
            Delivered::Answered(answers) | Delivered::AnsweredEarlier(answers) => {
                self.answered_at_ms.store(clock::now_ms(), Ordering::Relaxed);
                Some(read_outcomes(answers))
            }
            Delivered::NotTaken | Delivered::Unknown => {
                self.metrics.bundles_unanswered.inc();
                tracing::error!(sends = jobs.len(), "the writer did not answer in time");
                None
            }
        };
        for job in jobs {
            let answer = match outcomes.as_mut().map(Iterator::next) {
                Some(Some(Ok(Outcome::Receipt(receipt)))) => Ok(receipt),
                Some(Some(Ok(Outcome::Problem(_)))) if matches!(delivered, Delivered::AnsweredEarlier(_)) => {
                    Err(outcome_unknown())
                }
                Some(Some(Ok(Outcome::Problem(problem)))) => Err(problem),
                None if matches!(delivered, Delivered::NotTaken) => Err(not_taken()),
                Some(Some(Err(_)) | None) | None => Err(outcome_unknown()),
            };
            // Whoever asked may be gone: nobody needs to know then.
            drop(job.answer.send(answer));
        }
    }
}

impl Inbox {
    async fn open(client: &Client) -> Result<Self, async_nats::SubscribeError> {
        let prefix = client.new_inbox();
        let answers = client.subscribe(format!("{prefix}.>")).await?;
        Ok(Self { prefix, answers })
    }

    /// The message that answers bundle `number` for good: one for the attempt with this reply subject, or one of an attempt
    /// before it that refuses nothing. One that does is kept in `earlier`. `None`: the subscription ended.
    async fn answer_to(&mut self, number: u64, reply: &str, earlier: &mut Option<Bytes>) -> Option<Message> {
        let of_bundle = format!("{}.{number}.", self.prefix);
        loop {
            let message = self.answers.next().await?;
            if message.subject.as_str() == reply {
                return Some(message);
            }
            if message.status.is_some() || !message.subject.starts_with(&of_bundle) {
                continue;
            }
            if refuses_nothing(&message.payload) {
                return Some(message);
            }
            *earlier = Some(message.payload);
        }
    }
}

fn refuses_nothing(answers: &[u8]) -> bool {
    read_outcomes(answers).all(|outcome| matches!(outcome, Ok(Outcome::Receipt(_))))
}

/// Takes what fits into one bundle out of what waits. Whoever has gone is left out; whoever has waited for too long is
/// told so.
fn gather(waiting: &mut Vec<Job>, bundle: &mut BytesMut) -> (Bytes, Vec<Job>) {
    bundle.reserve(FULL_BYTES / 4);
    let mut jobs = Vec::with_capacity(waiting.len());
    let mut rest = std::mem::take(waiting).into_iter();
    for job in rest.by_ref() {
        if job.answer.is_closed() {
            continue;
        }
        if job.since.elapsed() > GIVE_UP {
            drop(job.answer.send(Err(not_taken())));
            continue;
        }
        let before = bundle.len();
        if let Err(error) = write_bundle_line(bundle, &job.request) {
            bundle.truncate(before);
            drop(job.answer.send(Err(Problem::invalid(error.to_string()))));
            continue;
        }
        jobs.push(job);
        if bundle.len() >= FULL_BYTES {
            break;
        }
    }
    waiting.extend(rest);
    (bundle.split().freeze(), jobs)
}

fn not_taken() -> Problem {
    Problem::new(
        ProblemCode::BrokerUnavailable,
        "the log's writer cannot be reached, nothing was written; send again, best with the same key",
    )
}

fn outcome_unknown() -> Problem {
    Problem::new(
        ProblemCode::OutcomeUnknown,
        "the log did not confirm in time; send again with the same key to learn what became of it",
    )
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::SendPayload;
    use natterjack_nats_config::contract::{Kind, Principal, read_bundle};
    use serde_json::json;

    use super::*;

    fn job(bytes: usize) -> (Job, oneshot::Receiver<Result<Receipt, Problem>>) {
        let (answer, outcome) = oneshot::channel();
        let payload = json!({"key": "k", "body": {"text": "x".repeat(bytes)}}).to_string();
        let request = Request {
            by: natterjack_nats_config::contract::By::default(),
            principal: Principal {
                tenant: "main".parse().unwrap(),
                user: "alice".parse().unwrap(),
            },
            room: "lobby".parse().unwrap(),
            kind: Kind::Msg,
            payload: SendPayload::from_json(payload.as_bytes()).unwrap(),
            vouched: None,
        };
        (
            Job {
                request,
                answer,
                since: Instant::now(),
            },
            outcome,
        )
    }

    #[test]
    fn a_bundle_takes_what_fits_and_leaves_the_rest_in_order() {
        let (mut waiting, _outcomes): (Vec<_>, Vec<_>) = (0..20).map(|_| job(64 * 1024)).unzip();
        let mut taken = 0;
        while !waiting.is_empty() {
            let (bundle, jobs) = gather(&mut waiting, &mut BytesMut::new());
            assert!(bundle.len() < 900 * 1024, "{}", bundle.len());
            assert_eq!(read_bundle(&bundle).flatten().count(), jobs.len());
            taken += jobs.len();
        }
        assert_eq!(taken, 20);
    }

    #[test]
    fn whoever_is_gone_is_left_out() {
        let (gone, outcome) = job(1);
        drop(outcome);
        let (there, _outcome) = job(1);
        let (_, jobs) = gather(&mut vec![gone, there], &mut BytesMut::new());
        assert_eq!(jobs.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waited_for_too_long_is_told_that_nothing_was_written() {
        let (job, outcome) = job(1);
        tokio::time::advance(GIVE_UP * 2).await;
        let (bundle, jobs) = gather(&mut vec![job], &mut BytesMut::new());
        assert!(bundle.is_empty() && jobs.is_empty());
        assert_eq!(outcome.await.unwrap().unwrap_err().code, ProblemCode::BrokerUnavailable);
    }
}
