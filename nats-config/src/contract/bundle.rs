//! Many requests from one bridge in one NATS message, and their answers: newline-delimited JSON, in order.

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

use super::{By, Id, Kind, Principal, Problem, Receipt, Request, SendPayload, Seq, Vouched};

/// The answer to one request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It stands in the log.
    Receipt(Receipt),
    /// It was refused, or its outcome is unknown.
    Problem(Problem),
}

impl From<Outcome> for Result<Receipt, Problem> {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Receipt(receipt) => Ok(receipt),
            Outcome::Problem(problem) => Err(problem),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BundleLine<'a> {
    tenant: Id,
    user: Id,
    room: Id,
    kind: Kind,
    #[serde(default, skip_serializing_if = "is_connection")]
    by: By,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(borrow)]
    body: &'a serde_json::value::RawValue,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    if_last: Option<Seq>,
    #[serde(rename = "as", default, skip_serializing_if = "Option::is_none")]
    on_behalf_of: Option<Id>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vouched: Option<Vouched>,
}

fn is_connection(by: &By) -> bool {
    *by == By::Connection
}

/// Appends one request to a bundle.
pub fn write_bundle_line(bundle: &mut BytesMut, request: &Request) -> Result<(), serde_json::Error> {
    let line = BundleLine {
        tenant: request.principal.tenant.clone(),
        user: request.principal.user.clone(),
        room: request.room.clone(),
        kind: request.kind,
        by: request.by.clone(),
        key: request.payload.key.clone(),
        body: &request.payload.body,
        reply_to: request.payload.reply_to.clone(),
        target: request.payload.target.clone(),
        if_last: request.payload.if_last,
        on_behalf_of: request.payload.on_behalf_of.clone(),
        vouched: request.vouched.clone(),
    };
    serde_json::to_writer(bundle.writer(), &line)?;
    bundle.put_u8(b'\n');
    Ok(())
}

/// Reads a bundle; a line that cannot be read gives its problem in its place.
pub fn read_bundle(bundle: &[u8]) -> impl Iterator<Item = Result<Request, Problem>> {
    lines(bundle).map(|line| {
        let line: BundleLine<'_> =
            serde_json::from_slice(line).map_err(|error| Problem::invalid(format!("a bundle's line: {error}")))?;
        Ok(Request {
            principal: Principal {
                tenant: line.tenant,
                user: line.user,
            },
            by: line.by,
            room: line.room,
            kind: line.kind,
            payload: SendPayload {
                key: line.key,
                body: line.body.to_owned(),
                reply_to: line.reply_to,
                target: line.target,
                if_last: line.if_last,
                on_behalf_of: line.on_behalf_of,
            },
            vouched: line.vouched,
        })
    })
}

/// Appends one answer to a bundle of answers.
pub fn write_outcome(answers: &mut BytesMut, outcome: &Outcome) -> Result<(), serde_json::Error> {
    serde_json::to_writer(answers.writer(), outcome)?;
    answers.put_u8(b'\n');
    Ok(())
}

/// Reads a bundle of answers.
pub fn read_outcomes(answers: &[u8]) -> impl Iterator<Item = Result<Outcome, serde_json::Error>> {
    lines(answers).map(serde_json::from_slice)
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::TokenRef;
    use super::*;

    #[test]
    fn a_bundle_comes_out_as_it_went_in() {
        let request = Request {
            principal: Principal {
                tenant: "main".parse().unwrap(),
                user: "alice".parse().unwrap(),
            },
            by: By::Token(TokenRef {
                jti: Some("a\"b".to_owned()),
                issued_at_ms: 7,
            }),
            room: "lobby".parse().unwrap(),
            kind: Kind::Msg,
            payload: SendPayload::from_json(br#"{"key":"k1","target":"m1","as":"dev1","body":{"text":"a\nb"}}"#)
                .unwrap(),
            vouched: Some(Vouched {
                seq: Seq(7),
                from: "bob".parse().unwrap(),
            }),
        };
        let mut bundle = BytesMut::new();
        write_bundle_line(&mut bundle, &request).unwrap();
        write_bundle_line(&mut bundle, &request).unwrap();
        bundle.put_slice(b"{\"tenant\":\"a.b\"}\n");
        let read: Vec<_> = read_bundle(&bundle).collect();
        assert_eq!(read.len(), 3);
        let first = read[0].as_ref().unwrap();
        assert_eq!((&first.principal, &first.by), (&request.principal, &request.by));
        assert_eq!(first.payload.body.get(), request.payload.body.get());
        assert_eq!(
            (&first.payload.target, &first.vouched),
            (&request.payload.target, &request.vouched)
        );
        assert_eq!(first.payload.on_behalf_of, "dev1".parse().ok());
        assert!(read[2].is_err());
    }
}
