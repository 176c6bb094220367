use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinHandle;

use super::eventually;
use super::http::Http;
use super::mailbox::{Delivery, Mailbox};

/// A reader by long-poll: parks, takes what comes, parks again with the new cursor, until it is dropped.
pub(crate) struct Poll {
    pub(crate) mail: Mailbox<Delivery>,
    /// Cursors in the order they were given; the first is where it began.
    pub(crate) cursors: Mailbox<String>,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Poll {
    /// Starts reading all rooms of a user from now on.
    pub(crate) async fn from_now(http: &Http) -> Self {
        Self::from(http, &cursor_now(http).await)
    }

    /// Starts reading behind a cursor.
    pub(crate) fn from(http: &Http, cursor: &str) -> Self {
        let (mail, cursors) = (Mailbox::new(), Mailbox::new());
        let asked = Arc::new(AtomicUsize::new(0));
        cursors.put(cursor.to_owned());
        let (http, mut cursor) = (http.clone(), cursor.to_owned());
        let (to_mail, to_cursors, count) = (mail.clone(), cursors.clone(), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            loop {
                count.fetch_add(1, Ordering::SeqCst);
                let page = http.get(&format!("/v1/events?cursor={cursor}&wait=25")).await;
                for line in page.lines("events") {
                    to_mail.put(Delivery::new("", line));
                }
                page.ok()["cursor"].as_str().unwrap().clone_into(&mut cursor);
                to_cursors.put(cursor.clone());
            }
        });
        Self {
            mail,
            cursors,
            asked,
            task,
        }
    }

    /// Waits until it has asked once more after the last answer: it is parked, or about to be.
    pub(crate) async fn is_parked(&self) {
        eventually("a poll is parked", async || {
            (self.asked.load(Ordering::SeqCst) >= self.cursors.all().len()).then_some(())
        })
        .await;
    }
}

/// Reads everything that stands behind a cursor now: the exact lines, and the cursor behind them.
pub(crate) async fn read_all(http: &Http, cursor: &str) -> (Vec<String>, String) {
    let (mut lines, mut cursor) = (Vec::new(), cursor.to_owned());
    loop {
        let page = http.get(&format!("/v1/events?cursor={cursor}&wait=0&limit=1000")).await;
        let new = page.lines("events");
        page.ok()["cursor"].as_str().unwrap().clone_into(&mut cursor);
        if new.is_empty() && page.json()["more"] == false {
            return (lines, cursor);
        }
        lines.extend(new);
    }
}

/// A cursor that stands at now.
pub(crate) async fn cursor_now(http: &Http) -> String {
    http.get("/v1/events?wait=0").await.ok()["cursor"]
        .as_str()
        .unwrap()
        .to_owned()
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.task.abort();
    }
}
