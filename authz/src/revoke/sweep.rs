use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use natterjack_nats_config::contract::{Id, Seq, Subjects};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::connections::{Connections, NotAnswered};
use crate::callout::{Connection, Issued};
use crate::follow::ChangedAt;
use crate::policy::{Change, Effect};

/// Waiting before a sweep that failed is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// How often the second look may find something before the sweep counts as failed.
const LOOKS: usize = 40;
/// The pause between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// How far the server's clock and log time may be apart when connections from before our start are judged: a day and
/// more. Closing one too many costs its owner some milliseconds.
const CLOCKS_APART_MS: i64 = 26 * 3600 * 1000;
/// How long a grant waits before it renews connections, so that the answer to whoever asked for it over one of them has
/// left, and grants that come together renew once. Restrictions never wait.
const GRANT_WAITS: Duration = Duration::from_millis(150);
/// Principals swept for at once.
const AT_ONCE: usize = 16;
/// Counts of closed connections that are remembered for those who ask.
const MAX_COUNTS: usize = 10_000;

/// Stands for a user where everybody in a tenant is meant. No id holds it.
const EVERYBODY: &str = ".*";

/// How far this worker has swept, and what it closed for whom.
#[derive(Debug)]
pub(crate) struct Swept {
    seq: watch::Sender<Seq>,
    closed: Mutex<HashMap<String, (Seq, usize)>>,
    /// What the last sweep failed for, while it is being tried again.
    trouble: Mutex<Option<String>>,
}

/// Closes the connections of whoever's rights have changed, in the order of the log.
pub(crate) struct Sweeper {
    pub(crate) connections: Connections,
    pub(crate) issued: Arc<Issued>,
    pub(crate) swept: Arc<Swept>,
}

/// What a principal's connections must be brought up to.
#[derive(Debug, Clone, Copy)]
struct Due {
    seq: Seq,
    effect: Effect,
}

impl Swept {
    pub(crate) fn new() -> Self {
        Self {
            seq: watch::Sender::new(Seq::ZERO),
            closed: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    /// Why the sweeps do not get on, if they do not.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Waits until every change up to `seq` has been swept.
    pub(crate) async fn passed(&self, seq: Seq) {
        let mut swept = self.seq.subscribe();
        if swept.wait_for(|swept| *swept >= seq).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// How many connections the sweep for a principal's change at `seq` (or a later one) closed.
    ///
    /// For everybody in a tenant: with those of all for whom it was swept by the same event.
    pub(crate) fn closed(&self, name: &str, seq: Seq) -> usize {
        let counts = self.closed.lock();
        let own = counts.get(name).filter(|(swept, _)| *swept >= seq);
        let own = own.map_or(0, |(_, closed)| *closed);
        if !name.ends_with(EVERYBODY) {
            return own;
        }
        let others = counts
            .iter()
            .filter(|(one, (swept, _))| *swept == seq && is_meant(name, one) && *one != name);
        own + others.map(|(_, (_, closed))| *closed).sum::<usize>()
    }

    fn note(&self, name: &str, seq: Seq, closed: usize) {
        let mut counts = self.closed.lock();
        if counts.len() >= MAX_COUNTS {
            counts.clear();
        }
        counts.insert(name.to_owned(), (seq, closed));
    }
}

impl Sweeper {
    /// Sweeps for every change that is handed over, until it is told to stop. `passed` says how far the changes handed
    /// over reach.
    pub(crate) async fn run(
        &self,
        mut changes: mpsc::Receiver<Change>,
        mut passed: watch::Receiver<Seq>,
        shutdown: CancellationToken,
    ) {
        loop {
            tokio::select! {
                changed = passed.changed() => if changed.is_err() { return },
                () = shutdown.cancelled() => return,
            }
            // Read before the changes are taken: every change up to here is in the queue already.
            let reached = *passed.borrow_and_update();
            let waiting = take_all(&mut changes);
            let sweeps =
                stream::iter(&waiting).for_each_concurrent(AT_ONCE, |(name, due)| self.sweep_until_clean(name, *due));
            tokio::select! {
                () = sweeps => {}
                () = shutdown.cancelled() => return,
            }
            *self.swept.trouble.lock() = None;
            self.swept.seq.send_replace(reached);
        }
    }

    /// Closes what was open before we came and whose rights changed since it was opened: nobody watched then.
    pub(crate) async fn sweep_the_past(&self, changed: &ChangedAt, reached: Seq) {
        loop {
            match self.try_the_past(changed).await {
                Ok(closed) => {
                    if closed > 0 {
                        tracing::info!(
                            closed,
                            "closed connections whose rights changed while no authz worker watched"
                        );
                    }
                    *self.swept.trouble.lock() = None;
                    self.swept.seq.send_replace(reached);
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the connections from before cannot be judged yet");
                    *self.swept.trouble.lock() = Some(error.to_string());
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn try_the_past(&self, changed: &ChangedAt) -> Result<usize, NotAnswered> {
        let changed: HashMap<String, i64> = changed
            .iter()
            .map(|((tenant, user), at)| (whose(tenant, user.as_ref()), *at))
            .collect();
        let mut closed = 0;
        for listed in self.connections.list(None).await? {
            let names = [Some(listed.name.clone()), everybody_beside(&listed.name)];
            let at_ms = names.iter().flatten().filter_map(|name| changed.get(name)).max();
            if at_ms.is_some_and(|at_ms| *at_ms > listed.since_ms - CLOCKS_APART_MS) {
                closed += usize::from(self.connections.close(&listed.connection).await?);
            }
        }
        Ok(closed)
    }

    async fn sweep_until_clean(&self, name: &str, due: Due) {
        let seq = due.seq;
        let mut closed = 0;
        loop {
            match self.sweep(name, due, &mut closed).await {
                Ok(()) => {
                    tracing::info!(principal = name, %seq, closed, "renewed the connections after a change of rights");
                    self.swept.note(name, seq, closed);
                    return;
                }
                Err(error) => {
                    tracing::warn!(principal = name, %seq, %error, "a sweep failed, trying again");
                    *self.swept.trouble.lock() = Some(error.to_string());
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Closes every connection of a principal that may have rights from before `seq`, and looks again until none is left.
    async fn sweep(&self, name: &str, due: Due, closed: &mut usize) -> Result<(), NotAnswered> {
        let mut old = self.old(name, due.seq).await?;
        if !old.is_empty() && due.effect == Effect::Grant {
            tokio::time::sleep(GRANT_WAITS).await;
            old = self.old(name, due.seq).await?;
        }
        for connection in &old {
            *closed += usize::from(self.connections.close(connection).await?);
        }
        for _ in 0..LOOKS {
            let left: Vec<_> = self
                .listed(name)
                .await?
                .into_iter()
                .filter(|one| old.contains(one))
                .collect();
            if left.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        Err(NotAnswered::still_open())
    }

    /// The connections that may have rights from before `seq`: those listed, unless we know better, and those that we let in
    /// of late and that may not be listed under their name yet.
    async fn old(&self, name: &str, seq: Seq) -> Result<HashSet<Connection>, NotAnswered> {
        let mut old: HashSet<Connection> = self.issued.before(|one| is_meant(name, one), seq).into_iter().collect();
        old.extend(
            self.listed(name)
                .await?
                .into_iter()
                .filter(|one| !self.issued.is_newer(one, seq)),
        );
        Ok(old)
    }

    async fn listed(&self, name: &str) -> Result<Vec<Connection>, NotAnswered> {
        Ok(self
            .connections
            .list((!name.ends_with(EVERYBODY)).then_some(name))
            .await?
            .into_iter()
            .filter(|listed| is_meant(name, &listed.name))
            .map(|listed| listed.connection)
            .collect())
    }
}

/// Whose connections are meant: those of a principal by name, or of everybody in a tenant.
pub(super) fn whose(tenant: &Id, user: Option<&Id>) -> String {
    match user {
        Some(user) => Subjects::principal_name(tenant, user),
        None => format!("{tenant}{EVERYBODY}"),
    }
}

/// Everybody in the tenant of a principal, by its name.
fn everybody_beside(name: &str) -> Option<String> {
    let (tenant, _) = name.split_once('.')?;
    Some(format!("{tenant}{EVERYBODY}"))
}

fn is_meant(whose: &str, name: &str) -> bool {
    whose == name || (whose.ends_with(EVERYBODY) && everybody_beside(name).as_deref() == Some(whose))
}

/// All changes that are waiting, one entry a principal: the last sequence, and a restriction if there is one.
fn take_all(changes: &mut mpsc::Receiver<Change>) -> HashMap<String, Due> {
    let mut waiting = HashMap::new();
    while let Ok(change) = changes.try_recv() {
        let name = whose(&change.tenant, change.user.as_ref());
        let due = waiting.entry(name).or_insert(Due {
            seq: change.seq,
            effect: change.effect,
        });
        due.seq = change.seq.max(due.seq);
        if change.effect == Effect::Restriction {
            due.effect = Effect::Restriction;
        }
    }
    waiting
}
