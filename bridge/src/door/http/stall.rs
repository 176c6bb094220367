//! HTTP/2 streams whose client takes nothing: each is cut by itself, and the others on its connection go on.
//!
//! A client that does not read is cut by the socket's timeout (`serve.rs`). With HTTP/2 it may read on, answer pings, and
//! leave the window of a stream shut (RFC 9113 §5.2; CVE-2019-9517). hyper then waits without asking for more of the
//! body, so the time since the body gave something is looked at from beside it, in the task that hyper has for each stream.
//! Dropping what hyper does there resets the stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::rt::Executor;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

/// What is given to HTTP/2 at a time, in bytes: as much as one of its frames holds by default (RFC 9113 §4.2). A client that
/// takes in so much within the limit is slow, and not cut.
const SLICE: usize = 16 * 1024;

tokio::task_local! {
    /// The stream whose request is being answered; with HTTP/1 there is none.
    static STREAM: Arc<Stream>;
}

/// Runs HTTP/2 streams, and cuts those whose client takes nothing.
#[derive(Clone)]
pub(super) struct Streams {
    within: Duration,
    cut: Counter,
}

/// Since when a stream's client has had something to take; `None` while it is our turn.
#[derive(Default)]
struct Stream {
    offered: Mutex<Option<Instant>>,
}

/// An answer's body, in slices, and when the last was given.
struct Sliced {
    body: Body,
    rest: Bytes,
    stream: Arc<Stream>,
}

impl Streams {
    /// `within` is how long a client may take nothing; `cut` counts those that were cut.
    pub(super) fn new(within: Duration, cut: Counter) -> Self {
        Self { within, cut }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, work: F) {
        let Self { within, cut } = self.clone();
        let stream = Arc::new(Stream::default());
        let watched = Arc::clone(&stream);
        tokio::spawn(STREAM.scope(stream, async move {
            tokio::select! {
                _ = work => {}
                () = watched.stalled(within) => {
                    cut.inc();
                    tracing::debug!("an HTTP/2 stream was cut: its client took nothing");
                }
            }
        }));
    }
}

/// Watches an answer's body, if it goes to an HTTP/2 stream.
pub(super) fn watched(response: Response) -> Response {
    let Ok(stream) = STREAM.try_with(Arc::clone) else {
        return response;
    };
    response.map(|body| {
        Body::new(Sliced {
            body,
            rest: Bytes::new(),
            stream,
        })
    })
}

impl Stream {
    /// Returns when the client has taken nothing for so long.
    async fn stalled(&self, within: Duration) {
        let mut look_at = Instant::now() + within;
        loop {
            tokio::time::sleep_until(look_at).await;
            let now = Instant::now();
            match *self.offered.lock() {
                Some(since) if now >= since + within => return,
                Some(since) => look_at = since + within,
                None => look_at = now + within,
            }
        }
    }
}

impl Sliced {
    /// Part of what there is. The last byte comes alone: hyper asks for it only when the client's window has room for
    /// everything before it and for itself, so that nothing is left waiting when hyper's task for the stream is over.
    fn slice(&mut self) -> Bytes {
        let most = if self.rest.len() > 1 && self.body_is_over() {
            self.rest.len() - 1
        } else {
            self.rest.len()
        };
        self.rest.split_to(most.min(SLICE))
    }

    fn body_is_over(&self) -> bool {
        hyper::body::Body::is_end_stream(&self.body)
    }
}

impl hyper::body::Body for Sliced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let next = if self.rest.is_empty() {
            Pin::new(&mut self.body).poll_frame(context)
        } else {
            Poll::Ready(Some(Ok(Frame::data(Bytes::new()))))
        };
        *self.stream.offered.lock() = next.is_ready().then(Instant::now);
        next.map(|frame| {
            let frame = frame?.map(|frame| match frame.into_data() {
                Ok(data) => {
                    if self.rest.is_empty() {
                        self.rest = data;
                    }
                    Frame::data(self.slice())
                }
                Err(trailers) => trailers,
            });
            Some(frame)
        })
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body_is_over()
    }

    fn size_hint(&self) -> SizeHint {
        let (left, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(left.lower() + rest);
        if let Some(upper) = left.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper::body::Body as _;

    use super::*;

    fn sliced(body: Body) -> Sliced {
        Sliced {
            body,
            rest: Bytes::new(),
            stream: Arc::default(),
        }
    }

    #[tokio::test]
    async fn a_body_comes_whole_in_slices_and_its_last_byte_alone() {
        for size in [0, 1, 2, SLICE, SLICE + 1, SLICE + 2, 5 * SLICE + 7] {
            let whole: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let mut body = sliced(Body::from(whole.clone()));
            assert_eq!(body.size_hint().exact(), Some(size as u64));
            let mut slices = Vec::new();
            while !body.is_end_stream() {
                slices.push(body.frame().await.unwrap().unwrap().into_data().unwrap());
                let given: usize = slices.iter().map(Bytes::len).sum();
                assert_eq!(body.size_hint().exact(), Some((size - given) as u64));
            }
            assert_eq!(slices.concat(), whole);
            assert!(slices.iter().all(|slice| (1..=SLICE).contains(&slice.len())));
            assert_eq!(slices.last().map(Bytes::len), (size > 0).then_some(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_offered_and_not_taken_is_stalled() {
        let within = Duration::from_secs(30);
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, axum::Error>>(1);
        let chunks = futures_util::stream::unfold(receiver, |mut receiver| async move {
            Some((receiver.recv().await?, receiver))
        });
        let mut body = sliced(Body::from_stream(chunks));
        let stream = Arc::clone(&body.stream);
        let is_stalled = async |secs| {
            let stalled = stream.stalled(within);
            tokio::time::timeout(Duration::from_secs(secs), stalled).await.is_ok()
        };
        // Nothing is there to be told.
        assert!(
            tokio::time::timeout(Duration::from_secs(100), body.frame())
                .await
                .is_err()
        );
        assert!(!is_stalled(100).await);
        // A chunk is given, and no more is asked for.
        sender.send(Ok(Bytes::from_static(b"chunk"))).await.unwrap();
        assert!(body.frame().await.is_some());
        assert!(!is_stalled(29).await);
        assert!(is_stalled(31).await);
        // It is asked for more: the client took it.
        assert!(
            tokio::time::timeout(Duration::from_secs(1), body.frame())
                .await
                .is_err()
        );
        assert!(!is_stalled(100).await);
    }
}
