//! The policy view, kept up with the log.

use async_nats::Client;
use natterjack_nats_config::Id;
use natterjack_nats_config::contract::Seq;
use natterjack_nats_config::tail::{Frame, Log, TailError};
use parking_lot::{RwLock, RwLockReadGuard};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

use crate::begin::begin_view;
use crate::policy::{Change, View};
use crate::worker::AuthzError;

/// How long the view may take to reach the log's end before it counts as stale.
const FRESH_WITHIN: Duration = Duration::from_secs(1);

/// The view as it is now, and how far it has read.
pub(crate) struct Followed {
    view: RwLock<View>,
    passed: watch::Sender<Seq>,
}

/// When each principal's rights (without a user: everybody's) last changed, in log time: what was changed while nobody answered callouts.
pub(crate) type ChangedAt = HashMap<(Id, Option<Id>), i64>;

impl Followed {
    pub(crate) fn new() -> Self {
        Self {
            view: RwLock::default(),
            passed: watch::Sender::new(Seq::ZERO),
        }
    }

    /// The view. Never hold it across an await.
    pub(crate) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read()
    }

    /// How far the view has read; changes up to there have been handed over before.
    pub(crate) fn passed(&self) -> watch::Receiver<Seq> {
        self.passed.subscribe()
    }

    fn take(&self, frame: &Frame) -> Vec<Change> {
        let mut view = self.view.write();
        let changes = frame.events.iter().flat_map(|line| view.apply(&line.event));
        let changes = changes.collect();
        view.pass(Seq::end_of_frame(frame.stream_seq));
        changes
    }

    /// Reads the log to its present end, from the newest checkpoint on. Gives the stream sequence reached, and who changed
    /// when: the view remembers that, also of what the checkpoint had taken in.
    pub(crate) async fn catch_up(&self, client: &Client, log: &Log) -> Result<(u64, ChangedAt), AuthzError> {
        let end = loop {
            match log.end(client).await {
                Ok(end) if end > 0 => break end,
                Ok(_) => tracing::debug!("waiting for the log's first frame"),
                Err(error) => tracing::debug!(%error, "waiting for the log"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let view = begin_view(client, log).await?;
        let mut tail = log.tail(client, view.seq().frame()).of_policy();
        *self.view.write() = view;
        while tail.passed() < end {
            self.take(&tail.next().await?);
        }
        let end = tail.passed();
        self.passed.send_replace(Seq::end_of_frame(end));
        let view = self.view();
        let changed = view.last_changes();
        let changed = changed.map(|(tenant, user, at_ms)| ((tenant.clone(), user.cloned()), at_ms));
        Ok((end, changed.collect()))
    }

    /// Whether the view has read the log to the end that it has now, asking its leader; waits a moment for the rest.
    pub(crate) async fn is_fresh(&self, client: &Client, log: &Log) -> bool {
        let Ok(end) = log.end(client).await else { return false };
        let mut passed = self.passed();
        let reached = passed.wait_for(|passed| passed.frame() >= end);
        tokio::time::timeout(FRESH_WITHIN, reached)
            .await
            .is_ok_and(|reached| reached.is_ok())
    }

    /// Follows the log from there, handing over each change before it is told as passed.
    pub(crate) async fn follow(
        &self,
        client: &Client,
        log: &Log,
        from: u64,
        changes: mpsc::Sender<Change>,
    ) -> Result<(), TailError> {
        let mut tail = log.tail(client, from).of_policy();
        loop {
            let frame = tail.next().await?;
            for change in self.take(&frame) {
                if changes.send(change).await.is_err() {
                    return Ok(());
                }
            }
            self.passed.send_replace(Seq::end_of_frame(frame.stream_seq));
        }
    }
}
