//! What is erased, for the rooms that are filled again: the log has the words until it is trimmed, and the rooms were cleared
//! of them before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use natterjack_nats_config::contract::{Erased, Event, EventLine, Id, Kind};

/// What is erased in each tenant: what was when this worker began to lead, and what the fan-out has read of since.
#[derive(Debug, Default, Clone)]
pub(super) struct Erasures(Arc<Mutex<HashMap<Id, Erased>>>);

impl Erasures {
    pub(super) fn of(known: HashMap<Id, Erased>) -> Self {
        Self(Arc::new(Mutex::new(known)))
    }

    /// Takes in an event of the log.
    pub(super) fn take(&self, event: &Event) {
        if event.kind == Kind::Erase {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.entry(event.tenant.clone()).or_default().take(event);
        }
    }

    /// The bytes of an event without what is erased by now.
    pub(super) fn left(&self, line: &EventLine) -> Bytes {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = known
            .get(&line.event.tenant)
            .and_then(|erased| erased.redact(&line.bytes));
        left.map_or_else(|| line.bytes.clone(), Bytes::from)
    }
}
