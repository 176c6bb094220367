use std::collections::{HashMap, VecDeque};

use async_nats::{Client, HeaderMap, Message, Subject, SubscribeError, Subscriber};
use bytes::BytesMut;
use futures_util::FutureExt;
use futures_util::stream::{Stream, StreamExt};
use natterjack_nats_config::contract::{
    By, Outcome, Principal, Problem, Receipt, Request, SendPayload, Subjects, read_bundle, write_outcome,
};

use super::notice::Asker;

/// Messages taken in at a time: some frames' worth.
const TAKE: usize = 256;
/// The most messages that one of the client's subscriptions holds (its default): what came before something else is among so many.
const HELD: usize = 64 * 1024;

/// A request, or why it is none, and where its answer goes.
pub(crate) struct Pending {
    pub(crate) request: Result<Request, Problem>,
    pub(crate) to: AnswerTo,
}

/// Where an answer goes.
pub(crate) enum AnswerTo {
    /// To the service import's reply subject.
    Reply(Subject),
    /// Nobody waits (a bare publish).
    Notice(Box<Asker>),
    /// Into its place among the answers of a bundle.
    Bundle { id: u64, index: usize },
}

/// An answer that is ready to be published.
pub(crate) struct Answer {
    pub(crate) subject: Subject,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) payload: bytes::Bytes,
}

/// What is asked: bundles of bridges and single requests of clients. Each in the order in which they come, and a single request
/// is never behind a bundle that came after it: so what a client had sent before its connection was closed is decided before it
/// is told that all of its user's connections are closed.
pub(crate) struct Requests<S = Subscriber> {
    bundles: S,
    singles: S,
}

/// Takes requests out of messages, and brings answers back to who asked.
pub(crate) struct Intake {
    subjects: Subjects,
    write_subject: String,
    bundles: HashMap<u64, Bundle>,
    next_bundle: u64,
    dropped: u64,
}

struct Bundle {
    reply: Subject,
    outcomes: Vec<Option<Outcome>>,
    missing: usize,
}

impl Requests {
    /// Asks for everything that is meant for the writer of a shard, without a queue group: each writer gets all of it.
    pub(crate) async fn subscribe(client: &Client, subjects: &Subjects, shard: u16) -> Result<Self, SubscribeError> {
        let singles = client.subscribe(subjects.inbound_all()).await?;
        let bundles = client.subscribe(subjects.write(shard)).await?;
        Ok(Self { bundles, singles })
    }

    /// Takes nothing more in. What is on its way still comes, and then the end.
    pub(crate) async fn drain(&mut self) {
        for subscriber in [&mut self.bundles, &mut self.singles] {
            if let Err(error) = subscriber.drain().await {
                tracing::debug!(%error, "a subscription cannot be drained");
            }
        }
    }
}

impl<S: Stream + Unpin> Requests<S> {
    /// What comes next, and all that is there with it; `None` at the end. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Vec<S::Item>> {
        let (first, is_bundle) = tokio::select! {
            Some(first) = self.bundles.next() => (first, true),
            Some(first) = self.singles.next() => (first, false),
            else => return None,
        };
        let mut bundles = Vec::new();
        let mut singles = Vec::new();
        if is_bundle {
            bundles.push(first);
        } else {
            singles.push(first);
        }
        self.take(&mut bundles, &mut singles);
        singles.append(&mut bundles);
        Some(singles)
    }

    /// What is there already.
    pub(crate) fn ready(&mut self) -> Option<Vec<S::Item>> {
        let (mut bundles, mut singles) = (Vec::new(), Vec::new());
        self.take(&mut bundles, &mut singles);
        singles.append(&mut bundles);
        (!singles.is_empty()).then_some(singles)
    }

    /// First some bundles, then every single request that is there: those that came before these bundles are among them.
    fn take(&mut self, bundles: &mut Vec<S::Item>, singles: &mut Vec<S::Item>) {
        take_ready(&mut self.bundles, bundles, TAKE);
        let most = if bundles.is_empty() { TAKE } else { HELD };
        take_ready(&mut self.singles, singles, most);
    }
}

impl Intake {
    pub(crate) fn new(subjects: Subjects, shard: u16) -> Self {
        let write_subject = subjects.write(shard);
        Self {
            subjects,
            write_subject,
            bundles: HashMap::new(),
            next_bundle: 0,
            dropped: 0,
        }
    }

    /// Reads messages, in their order.
    pub(crate) fn read_all(&mut self, messages: Vec<Message>, queue: &mut VecDeque<Pending>) {
        for message in messages {
            self.read(message, queue);
        }
    }

    /// Reads a message from a client or a bridge. One whose reply subject could be steered by a client is dropped.
    fn read(&mut self, message: Message, queue: &mut VecDeque<Pending>) {
        if message.subject.as_str() == self.write_subject {
            self.read_bundle(message, queue);
        } else {
            self.read_single(&message, queue);
        }
    }

    fn read_bundle(&mut self, message: Message, queue: &mut VecDeque<Pending>) {
        let Some(reply) = message.reply.filter(|reply| reply.starts_with("_INBOX_")) else {
            return self.drop_one("a bundle without a worker's reply subject");
        };
        let id = self.next_bundle;
        self.next_bundle += 1;
        let before = queue.len();
        queue.extend(
            read_bundle(&message.payload)
                .enumerate()
                .map(|(index, request)| Pending {
                    request,
                    to: AnswerTo::Bundle { id, index },
                }),
        );
        let missing = queue.len() - before;
        if missing > 0 {
            let outcomes = std::iter::repeat_with(|| None).take(missing).collect();
            self.bundles.insert(
                id,
                Bundle {
                    reply,
                    outcomes,
                    missing,
                },
            );
        }
    }

    fn read_single(&mut self, message: &Message, queue: &mut VecDeque<Pending>) {
        let Some(to) = self.subjects.parse_inbound(&message.subject) else {
            return self.answer_unknown_subject(message, queue);
        };
        let principal = Principal {
            tenant: to.tenant,
            user: to.user,
        };
        let payload = SendPayload::from_native_of(to.kind, &message.payload);
        let answer_to = match &message.reply {
            None => AnswerTo::Notice(Box::new(Asker::of(&principal, &to.room, payload.as_ref().ok()))),
            Some(reply) if Subjects::is_import_reply(reply) => AnswerTo::Reply(reply.clone()),
            Some(_) => return self.drop_one("a reply subject that no import made"),
        };
        let request = payload
            .map(|payload| Request {
                principal,
                by: By::Connection,
                room: to.room,
                kind: to.kind,
                payload,
                vouched: None,
            })
            .map_err(|error| Problem::invalid(error.to_string()));
        queue.push_back(Pending { request, to: answer_to });
    }

    fn answer_unknown_subject(&mut self, message: &Message, queue: &mut VecDeque<Pending>) {
        match &message.reply {
            Some(reply) if Subjects::is_import_reply(reply) => queue.push_back(Pending {
                request: Err(Problem::invalid(format!(
                    "the subject must be {}.in.{{tenant}}.{{user}}.{{room}}.{{kind}}, with kind one of msg, command, \
                     reply, edit, delete, react, unreact, pin, unpin, read, room, member, ban, user, role, token, hold, typing, presence, signal",
                    self.subjects.prefix()
                ))),
                to: AnswerTo::Reply(reply.clone()),
            }),
            _ => self.drop_one("a subject of no known form"),
        }
    }

    fn drop_one(&mut self, reason: &'static str) {
        self.dropped += 1;
        tracing::warn!(reason, dropped = self.dropped, "dropped a request");
    }

    /// Turns an outcome into what is published, if anything is yet.
    pub(crate) fn answer(&mut self, to: AnswerTo, outcome: Result<Receipt, Problem>) -> Option<Answer> {
        match to {
            AnswerTo::Reply(subject) => Some(answer_single(subject, outcome)),
            AnswerTo::Notice(asker) => asker.notice(&self.subjects, outcome),
            AnswerTo::Bundle { id, index } => self.answer_in_bundle(id, index, outcome),
        }
    }

    fn answer_in_bundle(&mut self, id: u64, index: usize, outcome: Result<Receipt, Problem>) -> Option<Answer> {
        let bundle = self.bundles.get_mut(&id)?;
        let place = bundle.outcomes.get_mut(index)?;
        *place = Some(outcome.map_or_else(Outcome::Problem, Outcome::Receipt));
        bundle.missing -= 1;
        if bundle.missing > 0 {
            return None;
        }
        let bundle = self.bundles.remove(&id)?;
        let mut payload = BytesMut::with_capacity(bundle.outcomes.len() * 160);
        for outcome in bundle.outcomes.iter().flatten() {
            if let Err(error) = write_outcome(&mut payload, outcome) {
                tracing::error!(%error, "an answer cannot be encoded");
            }
        }
        Some(Answer {
            subject: bundle.reply,
            headers: None,
            payload: payload.freeze(),
        })
    }

    /// Gives an answer up, and with it all others of its bundle; whoever asked asks again.
    pub(crate) fn drop_answer(&mut self, to: &AnswerTo) {
        if let AnswerTo::Bundle { id, .. } = to {
            self.bundles.remove(id);
        }
    }
}

/// Takes what is there, and waits for nothing. Unconstrained: tokio would say after some that there is no more for now.
fn take_ready<S: Stream + Unpin>(from: &mut S, to: &mut Vec<S::Item>, most: usize) {
    while to.len() < most {
        match tokio::task::unconstrained(from.next()).now_or_never() {
            Some(Some(message)) => to.push(message),
            _ => return,
        }
    }
}

/// The answer to one request: the receipt, or the problem with the headers of a service error.
fn answer_single(subject: Subject, outcome: Result<Receipt, Problem>) -> Answer {
    match outcome {
        Ok(receipt) => {
            let payload = serde_json::to_vec(&receipt).unwrap_or_default().into();
            Answer {
                subject,
                headers: None,
                payload,
            }
        }
        Err(problem) => Answer {
            subject,
            headers: Some(error_headers(&problem)),
            payload: problem.to_json().into(),
        },
    }
}

/// The headers of a service error.
pub(super) fn error_headers(problem: &Problem) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Service-Error", &*problem.title);
    headers.insert("Nats-Service-Error-Code", problem.status.to_string().as_str());
    headers.insert("Content-Type", "application/problem+json");
    headers
}

#[cfg(test)]
mod tests {
    use futures_util::stream::poll_fn;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_a_client_sent_first_is_never_behind_a_bundle() {
        // As many as tokio would not hand out in one go.
        const MANY: usize = 5 * TAKE;
        let (to_bundles, mut bundles) = mpsc::channel(MANY);
        let (to_singles, mut singles) = mpsc::channel(MANY);
        let mut requests = Requests {
            bundles: poll_fn(Box::new(move |cx: &mut std::task::Context<'_>| bundles.poll_recv(cx)) as Poll),
            singles: poll_fn(Box::new(move |cx: &mut std::task::Context<'_>| singles.poll_recv(cx)) as Poll),
        };
        for round in 0..20 {
            for _ in 0..MANY {
                to_singles.send("single").await.unwrap();
            }
            to_bundles.send("settled").await.unwrap();
            let (mut before, mut settled) = (0, false);
            while !settled {
                let some = match round % 2 {
                    0 => requests.next().await.unwrap(),
                    _ => requests.ready().unwrap(),
                };
                before += some.iter().take_while(|one| **one == "single").count();
                settled = some.contains(&"settled");
            }
            assert_eq!(before, MANY, "round {round}");
        }
        drop((to_bundles, to_singles));
        assert_eq!(requests.next().await, None);
    }

    type Poll = Box<dyn FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<&'static str>> + Send>;
}
