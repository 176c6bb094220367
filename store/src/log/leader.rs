use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{MAX_FRAME_EVENTS, Problem, ProblemCode, Receipt, Request, Seq};
use natterjack_nats_config::lease::{Lease, Leases};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::admit::{Draft, Now, admit_at_rate, log_full};
use super::append::{Append, Appended, Appender};
use super::broken::broken;
use super::ephemera::Ephemera;
use super::fan_erased::Erasures;
use super::fan_out;
use super::intake::{AnswerTo, Intake, Pending, Requests};
use super::keeper::{LeaseState, keep};
use super::log_time::LogClock;
use super::rates::SendRates;
use super::standing::wait_for_readers;
use super::state::{STAMP_EVERY, State};
use super::writer::{Worker, WriterConfig, WriterError};

mod take_over;

/// How long a sender waits for a frame of unknown outcome before it is told so.
const ANSWER_BY: Duration = Duration::from_secs(8);
/// How long a worker that was told to stop waits for an ack, and for the requests that are on their way to it.
const STOP_WITHIN: Duration = Duration::from_secs(2);

struct Leader<'a> {
    client: &'a Client,
    config: &'a WriterConfig,
    state: State,
    appender: Arc<Appender>,
    ephemera: Ephemera,
    rates: SendRates,
    telling: Vec<Told>,
    intake: Intake,
    clock: LogClock,
    lease: watch::Receiver<LeaseState>,
    shutdown: &'a CancellationToken,
}

/// Outcomes, and where they go.
type Decided = Vec<(AnswerTo, Result<Receipt, Problem>)>;

/// What is told to a room and not kept.
struct Told {
    subject: String,
    bytes: Bytes,
}

/// What is decided for one frame.
struct Batch {
    draft: Draft,
    decided: Decided,
    /// How many outcomes were decided before the frame had an event: they rest on nothing of it.
    settled: usize,
}

/// What a round of the loop came to.
#[derive(Debug, PartialEq, Eq)]
enum Round {
    Go,
    StepDown,
}

/// Leads from a state on, until the lease is lost, another writer's frame is found, or it is told to stop and another store that
/// reads the log has read it.
pub(crate) async fn lead(
    worker: &Worker,
    state: State,
    (lease, leases): (Lease, &Leases),
    shutdown: &CancellationToken,
) -> Result<(), WriterError> {
    let Worker {
        client,
        config,
        leading,
    } = worker;
    let (told, lease_state) = watch::channel(LeaseState::of(&lease));
    let stop_lease = CancellationToken::new();
    let keeper = tokio::spawn(keep(lease, client.clone(), config.clone(), told, stop_lease.clone()));
    let stop = CancellationToken::new();
    let stopping = wait_for_readers(leases.clone(), config.log.shard, shutdown.clone(), stop.clone());
    let _stopping = AbortOnDropHandle::new(tokio::spawn(stopping));
    let mut leader = Leader {
        client,
        config,
        clock: LogClock::start(Instant::now(), state.at_ms()),
        state,
        appender: Arc::new(Appender::new(client.clone(), &config.log)),
        ephemera: Ephemera::default(),
        rates: SendRates::new(Arc::clone(&config.limits)),
        telling: Vec::new(),
        intake: Intake::new(config.log.subjects.clone(), config.log.shard),
        lease: lease_state,
        shutdown: &stop,
    };
    let led = leader.run(leading).await;
    stop_lease.cancel();
    if let Err(error) = keeper.await {
        tracing::error!(%error, "the lease's task failed");
    }
    led
}

impl Leader<'_> {
    async fn run(&mut self, leading: &watch::Sender<bool>) -> Result<(), WriterError> {
        // Subscribed before the barrier and without a queue group: whatever is asked from now on is answered by us.
        let mut requests = Requests::subscribe(self.client, &self.config.log.subjects, self.config.log.shard).await?;
        let shutdown = self.shutdown;
        let round = tokio::select! {
            round = self.take_over() => round?,
            () = shutdown.cancelled() => Round::StepDown,
        };
        if round == Round::StepDown {
            return Ok(());
        }
        let stop_fan_out = CancellationToken::new();
        let fan_out = tokio::spawn(fan_out::run(
            self.client.clone(),
            self.config.clone(),
            (
                Seq::end_of_frame(self.state.end()),
                Erasures::of(self.state.view.all_erased()),
            ),
            self.lease.clone(),
            stop_fan_out.clone(),
        ));
        leading.send_replace(true);
        tracing::info!(worker = self.config.worker, end = self.state.end(), "writing");
        self.write(&mut requests).await;
        stop_fan_out.cancel();
        if let Err(error) = fan_out.await {
            tracing::error!(%error, "the fan-out failed");
        }
        Ok(())
    }

    /// Decides and appends what is asked. Told to stop, it still answers what is on its way here: who asks later finds
    /// nobody, and asks again at once.
    async fn write(&mut self, requests: &mut Requests) {
        let mut queue = self.asked_before_the_barrier(requests).await;
        let mut next = Batch::after(self.state.end());
        let mut stop_by = None;
        loop {
            if queue.is_empty() && next.is_empty() {
                let lease = lost(self.lease.clone());
                tokio::select! {
                    some = requests.next() => match some {
                        Some(some) => self.intake.read_all(some, &mut queue),
                        None => return,
                    },
                    () = lease => {}
                    () = self.shutdown.cancelled(), if stop_by.is_none() => {
                        requests.drain().await;
                        stop_by = Some(Instant::now() + STOP_WITHIN);
                    }
                    () = tokio::time::sleep_until(stop_by.unwrap_or_else(Instant::now)), if stop_by.is_some() => return,
                }
            }
            if self.must_step_down() {
                return;
            }
            self.decide(&mut queue, &mut next);
            if self.put(&mut next, requests, &mut queue).await == Round::StepDown {
                return;
            }
        }
    }

    /// A predecessor may have written what came before our barrier had landed. With a key that shows. Without one nobody can
    /// tell, and such a request is never tried a second time by us.
    async fn asked_before_the_barrier(&mut self, requests: &mut Requests) -> VecDeque<Pending> {
        let mut queue = VecDeque::new();
        while let Some(some) = requests.ready() {
            self.intake.read_all(some, &mut queue);
        }
        let is_keyless = |pending: &Pending| matches!(&pending.request, Ok(request) if request.payload.key.is_none());
        let (keyless, queue): (Vec<_>, _) = queue.into_iter().partition(is_keyless);
        for pending in keyless {
            self.answer(pending.to, Err(asked_while_changing())).await;
        }
        queue.into()
    }

    /// Decides what is queued, as far as one frame goes.
    fn decide(&mut self, queue: &mut VecDeque<Pending>, batch: &mut Batch) {
        let now = self.now();
        while let Some(Pending { request, to }) = queue.pop_front() {
            let outcome = match request {
                Ok(request) if request.kind.is_ephemeral() => self.tell(&request, &now),
                Ok(request) if !batch.draft.fits(&request) => {
                    let request = Ok(request);
                    queue.push_front(Pending { request, to });
                    break;
                }
                Ok(request) => {
                    let (state, draft) = (&mut self.state, &mut batch.draft);
                    admit_at_rate(state, draft, &request, &now, &mut self.rates)
                }
                Err(problem) => Err(problem),
            };
            batch.decided.push((to, outcome));
            if batch.draft.events == 0 {
                batch.settled = batch.decided.len();
            }
        }
    }

    /// Lets what is not kept be told with the next answers.
    fn tell(&mut self, request: &Request, now: &Now) -> Result<Receipt, Problem> {
        let (bytes, receipt) = self.ephemera.admit(&self.state.view, request, now)?;
        let tenant = &request.principal.tenant;
        let subject = self.config.log.subjects.room_now(tenant, &request.room);
        self.telling.push(Told { subject, bytes });
        Ok(receipt)
    }

    /// Tells rooms what is not kept. Only within the lease's own time: later the rights may be others.
    async fn tell_all(&mut self) {
        // By what is in the log up to here it was let through: a bridge that is not as far yet does not hand it on.
        let after = Seq::end_of_frame(self.state.end());
        for Told { subject, bytes } in self.telling.drain(..) {
            if Instant::now() >= self.lease.borrow().valid_until {
                continue;
            }
            let mut headers = HeaderMap::new();
            headers.insert("Chat-Seq", after.to_string().as_str());
            if let Err(error) = self.client.publish_with_headers(subject, headers, bytes).await {
                tracing::debug!(%error, "what is not kept was not told");
            }
        }
    }

    /// Appends what is decided and answers. While the log flushes, what comes in is decided for the frame after it: that
    /// is given back in `batch`. Nothing of it is answered before this frame stands in the log, since it may rest on it.
    async fn put(&mut self, batch: &mut Batch, requests: &mut Requests, queue: &mut VecDeque<Pending>) -> Round {
        let rest = batch.decided.split_off(batch.settled);
        let settled = std::mem::replace(&mut batch.decided, rest);
        batch.settled = 0;
        self.answer_all(settled).await;
        if batch.draft.events == 0 {
            return Round::Go;
        }
        let Batch { draft, mut decided, .. } = std::mem::replace(batch, Batch::after(self.state.end() + 1));
        let frame = self.frame(draft);
        // What is decided from here on is of the next frame.
        self.state.close_frame();
        let (appender, shutdown) = (Arc::clone(&self.appender), self.shutdown);
        let (append, patience) = (appender.append(&frame), patience(shutdown));
        tokio::pin!(append, patience);
        let mut in_doubt = false;
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = append.as_mut() => break outcome,
                () = patience.as_mut(), if !in_doubt => {
                    in_doubt = true;
                    self.tell_the_doubt(&mut decided).await;
                    self.tell_the_doubt(&mut batch.decided).await;
                    batch.settled = 0;
                }
                // Whoever comes next folds the frame if it landed. Nobody uses this state again.
                () = shutdown.cancelled(), if in_doubt => return Round::StepDown,
                Some(some) = requests.next(), if !in_doubt && queue.len() < MAX_FRAME_EVENTS => {
                    self.intake.read_all(some, queue);
                    self.decide(queue, batch);
                }
            }
        };
        self.appended(&frame, outcome, decided).await
    }

    async fn appended(&mut self, frame: &Append, outcome: Appended, decided: Decided) -> Round {
        match outcome {
            Appended::Committed => {
                self.state.move_end(frame.stream_seq);
                self.answer_all(decided).await;
                Round::Go
            }
            Appended::Full => {
                for (to, _) in decided {
                    self.answer(to, Err(log_full())).await;
                }
                Round::StepDown
            }
            Appended::Lost => {
                if broken("refused-means-lost") {
                    for (to, _) in decided {
                        let told = Problem::new(ProblemCode::Conflict, "it was not written");
                        self.answer(to, Err(told)).await;
                    }
                }
                tracing::warn!(
                    stream_seq = frame.stream_seq,
                    "another writer's frame is in the log, stepping down"
                );
                Round::StepDown
            }
        }
    }

    /// Says that nothing is known yet: of what would be a new event or repeats one, and of what was refused because of them.
    async fn tell_the_doubt(&mut self, decided: &mut Decided) {
        for (to, outcome) in decided.drain(..) {
            let told = if outcome.is_ok() {
                outcome_unknown()
            } else {
                not_confirmed()
            };
            self.answer(to, Err(told)).await;
        }
    }

    /// Answers only within the lease's own time: what is older is dropped, and whoever asked asks again with the key. A new
    /// event's receipt is true at any time: the log has it.
    async fn answer_all(&mut self, decided: Decided) {
        self.tell_all().await;
        for (to, outcome) in decided {
            let fresh = outcome.as_ref().is_ok_and(|receipt| !receipt.duplicate);
            if fresh || Instant::now() < self.lease.borrow().valid_until {
                self.answer(to, outcome).await;
            } else {
                self.intake.drop_answer(&to);
            }
        }
    }

    async fn answer(&mut self, to: AnswerTo, outcome: Result<Receipt, Problem>) {
        publish(self.client, self.intake.answer(to, outcome)).await;
    }

    fn frame(&self, draft: Draft) -> Append {
        let stream_seq = self.state.end() + 1;
        let tells = draft.events == 0 || stream_seq.is_multiple_of(STAMP_EVERY);
        Append {
            stream_seq,
            stamp: tells.then(|| self.state.stamp()),
            id: new_id(),
            bytes: draft.bytes.into(),
            has_policy: draft.has_policy,
        }
    }

    fn must_step_down(&self) -> bool {
        self.lease.borrow().lost
    }

    fn now(&self) -> Now {
        Now {
            at_ms: self.clock.now_ms(),
            wall_ms: clock::now_ms(),
            new_id,
            log_full: self.lease.borrow().log_full,
        }
    }
}

impl Batch {
    fn after(end: u64) -> Self {
        Self {
            draft: Draft::after(end),
            decided: Vec::new(),
            settled: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.decided.is_empty() && self.draft.events == 0
    }
}

/// Ends when the lease is lost.
async fn lost(mut lease: watch::Receiver<LeaseState>) {
    drop(lease.wait_for(|lease| lease.lost).await);
}

/// Ends when senders must be told that nothing is known yet: at the deadline, or soon after this worker was told to stop.
async fn patience(shutdown: &CancellationToken) {
    let stopping = async {
        shutdown.cancelled().await;
        tokio::time::sleep(STOP_WITHIN).await;
    };
    tokio::select! {
        () = tokio::time::sleep(ANSWER_BY) => {}
        () = stopping => {}
    }
}

async fn publish(client: &Client, answer: Option<super::intake::Answer>) {
    let Some(answer) = answer else { return };
    let published = match answer.headers {
        Some(headers) => {
            client
                .publish_with_headers(answer.subject, headers, answer.payload)
                .await
        }
        None => client.publish(answer.subject, answer.payload).await,
    };
    if let Err(error) = published {
        tracing::warn!(%error, "an answer was not sent; whoever asked asks again");
    }
}

fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

fn asked_while_changing() -> Problem {
    Problem::new(
        ProblemCode::OutcomeUnknown,
        "the writer changed while this was on its way, and without a key nobody can tell whether it was written; send with a \
         key to be able to ask again",
    )
}

/// For what was refused, or repeated, on the strength of a frame that is not in the log yet.
fn not_confirmed() -> Problem {
    Problem::new(
        ProblemCode::BrokerUnavailable,
        "the log did not confirm in time what this depends on; ask again",
    )
}

fn outcome_unknown() -> Problem {
    Problem::new(
        ProblemCode::OutcomeUnknown,
        "the log did not confirm in time; ask again with the same key to learn what became of it",
    )
}
