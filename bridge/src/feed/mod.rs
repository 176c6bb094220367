//! What the log says: one tail folds every event into the policy view and a ring of recent events, and wakes whom an
//! event concerns. What is told and not kept is heard beside it. [`ring`], [`index`], [`page`], [`filter`], [`told`] and
//! [`cursor`] are pure.

mod archived;
mod cursor;
mod filter;
mod follow;
mod index;
mod listen;
mod page;
mod past;
mod ring;
#[cfg(test)]
mod testing;
mod told;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use natterjack_authz::policy::{View, readable};
use natterjack_nats_config::contract::{Event, EventLine, Id, Kind, Seq};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub(crate) use cursor::{CursorError, Cursors};
pub(crate) use filter::{Filter, Reader};
pub(crate) use follow::follow;
use index::Index;
pub(crate) use listen::listen;
pub(crate) use page::Page;
pub(crate) use past::{Past, PastError};
use ring::{Entry, Ring};
pub(crate) use told::Heard;
use told::ToldLately;

use crate::config::Caps;
use crate::metrics::Metrics;

/// Events looked at before the lock is given up for a moment.
const SCAN: usize = 4096;

/// What the log says, as far as this bridge has read it.
pub(crate) struct Feed {
    // Where both are held, the index is taken first.
    index: Mutex<Index<Arc<Waiter>>>,
    state: RwLock<State>,
    told: Mutex<ToldLately>,
    passed: watch::Sender<Seq>,
    caught_up: watch::Sender<bool>,
    polls_per_principal: usize,
    metrics: Arc<Metrics>,
}

/// A poll's place in the index; dropping it takes the poll out.
pub(crate) struct Parked {
    feed: Arc<Feed>,
    number: u64,
    waiter: Arc<Waiter>,
}

/// Why a parked poll was woken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Something concerns it.
    News,
    /// A younger poll of the same principal took its place.
    Superseded,
}

/// How far reading the recent events came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// To the end, or until the page was full.
    Done,
    /// Not at all: some events after the page's place are only in the log.
    Older,
}

struct State {
    view: View,
    ring: Ring,
    /// Everything from the ring's floor up to here was taken in; the view may be further, by a checkpoint.
    taken_in: Seq,
}

#[derive(Default)]
struct Waiter {
    notify: Notify,
    superseded: AtomicBool,
}

impl Feed {
    pub(crate) fn new(caps: &Caps, metrics: Arc<Metrics>) -> Self {
        Self {
            index: Mutex::default(),
            state: RwLock::new(State {
                view: View::default(),
                ring: Ring::new(caps.ring_bytes, caps.ring_events),
                taken_in: Seq::ZERO,
            }),
            told: Mutex::new(ToldLately::new(random())),
            passed: watch::Sender::new(Seq::ZERO),
            caught_up: watch::Sender::new(false),
            polls_per_principal: caps.polls_per_principal.max(1),
            metrics,
        }
    }

    /// Begins with what a checkpoint says. What is taken in next follows `floor`, which may be before the checkpoint.
    fn begin_at(&self, view: View, floor: Seq) {
        let seq = view.seq();
        {
            let mut state = self.state.write();
            state.view = view;
            state.ring.begin_at(floor);
            state.taken_in = floor;
        }
        self.tell_passed(seq);
    }

    fn tell_passed(&self, seq: Seq) {
        self.passed
            .send_if_modified(|passed| std::mem::replace(passed, seq.max(*passed)) < seq);
    }

    /// Takes in the log's next frame and wakes whom it concerns.
    fn take_in(&self, stream_seq: u64, lines: &[EventLine]) {
        let end = Seq::end_of_frame(stream_seq);
        let entries: Vec<_> = lines.iter().map(Entry::of).collect();
        let bytes = entries.iter().map(|entry| entry.bytes.len()).sum();
        self.metrics.frame(stream_seq, entries.len(), bytes);
        {
            // Under both locks: a poll that parks meanwhile sees the frame, or is in the index when it is looked up.
            let index = self.index.lock();
            let mut state = self.state.write();
            for line in lines {
                state.view.apply(&line.event);
            }
            state.view.pass(end);
            state.taken_in = end;
            index.concerned(entries.iter().map(|entry| &entry.head), |waiter| {
                waiter.notify.notify_one();
            });
            for line in lines.iter().filter(|line| concerns_everybody(&line.event)) {
                index.everybody_of(&line.event.tenant, |waiter| waiter.notify.notify_one());
            }
            for entry in entries {
                state.ring.push(entry);
            }
        }
        self.tell_passed(end);
    }

    /// How many polls and streams are parked.
    pub(crate) fn parked(&self) -> usize {
        self.index.lock().parked()
    }

    /// The events in memory, and what they take in bytes.
    pub(crate) fn ring_size(&self) -> (usize, usize) {
        self.state.read().ring.size()
    }

    /// How many parked polls a principal may have.
    pub(crate) fn polls_per_principal(&self) -> usize {
        self.polls_per_principal
    }

    /// The sequence up to which the log has been read.
    pub(crate) fn passed(&self) -> Seq {
        *self.passed.borrow()
    }

    /// Waits until the log has been read up to `seq`; `false` if that did not happen by the deadline.
    pub(crate) async fn wait_passed(&self, seq: Seq, deadline: Instant) -> bool {
        let mut passed = self.passed.subscribe();
        let reached = passed.wait_for(|passed| *passed >= seq);
        matches!(tokio::time::timeout_at(deadline, reached).await, Ok(Ok(_)))
    }

    /// Waits until something is so after what was read from the log.
    pub(crate) async fn wait_until(&self, is_so: impl Fn() -> bool) {
        let mut passed = self.passed.subscribe();
        let _ = passed.wait_for(|_| is_so()).await;
    }

    /// Whether everything that stood in the log when this bridge started has been read. Before that, rights that were
    /// taken away long ago could still seem to be there.
    pub(crate) fn is_caught_up(&self) -> bool {
        *self.caught_up.borrow()
    }

    /// Looks at the policy as it is now.
    pub(crate) fn with_view<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.state.read().view)
    }

    /// Takes in what was told to a room and is not kept, and wakes who listens there.
    fn tell(&self, tenant: Id, room: Id, bytes: Bytes) {
        // As with frames: a poll that parks meanwhile hears it, or is in the index when it is looked up.
        let index = self.index.lock();
        let place = (tenant.clone(), room.clone());
        self.told.lock().push(tenant, room, bytes, Instant::now());
        index.listening(&place, |waiter| waiter.notify.notify_one());
    }

    /// Where a reader stands who has heard all that is not kept.
    pub(crate) fn heard(&self) -> Heard {
        self.told.lock().end()
    }

    /// Adds to a page what its reader has not heard yet and may hear by the rights of now.
    pub(crate) fn hear(&self, reader: &Reader, page: &mut Page) {
        let state = self.state.read();
        let may_hear = |tenant: &Id, room: &Id| {
            *tenant == reader.who.tenant
                && reader.filter.admits(room)
                && readable(&state.view, &reader.who, room).is_some()
        };
        let (told, heard) = self.told.lock().after(page.heard, Instant::now(), may_hear);
        page.told.extend(told);
        page.heard = heard;
    }

    /// Every event after this place is in memory.
    pub(crate) fn floor(&self) -> Seq {
        self.state.read().ring.floor()
    }

    /// Fills a page from memory.
    pub(crate) async fn read(&self, reader: &Reader, page: &mut Page) -> Read {
        loop {
            {
                let state = self.state.read();
                let Some(lines) = state.ring.after(page.seq) else {
                    return Read::Older;
                };
                let mut looked_at = 0;
                for line in lines.take(SCAN) {
                    looked_at += 1;
                    if page.offer(&state.view, reader, line).is_break() {
                        return Read::Done;
                    }
                }
                if looked_at < SCAN {
                    page.pass(state.taken_in);
                    return Read::Done;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Parks a poll: from now on it is woken by what concerns it. What came before has to be read after this.
    pub(crate) fn park(self: &Arc<Self>, reader: &Reader) -> Parked {
        let waiter = Arc::new(Waiter::default());
        let mut index = self.index.lock();
        let rooms: Vec<Id> = if reader.filter.is_everything() {
            let state = self.state.read();
            state
                .view
                .rooms_of(&reader.who.tenant, &reader.who.user)
                .map(|(room, _)| room.clone())
                .collect()
        } else {
            reader.filter.rooms().cloned().collect()
        };
        let number = index.park(&reader.who, rooms, &waiter);
        if let Some(oldest) = index.oldest_beyond(&reader.who, self.polls_per_principal) {
            oldest.superseded.store(true, Ordering::Relaxed);
            oldest.notify.notify_one();
        }
        drop(index);
        Parked {
            feed: Arc::clone(self),
            number,
            waiter,
        }
    }
}

/// Whether it is about everybody's tokens, about a role that anybody may hold, or told to everybody: then every session of the
/// tenant has to be looked at.
fn concerns_everybody(event: &Event) -> bool {
    (matches!(event.kind, Kind::Token | Kind::Role) && event.concerns().is_none())
        || (event.kind == Kind::Erase && event.target.is_none())
}

/// A number by which bridges differ.
fn random() -> u32 {
    let [.., a, b, c, d] = *uuid::Uuid::now_v7().as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

impl Parked {
    /// Waits until something concerns this poll.
    pub(crate) async fn woken(&self) -> Woken {
        self.waiter.notify.notified().await;
        if self.waiter.superseded.load(Ordering::Relaxed) {
            Woken::Superseded
        } else {
            Woken::News
        }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.feed.index.lock().leave(self.number);
    }
}
