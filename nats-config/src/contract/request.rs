use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Id, Kind, Seq, TooDeep, body_from_bytes, check_depth, compact};

/// The longest idempotency key, in bytes.
pub const MAX_KEY_BYTES: usize = 128;

/// Who asks, as the door authenticated them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The tenant.
    pub tenant: Id,
    /// The user.
    pub user: Id,
}

/// The longest `jti` by which a token can be revoked alone, in bytes; longer ones are not remembered.
pub const MAX_TOKEN_ID_BYTES: usize = 128;

/// By what somebody asks, beside being who they are: whether that still counts is decided where the request stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// A connection to NATS, which does not say by which token it was opened.
    #[default]
    Connection,
    /// A connection, some time ago: the server kept what came over it (MQTT, `QoS` 1 and 2).
    Kept {
        /// When the server took it, by its clock, in milliseconds since 1970.
        taken_ms: i64,
    },
    /// A token.
    Token(TokenRef),
    /// Natterjack itself. Only a worker can say so.
    House,
}

/// A token, as far as its revocation needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRef {
    /// Its `jti`, unless that is longer than [`MAX_TOKEN_ID_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Its `iat`, in milliseconds since 1970.
    pub issued_at_ms: i64,
}

/// Who asks, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// Who.
    pub principal: Principal,
    /// By what.
    pub by: By,
}

/// What a client sends to a room: all but `body` is optional.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendPayload {
    /// Idempotency key: 1 to 128 bytes without control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The body, any JSON.
    pub body: Box<RawValue>,
    /// `id` of the message this one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// `id` of the message that this changes, for kinds that change one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Send only if this is still the room's last event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_last: Option<Seq>,
    /// Send in the name of another user of the tenant.
    #[serde(rename = "as", default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<Id>,
}

/// What a bridge found in the archive about a request's target, because the writer remembers only the latest messages.
///
/// None of it ever changes. The writer takes it from bridges only, never from a client's payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vouched {
    /// The message's place in the log.
    pub seq: Seq,
    /// Who wrote it.
    pub from: Id,
}

/// A request to append one event, as the writer decides it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who asks.
    pub principal: Principal,
    /// By what.
    pub by: By,
    /// Where.
    pub room: Id,
    /// What for.
    pub kind: Kind,
    /// With what.
    pub payload: SendPayload,
    /// What a bridge knows of the payload's target.
    pub vouched: Option<Vouched>,
}

impl std::ops::Deref for Actor {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        &self.principal
    }
}

/// A payload that cannot be a request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nothing was sent.
    #[error("the payload is empty; send text, or JSON such as {{\"body\":{{\"text\":\"hello\"}}}}")]
    Empty,
    /// The JSON has `body` but is wrong elsewhere.
    #[error("the request is not valid: {0}")]
    Json(#[from] serde_json::Error),
    /// Nested too deep.
    #[error(transparent)]
    TooDeep(#[from] TooDeep),
    /// The key is empty, too long or holds control characters.
    #[error("`key` must be 1 to {MAX_KEY_BYTES} bytes without control characters")]
    Key,
    /// `reply_to` is too long or holds control characters.
    #[error("`reply_to` must be the id of a message: 1 to {MAX_KEY_BYTES} bytes without control characters")]
    ReplyTo,
    /// `target` is too long or holds control characters.
    #[error("`target` must be the id of a message: 1 to {MAX_KEY_BYTES} bytes without control characters")]
    Target,
}

impl SendPayload {
    /// A payload with nothing but a body.
    #[must_use]
    pub fn of_body(body: Box<RawValue>) -> Self {
        Self {
            key: None,
            body,
            reply_to: None,
            target: None,
            if_last: None,
            on_behalf_of: None,
        }
    }

    /// Reads JSON that must be a request object with `body`.
    pub fn from_json(bytes: &[u8]) -> Result<Self, RequestError> {
        check_depth(bytes)?;
        serde_json::from_slice::<Self>(bytes)?.checked()
    }

    /// Reads what a native client or a device sends: a request object, or else the body itself
    /// (JSON object, text, or bytes).
    pub fn from_native(bytes: &[u8]) -> Result<Self, RequestError> {
        #[derive(Deserialize)]
        struct Probe<'a> {
            #[serde(borrow)]
            body: Option<&'a RawValue>,
        }
        if bytes.is_empty() {
            return Err(RequestError::Empty);
        }
        match serde_json::from_slice::<Probe<'_>>(bytes) {
            Ok(Probe { body: Some(_) }) => Self::from_json(bytes),
            Ok(Probe { body: None }) => {
                check_depth(bytes)?;
                Ok(Self::of_body(body_from_bytes(bytes)))
            }
            Err(_) => Ok(Self::of_body(body_from_bytes(bytes))),
        }
    }

    /// The same for a kind: what is told and not kept needs no body.
    pub fn from_native_of(kind: Kind, bytes: &[u8]) -> Result<Self, RequestError> {
        if bytes.is_empty() && kind.is_ephemeral() {
            return Self::from_json(br#"{"body":{}}"#);
        }
        if !kind.has_target() {
            return Self::from_native(bytes);
        }
        if kind.needs_no_body() {
            return Self::from_json_without_body(bytes);
        }
        Self::from_json(bytes)
    }

    /// Reads JSON that must be a request object; without `body` it is an empty object.
    fn from_json_without_body(bytes: &[u8]) -> Result<Self, RequestError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Bodiless {
            #[serde(default)]
            key: Option<String>,
            #[serde(default)]
            target: Option<String>,
            #[serde(default)]
            if_last: Option<Seq>,
            #[serde(default)]
            body: Option<Box<RawValue>>,
        }
        check_depth(bytes)?;
        let asked: Bodiless = serde_json::from_slice(bytes)?;
        let body = match asked.body {
            Some(body) => body,
            None => RawValue::from_string("{}".to_owned())?,
        };
        let payload = Self {
            key: asked.key,
            target: asked.target,
            if_last: asked.if_last,
            ..Self::of_body(body)
        };
        payload.checked()
    }

    /// What serde cannot tell: whether key and `reply_to` are plain. White space between the body's tokens goes.
    ///
    /// How deep the JSON is nested has to be looked at before it is parsed ([`check_depth`]).
    pub fn checked(mut self) -> Result<Self, RequestError> {
        self.body = compact(self.body);
        self.check()
    }

    fn check(self) -> Result<Self, RequestError> {
        if self.key.as_deref().is_some_and(|key| !is_plain(key)) {
            return Err(RequestError::Key);
        }
        if self.reply_to.as_deref().is_some_and(|id| !is_plain(id)) {
            return Err(RequestError::ReplyTo);
        }
        if self.target.as_deref().is_some_and(|id| !is_plain(id)) {
            return Err(RequestError::Target);
        }
        Ok(self)
    }

    /// The same payload with the key given elsewhere (a header, a path).
    pub fn with_key(mut self, key: String) -> Result<Self, RequestError> {
        self.key = Some(key);
        self.check()
    }
}

fn is_plain(text: &str) -> bool {
    (1..=MAX_KEY_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_native_payload_is_a_request_or_the_body_itself() {
        let body = |bytes: &[u8]| SendPayload::from_native(bytes).unwrap().body.get().to_owned();
        assert_eq!(body(br#"{"body":{"text":"hi"}}"#), r#"{"text":"hi"}"#);
        assert_eq!(body(br#"{"temp": 21}"#), r#"{"temp":21}"#);
        assert_eq!(body(b"21"), r#"{"text":"21"}"#);
        assert_eq!(body(b"two\nlines"), r#"{"text":"two\nlines"}"#);
        assert_eq!(
            body(&[0xff, 0]),
            r#"{"content_type":"application/octet-stream","base64":"/wA="}"#
        );
        assert!(matches!(SendPayload::from_native(b""), Err(RequestError::Empty)));
        assert!(matches!(
            SendPayload::from_native_of(Kind::Msg, b""),
            Err(RequestError::Empty)
        ));
        let typing = SendPayload::from_native_of(Kind::Typing, b"").unwrap();
        assert_eq!(typing.body.get(), "{}");
    }

    #[test]
    fn a_request_with_a_wrong_field_is_refused_and_not_sent_as_text() {
        for bad in [
            r#"{"body":{},"from":"alice"}"#,
            r#"{"body":{},"key":""}"#,
            r#"{"body":{},"key":"a\nb"}"#,
            r#"{"body":{},"if_last":"x"}"#,
            &format!(r#"{{"body":{}{}}}"#, "[".repeat(32), "]".repeat(32)),
            &format!(r#"{{"a":{}{}}}"#, "[".repeat(9999), "]".repeat(9999)),
        ] {
            assert!(SendPayload::from_native(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_change_of_a_message_is_a_request_and_never_the_body_itself() {
        let read = |kind, text: &str| SendPayload::from_native_of(kind, text.as_bytes());
        let edit = read(Kind::Edit, r#"{"target":"m1","body":{"text":"x"}}"#).unwrap();
        assert_eq!(
            (edit.target.as_deref(), edit.body.get()),
            (Some("m1"), r#"{"text":"x"}"#)
        );
        let delete = read(Kind::Delete, r#"{"target":"m1","key":"k"}"#).unwrap();
        assert_eq!(
            (delete.target.as_deref(), delete.key.as_deref(), delete.body.get()),
            (Some("m1"), Some("k"), "{}")
        );
        for (kind, bad) in [
            (Kind::Edit, r#"{"target":"m1"}"#),
            (Kind::Edit, "text"),
            (Kind::Delete, ""),
            (Kind::Delete, r#"{"target":"m1","from":"x"}"#),
            (Kind::Delete, r#"{"target":""}"#),
        ] {
            assert!(read(kind, bad).is_err(), "{kind:?} {bad}");
        }
    }

    #[test]
    fn a_body_never_breaks_the_line() {
        let payload = SendPayload::from_json(b"{\"body\":{ \"a\" :\n [1 , 2],\r\n\"b\":\" x\\n \"}}").unwrap();
        assert_eq!(payload.body.get(), r#"{"a":[1,2],"b":" x\n "}"#);
    }
}
