//! Tickets: for clients that cannot set headers (`EventSource`, a browser's `WebSocket`). A ticket is good for half a minute
//! and for one use; it says who it is of, under a MAC, so nothing is kept until it is used.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{self, kv, stream::StorageType};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use natterjack_nats_config::contract::{Actor, By, Id, Principal, Problem, ProblemCode, Subjects, TokenRef};
use natterjack_nats_config::stream::is_not_found;
use sha2::Sha256;
use tokio::time::timeout;
use uuid::Uuid;

use super::auth::Caller;

/// How long a ticket is good: for the request that follows at once.
pub(crate) const GOOD_FOR: Duration = Duration::from_secs(30);
/// How long it is remembered that a ticket was used: longer than it is good, whatever the clocks of two bridges say.
const REMEMBERED_FOR: Duration = Duration::from_mins(5);
/// The most that used tickets may take: a hundred thousand of them, 300 a second.
const MAX_BYTES: i64 = 32 << 20;
/// How long noting that one was used may take.
const NOTED_WITHIN: Duration = Duration::from_secs(5);
const VERSION: u8 = 2;
/// Apart from the MACs of cursors, which the same key makes.
const PURPOSE: &[u8] = b"natterjack ticket";
/// Version, good until, session's end, the token's `iat`, number.
const FIELDS: usize = 1 + 8 + 8 + 8 + 16;
/// HMAC-SHA256, truncated as RFC 2104 allows: half of it.
const MAC: usize = 16;

/// Gives tickets, and takes each once, whichever bridge gave it.
pub(crate) struct Tickets {
    mac: Hmac<Sha256>,
    client: Client,
    bucket: String,
    replicas: usize,
}

/// What a ticket says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ticket {
    good_until_ms: i64,
    caller: Caller,
    number: Uuid,
}

/// Why a ticket is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    NotOurs,
    TooOld,
}

impl Tickets {
    pub(crate) fn new(key: &[u8; 32], client: Client, subjects: &Subjects, replicas: usize) -> Self {
        Self {
            mac: mac(key),
            client,
            bucket: subjects.ticket_bucket(),
            replicas,
        }
    }

    /// A ticket for somebody who has shown a token.
    pub(crate) fn give(&self, caller: &Caller, now_ms: i64) -> String {
        let good_for = i64::try_from(GOOD_FOR.as_millis()).unwrap_or_default();
        let ticket = Ticket {
            good_until_ms: now_ms + good_for,
            caller: caller.clone(),
            number: Uuid::now_v7(),
        };
        ticket.encode(&self.mac)
    }

    /// Uses a ticket up, if whoever it is of is admitted: whose it is. Who is not keeps the ticket.
    ///
    /// # Errors
    /// `token-invalid` if it is none of ours or was used before, `token-expired`, `broker-unavailable`, or why it is not admitted.
    pub(crate) async fn take(
        &self,
        text: &str,
        now_ms: i64,
        admit: impl FnOnce(&Actor) -> Result<(), Problem>,
    ) -> Result<Caller, Problem> {
        let ticket = Ticket::read(text, &self.mac)
            .and_then(|ticket| ticket.at(now_ms))
            .map_err(problem)?;
        admit(&ticket.caller.who)?;
        match timeout(NOTED_WITHIN, self.note(ticket.number)).await {
            Ok(Ok(true)) => Ok(ticket.caller),
            Ok(Ok(false)) => Err(Problem::new(
                ProblemCode::TokenInvalid,
                "the ticket was used already; get another one for each connection from `POST /v1/tickets`",
            )),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a ticket cannot be used up");
                Err(unavailable())
            }
            Err(_) => Err(unavailable()),
        }
    }

    /// Notes that a ticket is used. `false`: it was already.
    async fn note(&self, number: Uuid) -> Result<bool, async_nats::Error> {
        let bucket = self.open().await?;
        match bucket.create(number.simple().to_string(), Bytes::new()).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == kv::CreateErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the bucket, making it when it is missing.
    async fn open(&self) -> Result<kv::Store, async_nats::Error> {
        let jetstream = jetstream::new(self.client.clone());
        match jetstream.get_stream(format!("KV_{}", self.bucket)).await {
            Ok(_) => return Ok(jetstream.get_key_value(&self.bucket).await?),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error.into()),
        }
        let config = kv::Config {
            bucket: self.bucket.clone(),
            description: "which tickets were used".to_owned(),
            history: 1,
            max_age: REMEMBERED_FOR,
            max_bytes: MAX_BYTES,
            // In memory it would forget with the server, and a ticket could be used again.
            storage: StorageType::File,
            num_replicas: self.replicas,
            ..kv::Config::default()
        };
        Ok(jetstream.create_key_value(config).await?)
    }
}

impl Ticket {
    fn encode(&self, mac: &Hmac<Sha256>) -> String {
        let who = &self.caller.who;
        let mut bytes = Vec::with_capacity(FIELDS + MAC + who.tenant.as_str().len() + who.user.as_str().len() + 1);
        bytes.push(VERSION);
        bytes.extend(self.good_until_ms.to_be_bytes());
        bytes.extend(self.caller.expires_at_ms.to_be_bytes());
        let token = match &who.by {
            By::Token(token) => token,
            By::Connection | By::Kept { .. } | By::House => &TokenRef {
                jti: None,
                issued_at_ms: 0,
            },
        };
        bytes.extend(token.issued_at_ms.to_be_bytes());
        bytes.extend(self.number.as_bytes());
        // No id holds a dot; the token's own may.
        bytes.extend(format!("{}.{}", who.tenant, who.user).bytes());
        bytes.extend(token.jti.iter().flat_map(|jti| format!(".{jti}").into_bytes()));
        let tag = mac.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend(tag.iter().take(MAC));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn read(text: &str, mac: &Hmac<Sha256>) -> Result<Self, Refused> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Refused::NotOurs)?;
        let (fields, tag) = bytes
            .len()
            .checked_sub(MAC)
            .and_then(|at| bytes.split_at_checked(at))
            .ok_or(Refused::NotOurs)?;
        mac.clone()
            .chain_update(fields)
            .verify_truncated_left(tag)
            .map_err(|_| Refused::NotOurs)?;
        Self::of_fields(fields).ok_or(Refused::NotOurs)
    }

    fn of_fields(fields: &[u8]) -> Option<Self> {
        let (version, rest) = fields.split_first()?;
        let (good_until, rest) = rest.split_first_chunk::<8>()?;
        let (expires_at, rest) = rest.split_first_chunk::<8>()?;
        let (issued_at, rest) = rest.split_first_chunk::<8>()?;
        let (number, name) = rest.split_first_chunk::<16>()?;
        let mut name = std::str::from_utf8(name).ok()?.splitn(3, '.');
        let (tenant, user, jti) = (name.next()?, name.next()?, name.next());
        let id = |text: &str| text.parse::<Id>().ok();
        (*version == VERSION).then_some(())?;
        Some(Self {
            good_until_ms: i64::from_be_bytes(*good_until),
            caller: Caller {
                who: Actor {
                    principal: Principal {
                        tenant: id(tenant)?,
                        user: id(user)?,
                    },
                    by: By::Token(TokenRef {
                        jti: jti.map(str::to_owned),
                        issued_at_ms: i64::from_be_bytes(*issued_at),
                    }),
                },
                expires_at_ms: i64::from_be_bytes(*expires_at),
            },
            number: Uuid::from_bytes(*number),
        })
    }

    fn at(self, now_ms: i64) -> Result<Self, Refused> {
        if self.good_until_ms <= now_ms || self.caller.expires_at_ms <= now_ms {
            return Err(Refused::TooOld);
        }
        Ok(self)
    }
}

fn mac(key: &[u8; 32]) -> Hmac<Sha256> {
    // HMAC fills a key up with zeros to the hash's block (RFC 2104), so this is the key itself.
    let mut block = [0; 64];
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    <Hmac<Sha256> as hmac::digest::KeyInit>::new(&block.into()).chain_update(PURPOSE)
}

fn problem(refused: Refused) -> Problem {
    match refused {
        Refused::NotOurs => Problem::new(
            ProblemCode::TokenInvalid,
            "the ticket was not made here, or was changed on its way; get one from `POST /v1/tickets`",
        ),
        Refused::TooOld => Problem::new(
            ProblemCode::TokenExpired,
            format!("a ticket is good for {} s; get another one", GOOD_FOR.as_secs()),
        ),
    }
}

fn unavailable() -> Problem {
    Problem::new(
        ProblemCode::BrokerUnavailable,
        "it cannot be noted now that this ticket is used; get another one and try again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            good_until_ms: 1000,
            caller: Caller {
                who: Actor {
                    principal: Principal {
                        tenant: "main".parse().unwrap(),
                        user: "alice".parse().unwrap(),
                    },
                    by: By::Token(TokenRef {
                        jti: Some("a.b".to_owned()),
                        issued_at_ms: 77,
                    }),
                },
                expires_at_ms: 5000,
            },
            number: Uuid::from_u128(7),
        }
    }

    #[test]
    fn a_ticket_comes_out_as_it_went_in_and_only_under_its_key() {
        let key = mac(&[7; 32]);
        let text = ticket().encode(&key);
        assert_eq!(Ticket::read(&text, &key), Ok(ticket()));
        assert_eq!(Ticket::read(&text, &mac(&[8; 32])), Err(Refused::NotOurs));
        for bad in ["", "AAAA", "!", &text[1..], &format!("{text}A"), &text[..20]] {
            assert_eq!(Ticket::read(bad, &key), Err(Refused::NotOurs), "{bad}");
        }
    }

    #[test]
    fn a_change_anywhere_is_refused() {
        let key = mac(&[7; 32]);
        let bytes = URL_SAFE_NO_PAD.decode(ticket().encode(&key)).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(
                Ticket::read(&URL_SAFE_NO_PAD.encode(changed), &key),
                Err(Refused::NotOurs),
                "{at}"
            );
        }
    }

    #[test]
    fn it_is_good_until_its_time_or_its_token_s() {
        let at = |now_ms| ticket().at(now_ms).map(|_| ());
        assert_eq!(at(999), Ok(()));
        assert_eq!(at(1000), Err(Refused::TooOld));
        let mut of_short_token = ticket();
        of_short_token.caller.expires_at_ms = 500;
        assert_eq!(of_short_token.at(600), Err(Refused::TooOld));
    }
}
