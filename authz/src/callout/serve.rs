use std::sync::Arc;

use async_nats::{Client, Message};
use futures_util::StreamExt;
use natterjack_nats_config::client::Seed;
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Principal, Subjects};
use natterjack_nats_config::tail::Log;
use nkeys::{KeyPair, XKey};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::claims::{Request, RequestClaims, Response, ResponseClaims, User, UserClaims};
use super::issued::{Connection, Issued};
use super::nkey_jwt::{self, JwtError};
use super::{Entry, Gate, Refusal, claimed, door, judge, token_of};
use crate::follow::Followed;
use crate::refused::{RefusedLogin, RefusedLogins};
use crate::token::{Session, Verifier, is_api_key, session_by_key};

const SUBJECT: &str = "$SYS.REQ.USER.AUTH";
const GROUP: &str = "natterjack-authz";
/// Callouts being answered at once: each takes some 100 µs of CPU, the server makes about 800 a second. Twice as many as may
/// wait for an issuer's keys.
const AT_ONCE: usize = 256;
/// All that a client hears.
const DENIED: &str = "not authorized: a valid token is needed";

/// What answering needs.
pub(crate) struct Callout {
    pub(crate) client: Client,
    /// Where what tokens claim is noted.
    pub(crate) core: (Client, Log),
    pub(crate) followed: Arc<Followed>,
    pub(crate) issued: Arc<Issued>,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) gate: Gate,
    pub(crate) refused: Arc<RefusedLogins>,
    pub(crate) subjects: Subjects,
    pub(crate) issuer: KeyPair,
    pub(crate) xkey: XKey,
    /// Whether this worker's registration is surely valid now.
    pub(crate) registered: Box<dyn Fn() -> bool + Send + Sync>,
}

/// A callout that cannot be answered.
#[derive(Debug, thiserror::Error)]
enum CalloutError {
    #[error("the request is not encrypted, or not to our key: {0}")]
    Sealed(String),
    #[error(transparent)]
    Jwt(#[from] JwtError),
}

/// Reads the issuer's and the curve's key.
pub(crate) fn keys(issuer: &Seed, xkey: &Seed) -> Result<(KeyPair, XKey), nkeys::error::Error> {
    Ok((KeyPair::from_seed(issuer.expose())?, XKey::from_seed(xkey.expose())?))
}

/// Answers callouts until it is told to stop. `ready` becomes true once the server knows that it may ask.
pub(crate) async fn serve(
    callout: Callout,
    ready: watch::Sender<bool>,
    shutdown: CancellationToken,
) -> Result<(), async_nats::SubscribeError> {
    let mut requests = callout.client.queue_subscribe(SUBJECT, GROUP.to_owned()).await?;
    if let Err(error) = callout.client.flush().await {
        tracing::warn!(%error, "the subscription to callouts is not confirmed yet");
    }
    ready.send_replace(true);
    let callout = Arc::new(callout);
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let message = tokio::select! {
            message = requests.next() => message,
            () = shutdown.cancelled() => None,
        };
        let (Some(message), Ok(slot)) = (message, slots.clone().acquire_owned().await) else {
            return Ok(());
        };
        let callout = callout.clone();
        tokio::spawn(async move {
            callout.answer(message).await;
            drop(slot);
        });
    }
}

impl Callout {
    async fn answer(&self, message: Message) {
        let Some(reply) = message.reply.clone() else { return };
        let answer = self.respond(&message).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a callout cannot be read, the connection is refused");
            Vec::new()
        });
        // Looked at again after the work: a worker that was paused in between must not let anybody in by an old view. (An
        // empty answer denies at once.)
        let answer = if (self.registered)() { answer } else { Vec::new() };
        if let Err(error) = self.client.publish(reply, answer.into()).await {
            tracing::warn!(%error, "a callout's answer was not sent");
        }
    }

    async fn respond(&self, message: &Message) -> Result<Vec<u8>, CalloutError> {
        let sealed = |error: &dyn std::fmt::Display| CalloutError::Sealed(error.to_string());
        let sender = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Server-Xkey"));
        let sender = sender.ok_or_else(|| sealed(&"no key of the server"))?;
        let sender = XKey::from_public_key(sender.as_str()).map_err(|error| sealed(&error))?;
        let opened = self
            .xkey
            .open(&message.payload, &sender)
            .map_err(|error| sealed(&error))?;
        let opened = String::from_utf8(opened).map_err(|error| sealed(&error))?;
        let claims: RequestClaims = nkey_jwt::decode(&opened)?;
        if claims.iss != claims.nats.server_id.id {
            return Err(sealed(&"signed by another server than the one that asks"));
        }
        let answer = self.claims(&claims.nats).await?;
        self.xkey
            .seal(answer.as_bytes(), &sender)
            .map_err(|error| sealed(&error))
    }

    async fn claims(&self, request: &Request) -> Result<String, JwtError> {
        let now_ms = clock::now_ms();
        let outcome = match self.decide(request, now_ms).await {
            Ok(entry) => Ok(self.user_jwt(request, entry, now_ms)?),
            Err(reason) => {
                self.note_refused(request, &reason);
                Err(DENIED)
            }
        };
        let claims = ResponseClaims {
            sub: request.user_nkey.clone(),
            aud: request.server_id.id.clone(),
            nats: Response::of(outcome),
        };
        nkey_jwt::encode(&claims, &self.issuer, now_ms / 1000)
    }

    async fn decide(&self, request: &Request, now_ms: i64) -> Result<Entry, Refusal> {
        let token = token_of(request)?;
        let verified = if is_api_key(token) {
            None
        } else {
            if !self.verifier.is_known(token) && !self.gate.may_try(&request.client_info.host) {
                return Err(Refusal::TooManyRefused);
            }
            Some(self.verifier.verify(token, now_ms).await?)
        };
        if let Some(session) = &verified {
            let core = (&self.core.0, &self.core.1);
            let noted = crate::claimed::note(core, &self.followed, session).await;
            noted.map_err(|problem| Refusal::Claims(problem.to_string()))?;
        }
        self.has_room(verified.as_ref(), token, now_ms).await?;
        if !(self.registered)() {
            return Err(Refusal::NotRegistered);
        }
        let view = self.followed.view();
        let session = verified.map_or_else(|| session_by_key(&view, token, now_ms), Ok)?;
        let entry = judge(request, session, &view, &self.subjects)?;
        let who = &entry.session.principal;
        let name = Subjects::principal_name(&who.tenant, &who.user);
        let connection = Connection {
            server: request.server_id.id.clone(),
            cid: request.client_info.id,
        };
        self.issued.note(name, connection, view.seq());
        Ok(entry)
    }

    /// Told where it is not one of very many from the same address.
    fn note_refused(&self, request: &Request, reason: &Refusal) {
        let client = &request.client_info;
        if reason.is_of_the_client() {
            let door = door(&client.kind);
            self.refused
                .note(RefusedLogin::new(claimed(request), &client.host, door, reason));
        }
        if self.gate.note_refused(&client.host) {
            tracing::info!(%reason, kind = client.kind, source = client.host, "a connection is refused");
        } else {
            tracing::debug!(%reason, kind = client.kind, source = client.host, "one more connection is refused");
        }
    }

    /// Whether the user may have one connection more.
    async fn has_room(&self, verified: Option<&Session>, token: &str, now_ms: i64) -> Result<(), Refusal> {
        let (name, role) = {
            let view = self.followed.view();
            let by_key = || session_by_key(&view, token, now_ms);
            let session = verified.cloned().map_or_else(by_key, Ok)?;
            let Principal { tenant, user } = &session.principal;
            let role = view.tenant_role(tenant, user).to_owned();
            (Subjects::principal_name(tenant, user), role)
        };
        self.gate.has_room(&name, &role).await
    }

    fn user_jwt(&self, request: &Request, entry: Entry, now_ms: i64) -> Result<String, JwtError> {
        let who = &entry.session.principal;
        if entry.permissions.rooms_left_out > 0 {
            tracing::info!(user = %who.user, rooms = entry.permissions.rooms_left_out, "rooms reached by events.get only");
        }
        let claims = UserClaims {
            sub: request.user_nkey.clone(),
            aud: entry.account,
            name: Subjects::principal_name(&who.tenant, &who.user),
            exp: entry.session.expires_at_ms / 1000,
            nats: User::of(entry.permissions.publish, entry.permissions.subscribe),
        };
        nkey_jwt::encode(&claims, &self.issuer, now_ms / 1000)
    }
}
