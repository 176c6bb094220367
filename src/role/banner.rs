//! What `up` says once everything is ready.

use std::time::Duration;

use natterjack_authz::token::Issuer;
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::Principal;

use crate::config::{Config, Endpoints};
use crate::process::say;

/// How long the printed token is good for.
const TOKEN_TTL: Duration = Duration::from_hours(12);

/// Prints where things listen, a token, and lines to copy that work as they are.
pub(crate) fn print(config: &Config, issuer: &Issuer, endpoints: &Endpoints) -> anyhow::Result<()> {
    let admin = Principal {
        tenant: config.tenant.clone(),
        user: config.admin.clone(),
    };
    let token = issuer.issue(&admin, TOKEN_TTL, clock::now_ms())?;
    let Endpoints { http, ws, mqtt, .. } = endpoints;
    let nats = match endpoints.nats_urls.as_slice() {
        [] | [_] => endpoints.nats.clone(),
        all => format!("{}   (a cluster of {})", all.join(","), all.len()),
    };
    let (tenant, user, data) = (&config.tenant, &config.admin, config.data.display());
    say(format_args!(
        r#"Natterjack is ready.

  HTTP       {http}
  NATS       {nats}
  WebSocket  {ws}
  MQTT       {mqtt}
  data       {data}

A token for {user} of tenant {tenant}, good for 12 hours:

  TOKEN={token}

Try it: make a room, send, read.

  curl -sX PUT {http}/v1/rooms/lobby -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{{"title":"Lobby"}}'
  curl -sX POST {http}/v1/rooms/lobby/messages -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{{"body":{{"text":"hello"}}}}'
  curl -s '{http}/v1/events?cursor=earliest&rooms=lobby' -H "Authorization: Bearer $TOKEN"

More tokens: natterjack token --user alice --data {data}
Follow:      natterjack tail --data {data}        Stop: Ctrl-C"#
    ))
}
