//! Who asks, and the place that they take for as long as it lasts.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use natterjack_nats_config::contract::{Problem, ProblemCode};

use super::Front;
use super::places::Place;
use super::serve::Stay;

/// The body of an answer, and the place of whom it is for.
struct Seated {
    body: Body,
    _place: Arc<Place>,
}

impl Front {
    /// The address of who asks. If a proxy of ours asks for them, they take a place of their own, which what the connection
    /// becomes keeps; the proxy's connection has one already.
    pub(super) fn seat(&self, request: &mut Request) -> (Option<IpAddr>, Result<Option<Arc<Place>>, Problem>) {
        let Some(stay) = request.extensions().get::<Stay>() else {
            return (None, Ok(None));
        };
        let peer = stay.peer();
        let client = self.proxies.client(peer, request.headers());
        if client == peer.to_canonical() {
            return (Some(client), Ok(None));
        }
        let Ok(place) = self.places.behind_proxy(client).map(Arc::new) else {
            self.metrics.address_turned_away.inc();
            let detail = "too many requests of your address are under way; come back in a few seconds";
            return (Some(client), Err(Problem::new(ProblemCode::Overloaded, detail)));
        };
        let stay = stay.clone().with(Arc::clone(&place));
        request.extensions_mut().insert(stay);
        (Some(client), Ok(Some(place)))
    }
}

/// Has a place taken until the whole answer has left.
pub(super) fn keep(response: Response, place: Option<Arc<Place>>) -> Response {
    match place {
        Some(place) => response.map(|body| Body::new(Seated { body, _place: place })),
        None => response,
    }
}

impl hyper::body::Body for Seated {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
