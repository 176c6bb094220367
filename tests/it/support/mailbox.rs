use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::DEADLINE;

/// What arrived somewhere, in order, with a way to wait for it.
#[derive(Debug)]
pub(crate) struct Mailbox<T>(Arc<watch::Sender<Vec<T>>>);

/// A message as a client got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// The subject or topic; empty for what came by HTTP.
    pub(crate) subject: String,
    /// NATS headers, names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// The exact bytes.
    pub(crate) payload: Bytes,
}

impl<T: Clone + Debug> Mailbox<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Vec::new())))
    }

    pub(crate) fn put(&self, item: T) {
        self.0.send_modify(|items| items.push(item));
    }

    pub(crate) fn all(&self) -> Vec<T> {
        self.0.borrow().clone()
    }

    /// What came after the first so many.
    pub(crate) fn after(&self, count: usize) -> Vec<T> {
        self.0.borrow().get(count..).unwrap_or_default().to_vec()
    }

    /// Waits until the items show what is looked for; fails with the items if they do not in time.
    pub(crate) async fn wait<R>(&self, what: &str, look: impl Fn(&[T]) -> Option<R>) -> R {
        let mut found = None;
        let mut items = self.0.subscribe();
        let looking = items.wait_for(|items| {
            found = look(items);
            found.is_some()
        });
        let _ = tokio::time::timeout(DEADLINE, looking).await;
        found.unwrap_or_else(|| panic!("not within {DEADLINE:?}: {what}; there is {:#?}", self.all()))
    }
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl Delivery {
    pub(crate) fn new(subject: &str, payload: impl Into<Bytes>) -> Self {
        Self {
            subject: subject.to_owned(),
            headers: BTreeMap::new(),
            payload: payload.into(),
        }
    }
}
