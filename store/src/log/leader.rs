use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message};
use futures_util::stream::{Stream, StreamExt, select};
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{MAX_FRAME_EVENTS, Problem, ProblemCode, Receipt};
use natterjack_nats_config::lease::{Lease, RENEW_EVERY};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::admit::{Draft, Now, admit, found_tenant, log_full};
use super::append::{Append, Appended, Appender};
use super::fan_out;
use super::intake::{AnswerTo, Intake, Pending};
use super::state::State;
use super::writer::{Worker, WriterConfig, WriterError, fold};

/// How long a sender waits for a frame of unknown outcome before it is told so.
const ANSWER_BY: Duration = Duration::from_secs(8);
/// Requests taken in at a time: some frames' worth.
const TAKE: usize = 256;
/// Above this share of `max_bytes` messages are refused and only policy is written: room for revocation.
const SOFT_LIMIT_PERCENT: u64 = 90;

/// Log time: goes on by the monotonic clock from where it was at the take-over.
struct LogClock {
    base_ms: i64,
    base: Instant,
}

struct Leader<'a> {
    client: &'a Client,
    config: &'a WriterConfig,
    state: State,
    appender: Arc<Appender>,
    intake: Intake,
    clock: LogClock,
    lease: watch::Receiver<LeaseState>,
}

/// What the task that renews the lease knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaseState {
    /// Until when it is surely held.
    pub(crate) valid_until: Instant,
    lost: bool,
    log_full: bool,
}

/// Outcomes, and where they go.
type Decided = Vec<(AnswerTo, Result<Receipt, Problem>)>;

/// What is decided for one frame.
struct Batch {
    draft: Draft,
    decided: Decided,
}

/// What a round of the loop came to.
#[derive(Debug, PartialEq, Eq)]
enum Round {
    Go,
    StepDown,
}

/// Leads from a state on, until the lease is lost, another writer's frame is found, or it is told to stop.
pub(crate) async fn lead(
    worker: &Worker,
    state: State,
    lease: Lease,
    shutdown: &CancellationToken,
) -> Result<(), WriterError> {
    let Worker {
        client,
        config,
        leading,
    } = worker;
    let (told, lease_state) = watch::channel(LeaseState {
        valid_until: lease.valid_until(),
        lost: false,
        log_full: false,
    });
    let stop_lease = CancellationToken::new();
    let keeper = tokio::spawn(keep(lease, client.clone(), config.clone(), told, stop_lease.clone()));
    let mut leader = Leader {
        client,
        config,
        clock: LogClock::start(state.at_ms()),
        state,
        appender: Arc::new(Appender::new(client.clone(), &config.log)),
        intake: Intake::new(config.log.subjects.clone(), config.log.shard),
        lease: lease_state,
    };
    let led = leader.run(leading, shutdown).await;
    stop_lease.cancel();
    if let Err(error) = keeper.await {
        tracing::error!(%error, "the lease's task failed");
    }
    led
}

impl Leader<'_> {
    async fn run(&mut self, leading: &watch::Sender<bool>, shutdown: &CancellationToken) -> Result<(), WriterError> {
        let subjects = &self.config.log.subjects;
        // Subscribed before the barrier and without a queue group: whatever is asked from now on is answered by us.
        let singles = self.client.subscribe(subjects.inbound_all()).await?;
        let bundles = self.client.subscribe(subjects.write(self.config.log.shard)).await?;
        if self.pass_barrier(shutdown).await? == Round::StepDown || self.found().await == Round::StepDown {
            return Ok(());
        }
        let stop_fan_out = CancellationToken::new();
        let fan_out = tokio::spawn(fan_out::run(
            self.client.clone(),
            self.config.clone(),
            self.lease.clone(),
            stop_fan_out.clone(),
        ));
        leading.send_replace(true);
        tracing::info!(worker = self.config.worker, end = self.state.end(), "writing");
        self.write(select(bundles, singles), shutdown).await;
        stop_fan_out.cancel();
        if let Err(error) = fan_out.await {
            tracing::error!(%error, "the fan-out failed");
        }
        Ok(())
    }

    /// Appends an empty `leader` frame behind everything: a predecessor's frame can land until then, and not after.
    async fn pass_barrier(&mut self, shutdown: &CancellationToken) -> Result<Round, WriterError> {
        loop {
            self.fold_to_the_end().await?;
            if self.must_step_down() || shutdown.is_cancelled() {
                return Ok(Round::StepDown);
            }
            let frame = self.frame(Draft::after(self.state.end()));
            match self.appender.append(&frame).await {
                Appended::Committed => {
                    self.state.pass_frame(frame.stream_seq);
                    return Ok(Round::Go);
                }
                Appended::Lost => {}
                Appended::Full => {
                    tracing::error!("the log is full, not even policy can be written: raise `store.log_max_bytes`");
                    tokio::time::sleep(RENEW_EVERY).await;
                }
            }
        }
    }

    async fn fold_to_the_end(&mut self) -> Result<(), WriterError> {
        let end = loop {
            match self.config.log.end(self.client).await {
                Ok(end) => break end,
                Err(error) => tracing::debug!(%error, "waiting for the log"),
            }
            tokio::time::sleep(RENEW_EVERY / 4).await;
        };
        let mut tail = self.config.log.tail(self.client, self.state.end());
        while self.state.end() < end {
            fold(&mut self.state, &tail.next().await?);
        }
        Ok(())
    }

    async fn found(&mut self) -> Round {
        let Some(bootstrap) = &self.config.bootstrap else {
            return Round::Go;
        };
        if self.state.view.has_tenant(&bootstrap.admin.tenant) {
            return Round::Go;
        }
        let mut draft = Draft::after(self.state.end());
        let now = self.now();
        if let Err(error) = found_tenant(&mut self.state, &mut draft, &bootstrap.admin, &now) {
            tracing::error!(%error, "the first tenant cannot be made");
            return Round::Go;
        }
        let frame = self.frame(draft);
        match self.appender.append(&frame).await {
            Appended::Committed => {
                self.state.pass_frame(frame.stream_seq);
                Round::Go
            }
            Appended::Lost | Appended::Full => Round::StepDown,
        }
    }

    async fn write(&mut self, messages: impl Stream<Item = Message> + Unpin, shutdown: &CancellationToken) {
        let mut messages = messages.ready_chunks(TAKE);
        let mut queue = VecDeque::new();
        let mut next = Batch::after(self.state.end());
        loop {
            if queue.is_empty() && next.decided.is_empty() {
                let mut lease = self.lease.clone();
                tokio::select! {
                    some = messages.next() => match some {
                        Some(some) => some.into_iter().for_each(|message| self.intake.read(message, &mut queue)),
                        None => return,
                    },
                    _ = lease.wait_for(|lease| lease.lost) => {}
                    () = shutdown.cancelled() => return,
                }
            }
            if self.must_step_down() || (shutdown.is_cancelled() && next.decided.is_empty()) {
                return;
            }
            if !shutdown.is_cancelled() {
                self.decide(&mut queue, &mut next);
            }
            if self.put(&mut next, &mut messages, &mut queue).await == Round::StepDown {
                self.intake.forget();
                return;
            }
        }
    }

    /// Decides what is queued, as far as one frame goes.
    fn decide(&mut self, queue: &mut VecDeque<Pending>, batch: &mut Batch) {
        let now = self.now();
        while let Some(pending) = queue.pop_front() {
            let outcome = match pending.request {
                Ok(request) if !batch.draft.fits(&request) => {
                    queue.push_front(Pending {
                        request: Ok(request),
                        to: pending.to,
                    });
                    break;
                }
                Ok(request) => admit(&mut self.state, &mut batch.draft, &request, &now),
                Err(problem) => Err(problem),
            };
            batch.decided.push((pending.to, outcome));
        }
    }

    /// Appends what is decided and answers. While the log flushes, what comes in is decided for the frame after it: that
    /// is given back in `batch`. Nothing of it is answered before this frame stands in the log, since it may rest on it.
    async fn put(
        &mut self,
        batch: &mut Batch,
        messages: &mut (impl Stream<Item = Vec<Message>> + Unpin),
        queue: &mut VecDeque<Pending>,
    ) -> Round {
        if batch.draft.events == 0 {
            let decided = std::mem::take(&mut batch.decided);
            self.answer_all(decided).await;
            return Round::Go;
        }
        let Batch { draft, mut decided } = std::mem::replace(batch, Batch::after(self.state.end() + 1));
        let frame = self.frame(draft);
        let appender = Arc::clone(&self.appender);
        let append = appender.append(&frame);
        let answer_by = tokio::time::sleep(ANSWER_BY);
        tokio::pin!(append, answer_by);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = append.as_mut() => break outcome,
                () = answer_by.as_mut(), if !decided.is_empty() => {
                    for (to, outcome) in decided.drain(..) {
                        publish(self.client, self.intake.answer(to, outcome.and_then(|_| Err(outcome_unknown())))).await;
                    }
                }
                Some(some) = messages.next(), if queue.len() < MAX_FRAME_EVENTS => {
                    for message in some {
                        self.intake.read(message, queue);
                    }
                    self.decide(queue, batch);
                }
            }
        };
        self.appended(&frame, outcome, decided).await
    }

    async fn appended(&mut self, frame: &Append, outcome: Appended, decided: Decided) -> Round {
        match outcome {
            Appended::Committed => {
                self.state.pass_frame(frame.stream_seq);
                self.answer_all(decided).await;
                Round::Go
            }
            Appended::Full => {
                let refused = decided.into_iter();
                self.answer_all(
                    refused
                        .map(|(to, outcome)| (to, outcome.and_then(|_| Err(log_full()))))
                        .collect(),
                )
                .await;
                Round::StepDown
            }
            Appended::Lost => {
                tracing::warn!(
                    stream_seq = frame.stream_seq,
                    "another writer's frame is in the log, stepping down"
                );
                Round::StepDown
            }
        }
    }

    /// Answers only within the lease's own time: what is older is dropped, and whoever asked asks again with the key.
    async fn answer_all(&mut self, decided: Decided) {
        for (to, outcome) in decided {
            let fresh = outcome.as_ref().is_ok_and(|receipt| !receipt.duplicate);
            if !fresh && Instant::now() >= self.lease.borrow().valid_until {
                continue;
            }
            publish(self.client, self.intake.answer(to, outcome)).await;
        }
    }

    fn frame(&self, draft: Draft) -> Append {
        Append {
            stream_seq: self.state.end() + 1,
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
        }
    }
}

impl LogClock {
    fn start(last_ms: i64) -> Self {
        Self {
            base_ms: clock::now_ms().max(last_ms),
            base: Instant::now(),
        }
    }

    fn now_ms(&self) -> i64 {
        self.base_ms + i64::try_from(self.base.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

/// Renews the lease and watches the log's size, until told to stop; then gives the lease back.
async fn keep(
    mut lease: Lease,
    client: Client,
    config: WriterConfig,
    told: watch::Sender<LeaseState>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RENEW_EVERY) => {}
            () = stop.cancelled() => return lease.release().await,
        }
        match lease.renew().await {
            Ok(true) => told.send_modify(|state| state.valid_until = lease.valid_until()),
            Ok(false) => {
                tracing::warn!(worker = config.worker, "lost the writer's lease");
                told.send_modify(|state| state.lost = true);
                return;
            }
            Err(error) => tracing::warn!(%error, "the writer's lease was not renewed"),
        }
        if let Some(full) = is_nearly_full(&client, &config).await {
            told.send_modify(|state| state.log_full = full);
        }
    }
}

async fn is_nearly_full(client: &Client, config: &WriterConfig) -> Option<bool> {
    let stream = async_nats::jetstream::new(client.clone())
        .get_stream(config.log.stream())
        .await
        .ok()?;
    let info = stream.cached_info();
    let limit = u64::try_from(info.config.max_bytes).ok().filter(|limit| *limit > 0)?;
    Some(info.state.bytes > limit / 100 * SOFT_LIMIT_PERCENT)
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

fn outcome_unknown() -> Problem {
    Problem::new(
        ProblemCode::OutcomeUnknown,
        "the log did not confirm in time; ask again with the same key to learn what became of it",
    )
}
