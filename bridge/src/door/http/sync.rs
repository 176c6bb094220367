//! What a client that starts needs, over HTTP.

use std::sync::Arc;

use axum::extract::{Request, State};
use http::StatusCode;

use super::answer::{Answer, json};
use super::params::Listed;
use super::query::Fields;
use super::{DoorState, openapi};
use crate::door::auth::Caller;
use crate::ops::{self, SyncAsk};

/// `GET /v1/sync`
#[utoipa::path(
    get,
    path = "/v1/sync",
    tag = "reading",
    params(Listed),
    responses((
        status = 200,
        description = "The rooms that the caller may read and where they stand, and the cursor to go on from",
        body = openapi::SyncPage,
    )),
)]
pub(super) async fn sync(State(door): State<Arc<DoorState>>, caller: Caller, request: Request) -> Answer {
    let mut fields = Fields::parse(request.uri().query().unwrap_or_default(), &["limit", "next"])?;
    let ask = SyncAsk {
        limit: fields.number("limit")?,
        next: fields.take("next"),
    };
    json(StatusCode::OK, &ops::sync(&door.bridge, &caller.who, ask).await?)
}
