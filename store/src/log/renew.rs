use std::time::Duration;

use async_nats::{Client, HeaderMap, jetstream};
use natterjack_nats_config::checkpoint::Checkpoints;
use natterjack_nats_config::contract::{EventLine, Id, Seq};
use natterjack_nats_config::stream::{CHANGING_IN_ROOMS, is_not_found, reconcile, rooms_config};
use natterjack_nats_config::tail::Log;

use super::checkpoint::found;
use super::fan_batch::{Batch, Heard};
use super::state::{Head, STATE_VERSION, State};

/// How long is listened to ROOMS between two pages of events: it says what has arrived, and forgets who keeps silent.
const LOOK: Duration = Duration::from_millis(1);

/// A log's beginning in a later epoch cannot be prepared; it may be tried again from the start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct RenewError(String);

/// What stands beside a log that begins anew: the state that its writers begin with, and the rooms' last events. It is made of
/// all events that came before, in their order.
pub(crate) struct Renewal {
    client: Client,
    log: Log,
    replicas: usize,
    state: State,
    rooms: Batch,
    term: String,
}

impl Renewal {
    /// Makes ROOMS anew, silent and empty. No writer may run.
    pub(crate) async fn begin(client: &Client, log: &Log, replicas: usize) -> Result<Self, RenewError> {
        let term = uuid::Uuid::now_v7().simple().to_string();
        let mut rooms = rooms_config(&log.subjects, log.shard, replicas, &term);
        // Nobody is to hear history as news: the writer switches that on behind it.
        rooms.republish = None;
        let jetstream = jetstream::new(client.clone());
        match jetstream.get_stream(&rooms.name).await {
            Ok(_) => {
                jetstream.delete_stream(&rooms.name).await.map_err(failed)?;
            }
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(failed(error)),
        }
        reconcile(client, rooms, CHANGING_IN_ROOMS).await.map_err(failed)?;
        let begin = log.subjects.fan_begin();
        let batch = Batch::begin(client, begin, 0, Seq::ZERO, Heard::of(replicas, Seq::ZERO));
        let mut state = State::default();
        state.begin_term(Some(STATE_VERSION));
        Ok(Self {
            client: client.clone(),
            log: log.clone(),
            replicas,
            state,
            rooms: batch.await.map_err(failed)?,
            term,
        })
    }

    /// Takes in the next event; `is_recent` says whether it is one of the last that ROOMS holds of its room.
    pub(crate) async fn take(&mut self, line: &EventLine, is_recent: bool) -> Result<(), RenewError> {
        let event = &line.event;
        self.state.apply(event);
        if !is_recent {
            return Ok(());
        }
        let mut headers = HeaderMap::new();
        headers.insert("Chat-Seq", event.seq.to_string());
        headers.insert("Chat-Prev", event.prev.to_string());
        let subject = self.log.subjects.fan(&self.term, &event.tenant, &event.room);
        let put = self.rooms.put(subject, headers, line.bytes.clone(), event.seq);
        put.await.map_err(failed)
    }

    /// Hears what ROOMS says, between events.
    pub(crate) async fn look(&mut self) -> Result<(), RenewError> {
        match tokio::time::timeout(LOOK, self.rooms.watch()).await {
            Ok(Err(error)) => Err(failed(error)),
            Ok(Ok(never)) => match never {},
            Err(_) => Ok(()),
        }
    }

    /// Notes where a room stands, also where its last events are not kept any more.
    pub(crate) fn room(&mut self, tenant: &Id, room: &Id, (seq, n): (Seq, u64)) {
        self.state.put_head(tenant, room, Head { seq, n });
    }

    /// Puts the state away as the checkpoint behind frame `end`, which the log's first frame follows.
    pub(crate) async fn finish(mut self, end: u64, maker: &str) -> Result<(), RenewError> {
        self.rooms.end().await.map_err(failed)?;
        self.state.pass_frame(end);
        let checkpoints = Checkpoints::open(&self.client, &self.log, self.replicas);
        let checkpoints = checkpoints.await.map_err(failed)?;
        found::put(&checkpoints, self.state, maker).await.map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> RenewError {
    RenewError(error.to_string())
}
