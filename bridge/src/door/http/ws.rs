//! `GET /v1/ws`: a WebSocket (RFC 6455) over which one client sends, and hears events by cursor.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use axum::extract::{FromRequestParts, Request, State, WebSocketUpgrade};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt, StreamExt};
use natterjack_nats_config::contract::{Problem, ProblemCode};
use tokio::time::Instant;

use super::DoorState;
use super::answer::Answer;
use super::frame::{self, Ask, Asked};
use super::query::Fields;
use super::serve::Stay;
use crate::door::auth::Caller;
use crate::feed::Filter;
use crate::ops::{self, EventsPage, Reading, Sent, Session, Step};

/// After how long a client is asked whether it is still there.
const ASK_EVERY: Duration = Duration::from_secs(15);
/// A client of which nothing was heard for this long is gone: three such questions and their answers.
const GONE_AFTER: Duration = Duration::from_secs(50);
/// The sends of one client that wait for receipts at once; it is not read from while there are so many.
const IN_FLIGHT: usize = 64;
/// What is collected before it is written, in bytes. The default is 128 KiB for each connection.
const WRITE_BUFFER: usize = 8 * 1024;
/// What is read at a time, in bytes. The default is 128 KiB for each connection.
const READ_BUFFER: usize = 4 * 1024;
/// What a frame may hold beside a body: names, a key, a room.
const AROUND_BODY: usize = 1024;

/// A client and what is under way for it.
struct Talk {
    door: Arc<DoorState>,
    caller: Caller,
    session: Session,
    socket: WebSocket,
    answers: FuturesUnordered<BoxFuture<'static, Bytes>>,
    /// The next step of reading, which takes the place with it and brings it back.
    reading: BoxFuture<'static, (Reading, Step)>,
    /// The cursor that the client was told last.
    told: String,
    heard_at: Instant,
}

/// The client is gone, or was told to go.
struct Over;

/// How it goes on.
type GoesOn = Result<(), Over>;

/// `GET /v1/ws`
#[utoipa::path(
    get,
    path = "/v1/ws",
    tag = "reading",
    params(
        (
            "cursor" = Option<String>,
            Query,
            description = "Where the reader stands: empty for now, `earliest` with `rooms` for the beginning",
        ),
        (
            "rooms" = Option<String>,
            Query,
            description = "Ids with commas between them; all of the caller's by default",
        ),
        ("ticket" = Option<String>, Query, description = "Instead of the header, once"),
    ),
    responses((status = 101, description = "A WebSocket; docs/subjects.md has the frames")),
)]
pub(super) async fn talk(State(door): State<Arc<DoorState>>, stay: Extension<Stay>, request: Request) -> Answer {
    let mut fields = Fields::parse(
        request.uri().query().unwrap_or_default(),
        &["cursor", "rooms", "ticket"],
    )?;
    let (rooms, cursor) = (fields.rooms()?, fields.take("cursor").unwrap_or_default());
    let (mut parts, _) = request.into_parts();
    // Looked at first: a ticket is not used up by a request that is none.
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|error| Problem::invalid(format!("this path speaks WebSocket: {error}")))?;
    door.origins.check_socket(&parts.headers)?;
    let caller = door.caller(&parts.headers, fields.take("ticket")).await?;
    let largest = door.max_body_bytes + AROUND_BODY;
    let upgrade = upgrade
        .max_message_size(largest)
        .max_frame_size(largest)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER);
    let Extension(stay) = stay;
    Ok(upgrade.on_upgrade(move |socket| stay.during(begin(door, caller, (rooms, cursor), socket))))
}

/// What is wrong with the cursor is told in a frame: a browser shows nobody the answer to a handshake.
async fn begin(door: Arc<DoorState>, caller: Caller, (rooms, cursor): (Filter, String), mut socket: WebSocket) {
    let _counted = door.bridge.metrics.streaming("websocket");
    match Reading::begin(&door.bridge, &caller.who, rooms, &cursor) {
        Ok(reading) => {
            let session = caller.session();
            let told = reading.cursor(&door.bridge);
            let mut talk = Talk {
                reading: step(&door, reading, session.clone()),
                door,
                caller,
                session,
                socket,
                answers: FuturesUnordered::new(),
                told,
                heard_at: Instant::now(),
            };
            let first = frame::cursor(None, &talk.told);
            if talk.write(first).await.is_ok() {
                talk.go_on().await;
            }
        }
        Err(problem) => {
            let told = socket.send(Message::Text(text(frame::error(None, &problem)))).await;
            if told.is_ok() {
                close(&mut socket, Some(&problem)).await;
            }
        }
    }
}

fn step(door: &Arc<DoorState>, mut reading: Reading, session: Session) -> BoxFuture<'static, (Reading, Step)> {
    let door = Arc::clone(door);
    Box::pin(async move {
        let step = reading.step(&door.bridge, &session).await;
        (reading, step)
    })
}

impl Talk {
    async fn go_on(&mut self) {
        let mut ask = tokio::time::interval_at(Instant::now() + ASK_EVERY, ASK_EVERY);
        loop {
            let may_ask_more = self.answers.len() < IN_FLIGHT;
            let goes_on = tokio::select! {
                incoming = self.socket.recv(), if may_ask_more => self.take(incoming).await,
                Some(answer) = self.answers.next() => self.write(answer).await,
                (reading, step) = &mut self.reading => self.tell(reading, step).await,
                _ = ask.tick() => self.look_after().await,
            };
            if goes_on.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, incoming: Option<Result<Message, axum::Error>>) -> GoesOn {
        self.heard_at = Instant::now();
        match incoming {
            Some(Ok(Message::Text(text))) => self.answer(Asked::read(&text)).await,
            Some(Ok(Message::Binary(_))) => {
                let problem = Problem::invalid("a frame is JSON in a text message, not a binary one");
                self.write(frame::error(None, &problem)).await
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
            Some(Ok(Message::Close(_))) | None => Err(Over),
            Some(Err(error)) => {
                if let Some(problem) = broken(error) {
                    close(&mut self.socket, Some(&problem)).await;
                }
                Err(Over)
            }
        }
    }

    async fn answer(&mut self, Asked { reference, ask }: Asked) -> GoesOn {
        let reference = reference.as_deref();
        let begun = match ask {
            Ok(Ask::Ping) => return self.write(frame::pong(reference)).await,
            Ok(Ask::Subscribe { rooms, cursor }) => self.subscribe(rooms, &cursor).map(|()| None),
            Ok(Ask::Send { room, kind, payload }) => {
                ops::begin_send(&self.door.bridge, &self.caller.who, room, kind, payload).map(Some)
            }
            Ok(Ask::Tell { room, kind, payload }) => {
                ops::begin_tell(&self.door.bridge, &self.caller.who, room, kind, payload).map(Some)
            }
            Err(problem) => Err(problem),
        };
        match begun {
            Ok(Some(sent)) => {
                let answer = receipt(Arc::clone(&self.door), sent, reference.map(str::to_owned));
                self.answers.push(answer);
                Ok(())
            }
            Ok(None) => {
                let frame = frame::cursor(reference, &self.told);
                self.write(frame).await
            }
            Err(problem) => self.write(frame::error(reference, &problem)).await,
        }
    }

    fn subscribe(&mut self, rooms: Filter, cursor: &str) -> Result<(), Problem> {
        let reading = Reading::begin(&self.door.bridge, &self.caller.who, rooms, cursor)?;
        self.told = reading.cursor(&self.door.bridge);
        self.reading = step(&self.door, reading, self.session.clone());
        Ok(())
    }

    async fn tell(&mut self, reading: Reading, told: Step) -> GoesOn {
        match told {
            Step::Page(page) => self.tell_page(&reading, page).await?,
            Step::Quiet(cursor) if cursor != self.told => {
                self.write(frame::cursor(None, &cursor)).await?;
                self.told = cursor;
            }
            Step::Quiet(_) => {}
            Step::Later(problem) => self.write(frame::error(None, &problem)).await?,
            Step::End(problem) => {
                if let Some(problem) = &problem {
                    self.write(frame::error(None, problem)).await?;
                }
                close(&mut self.socket, problem.as_ref()).await;
                return Err(Over);
            }
        }
        self.reading = step(&self.door, reading, self.session.clone());
        Ok(())
    }

    /// What is not kept comes first: the last event's cursor is behind it.
    async fn tell_page(&mut self, reading: &Reading, page: EventsPage) -> GoesOn {
        for told in &page.told {
            self.feed(frame::ephemeral(told)).await?;
        }
        let last = page.events.len();
        for (index, (seq, event)) in page.events.iter().enumerate() {
            let frame = if index + 1 == last {
                frame::event(&page.cursor, event)
            } else {
                frame::event(&reading.cursor_behind(&self.door.bridge, &page, *seq), event)
            };
            self.feed(frame).await?;
        }
        if page.events.is_empty() {
            self.feed(frame::cursor(None, &page.cursor)).await?;
        }
        self.told = page.cursor;
        self.socket.flush().await.map_err(|error| over(&error))
    }

    async fn look_after(&mut self) -> GoesOn {
        if self.heard_at.elapsed() > GONE_AFTER && self.answers.len() < IN_FLIGHT {
            return Err(Over);
        }
        let ping = self.socket.send(Message::Ping(Bytes::new())).await;
        ping.map_err(|error| over(&error))
    }

    async fn feed(&mut self, frame: Bytes) -> GoesOn {
        let fed = self.socket.feed(Message::Text(text(frame))).await;
        fed.map_err(|error| over(&error))
    }

    async fn write(&mut self, frame: Bytes) -> GoesOn {
        self.feed(frame).await?;
        self.socket.flush().await.map_err(|error| over(&error))
    }
}

fn receipt(door: Arc<DoorState>, sent: Sent, reference: Option<String>) -> BoxFuture<'static, Bytes> {
    Box::pin(async move {
        match sent.receipt(&door.bridge).await {
            Ok(receipt) => frame::receipt(reference.as_deref(), &receipt),
            Err(problem) => frame::error(reference.as_deref(), &problem),
        }
    })
}

/// Frames are JSON and so UTF-8.
fn text(frame: Bytes) -> Utf8Bytes {
    Utf8Bytes::try_from(frame).unwrap_or_default()
}

/// What a client did wrong who is still there to hear it.
fn broken(error: axum::Error) -> Option<Problem> {
    tracing::debug!(%error, "a WebSocket broke");
    // It must be the version that axum has; a test sees it if not.
    let error = error.into_inner().downcast::<tungstenite::Error>().ok()?;
    match *error {
        tungstenite::Error::Capacity(_) => Some(Problem::new(ProblemCode::TooLarge, String::new())),
        tungstenite::Error::Utf8(_) => Some(Problem::invalid(String::new())),
        _ => None,
    }
}

fn over(error: &axum::Error) -> Over {
    tracing::debug!(%error, "a WebSocket's client is gone");
    Over
}

/// Says good-bye as far as the client listens; the code in the reason is what clients match.
async fn close(socket: &mut WebSocket, problem: Option<&Problem>) {
    let (code, reason) = match problem.map(|problem| problem.code) {
        None => (close_code::AWAY, "the bridge stops; come back with the last cursor"),
        Some(ProblemCode::TooLarge) => (close_code::SIZE, ProblemCode::TooLarge.as_str()),
        Some(code) => (close_code::POLICY, code.as_str()),
    };
    let frame = CloseFrame {
        code,
        reason: Utf8Bytes::from_static(reason),
    };
    if let Err(error) = socket.send(Message::Close(Some(frame))).await {
        tracing::debug!(%error, "a WebSocket was not closed in words");
    }
}
