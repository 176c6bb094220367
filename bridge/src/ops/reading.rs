//! Reading by cursor, page after page: what every transport that tells events does.

use std::time::Duration;

use natterjack_authz::policy::readable;
use natterjack_nats_config::contract::{Actor, More, Principal, Problem, ProblemCode, Seq};
use tokio::time::Instant;

use super::Bridge;
use super::events::EventsPage;
use crate::feed::{CursorError, Filter, Heard, Page, PastError, Read, Reader, Woken};

/// How long a stream may be silent: a client then knows that it is still there, and proxies do not cut it.
const QUIET: Duration = Duration::from_secs(15);
/// What a stream takes at a time. While its reader does not read, that much of it is kept and no more.
const OF_STREAM: PageSize = PageSize {
    events: 100,
    bytes: 64 * 1024,
};
/// Waiting before what could not be read is tried again, where the problem does not say.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The most that is read at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageSize {
    /// In events.
    pub(crate) events: usize,
    /// In bytes of events; one event is always given.
    pub(crate) bytes: usize,
}

/// The session that reads, of those that have one: till when, and by which token.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) until: Instant,
    pub(crate) actor: Actor,
}

/// Where a reader stands, to read on from there.
pub(crate) struct Reading {
    reader: Reader,
    seq: Seq,
    heard: Heard,
}

/// What a stream has to tell next.
pub(crate) enum Step {
    /// Events, or what is not kept.
    Page(EventsPage),
    /// Nothing for a while; this cursor is where the reader stands.
    Quiet(String),
    /// Nothing can be read just now; it is tried again.
    Later(Problem),
    /// It is over, with or without a reason that the reader should know.
    End(Option<Problem>),
}

impl Reading {
    /// Begins behind a cursor (empty: now; `earliest`: the beginning). Who begins anew must be able to read every room
    /// that is named.
    pub(crate) fn begin(bridge: &Bridge, who: &Principal, rooms: Filter, cursor: &str) -> Result<Self, Problem> {
        let reader = Reader {
            who: who.clone(),
            filter: rooms,
        };
        let (seq, heard) = start(bridge, &reader, cursor)?;
        Ok(Self { reader, seq, heard })
    }

    /// Gives what follows: at once if there is something, else when there is, or nothing with an advanced cursor at the
    /// deadline. Nothing is told after the session's end or its token's revocation. Whoever drops this before it is done has lost nothing.
    pub(crate) async fn next(
        &mut self,
        bridge: &Bridge,
        size: PageSize,
        deadline: Instant,
        session: Option<&Session>,
    ) -> Result<EventsPage, Problem> {
        let until = session.map(|session| session.until);
        let deadline = until.map_or(deadline, |until| until.min(deadline));
        let mut page = Page::new(self.seq, size.events, size.bytes);
        page.heard = self.heard;
        let superseded = fill(bridge, (&self.reader, session), &mut page, deadline).await?;
        // Looked at after reading: what was read before the revocation was taken in is from before it.
        refuse_if_revoked(bridge, session)?;
        if superseded {
            bridge.metrics.superseded.inc();
        }
        if page.events.is_empty() && is_over(until) {
            return Err(expired());
        }
        let heard_before = self.heard;
        (self.seq, self.heard) = (page.seq, page.heard);
        Ok(EventsPage {
            cursor: self.cursor(bridge),
            events: page.events,
            told: page.told,
            more: page.more,
            superseded,
            heard_before,
        })
    }

    /// The next step of a stream.
    pub(crate) async fn step(&mut self, bridge: &Bridge, session: &Session) -> Step {
        let step = self.step_by(bridge, session, Instant::now() + QUIET).await;
        if let Step::Later(problem) = &step {
            let pause = problem.retry_after_ms.map_or(TRY_AGAIN, Duration::from_millis);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = bridge.draining.cancelled() => return Step::End(None),
            }
        }
        step
    }

    /// What a stream can tell at once.
    pub(crate) async fn look(&mut self, bridge: &Bridge, session: &Session) -> Step {
        self.step_by(bridge, session, Instant::now()).await
    }

    async fn step_by(&mut self, bridge: &Bridge, session: &Session, quiet: Instant) -> Step {
        if is_over(Some(session.until)) {
            return Step::End(Some(expired()));
        }
        match self.next(bridge, OF_STREAM, quiet, Some(session)).await {
            Ok(page) if page.superseded => Step::End(Some(superseded(bridge))),
            Ok(page) if !page.events.is_empty() || !page.told.is_empty() => Step::Page(page),
            Ok(_) if bridge.draining.is_cancelled() => Step::End(None),
            Ok(page) => Step::Quiet(page.cursor),
            Err(problem) if problem.retryable => Step::Later(problem),
            Err(problem) => Step::End(Some(problem)),
        }
    }

    /// The cursor of where the reader stands.
    pub(crate) fn cursor(&self, bridge: &Bridge) -> String {
        bridge.cursors.make(&self.reader, self.seq, self.heard)
    }

    /// The cursor just behind an event of a page that was read here.
    pub(crate) fn cursor_behind(&self, bridge: &Bridge, page: &EventsPage, seq: Seq) -> String {
        bridge.cursors.make(&self.reader, seq, page.heard_before)
    }
}

fn start(bridge: &Bridge, reader: &Reader, cursor: &str) -> Result<(Seq, Heard), Problem> {
    let seq = match cursor {
        "" => bridge.feed.passed(),
        "earliest" if reader.filter.is_everything() => {
            return Err(Problem::invalid(
                "`cursor=earliest` needs `rooms`: name the rooms to read from their beginning",
            ));
        }
        "earliest" => Seq::ZERO,
        cursor => return bridge.look(|_| bridge.cursors.parse(cursor, reader).map_err(cursor_problem)),
    };
    bridge.look(|view| {
        if reader
            .filter
            .rooms()
            .all(|room| readable(view, &reader.who, room).is_some())
        {
            Ok((seq, bridge.feed.heard()))
        } else {
            Err(Problem::no_such_room())
        }
    })
}

/// Fills the page, waiting while there is nothing. `true`: the poll was superseded.
async fn fill(
    bridge: &Bridge,
    (reader, session): (&Reader, Option<&Session>),
    page: &mut Page,
    deadline: Instant,
) -> Result<bool, Problem> {
    let feed = &bridge.feed;
    if page.seq > feed.passed() {
        tokio::select! {
            reached = feed.wait_passed(page.seq, deadline) => if !reached { return Ok(false) },
            () = bridge.draining.cancelled() => return Ok(false),
        }
    }
    read(bridge, reader, page).await?;
    loop {
        if page.is_worth_an_answer() {
            return Ok(false);
        }
        refuse_if_revoked(bridge, session)?;
        refuse_if_nothing_is_readable(bridge, reader)?;
        if Instant::now() >= deadline || bridge.draining.is_cancelled() {
            return Ok(false);
        }
        let parked = feed.park(reader);
        // What came before it was parked wakes nobody.
        read(bridge, reader, page).await?;
        if page.is_worth_an_answer() {
            return Ok(false);
        }
        tokio::select! {
            woken = parked.woken() => if woken == Woken::Superseded { return Ok(true) },
            () = tokio::time::sleep_until(deadline) => {}
            () = bridge.draining.cancelled() => {}
        }
        read(bridge, reader, page).await?;
    }
}

/// Reads from memory, and before that from the log if the reader is further behind.
async fn read(bridge: &Bridge, reader: &Reader, page: &mut Page) -> Result<(), Problem> {
    while bridge.feed.read(reader, page).await == Read::Older {
        // Boxed: it is large, and polls are not parked here.
        Box::pin(bridge.past.read(&bridge.feed, reader, page))
            .await
            .map_err(|error| past_problem(bridge, reader, error))?;
        if page.more {
            break;
        }
    }
    bridge.feed.hear(reader, page);
    Ok(())
}

/// A cursor lives on while any of its rooms is readable; with none left, and nothing more to tell, waiting is in vain.
fn refuse_if_nothing_is_readable(bridge: &Bridge, reader: &Reader) -> Result<(), Problem> {
    let is_readable = |view: &_| {
        reader
            .filter
            .rooms()
            .any(|room| readable(view, &reader.who, room).is_some())
    };
    if reader.filter.is_everything() || bridge.feed.with_view(is_readable) {
        return Ok(());
    }
    Err(Problem::no_such_room())
}

fn refuse_if_revoked(bridge: &Bridge, session: Option<&Session>) -> Result<(), Problem> {
    session.map_or(Ok(()), |session| bridge.admit(&session.actor))
}

fn is_over(until: Option<Instant>) -> bool {
    until.is_some_and(|until| until <= Instant::now())
}

fn expired() -> Problem {
    Problem::new(ProblemCode::TokenExpired, "the token has expired; get a new one")
}

fn superseded(bridge: &Bridge) -> Problem {
    let detail = format!(
        "a younger poll or stream of yours took this one's place: one user may have {} at a bridge",
        bridge.feed.polls_per_principal()
    );
    Problem::rate_limited("polls and streams per principal", &detail, 1000)
}

pub(super) fn cursor_problem(error: CursorError) -> Problem {
    let (code, way_out) = match error {
        CursorError::NotOurs | CursorError::OtherReader => {
            (ProblemCode::InvalidCursor, "leave `cursor` out to start from now")
        }
        CursorError::OtherFilter => (
            ProblemCode::CursorFilterMismatch,
            "use the `rooms` it was made for, or start without a cursor",
        ),
        CursorError::OtherEpoch => (
            ProblemCode::EpochChanged,
            "take a fresh picture from the history, then start without a cursor",
        ),
    };
    Problem::new(code, format!("the `cursor` cannot be used: {error}; {way_out}"))
}

fn past_problem(bridge: &Bridge, reader: &Reader, error: PastError) -> Problem {
    match error {
        PastError::Lagging => Problem::new(
            ProblemCode::StoreLagging,
            format!("{error}; try again with the same cursor"),
        ),
        PastError::Expired { earliest } => {
            let detail = format!(
                "{error}; go on with `earliest_cursor`, and know that events before it are missing. The history may have \
                 messages of that time"
            );
            let mut problem = Problem::new(ProblemCode::CursorExpired, detail);
            let earliest_cursor = bridge.cursors.make(reader, earliest, Heard::default());
            problem.more = Some(Box::new(More { earliest_cursor }));
            problem
        }
        PastError::Damaged(error) => {
            tracing::error!(%error, "the archive's answer cannot be read; do bridge and store have the same version?");
            Problem::new(ProblemCode::StoreLagging, "the archive's answer cannot be read")
        }
        PastError::Busy => Problem::new(
            ProblemCode::Overloaded,
            format!("{error}; try again with the same cursor"),
        ),
        PastError::Silent => Problem::new(
            ProblemCode::BrokerUnavailable,
            format!("{error}; try again with the same cursor"),
        ),
        PastError::Tail(error) => {
            tracing::error!(%error, "a reader who is far behind cannot be served");
            Problem::new(ProblemCode::Internal, "the log cannot be read where this cursor stands")
        }
    }
}
