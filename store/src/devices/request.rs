use async_nats::HeaderMap;
use bytes::BytesMut;
use natterjack_nats_config::contract::{
    By, InboundSubject, MAX_EVENT_BYTES, MAX_FRAME_BYTES, Outcome, Principal, Problem, ProblemCode, Receipt, Request,
    SendPayload, write_bundle_line,
};

use super::KEPT;
use crate::log::Asker;

/// The most requests in a bundle: what the writer takes in at a time.
pub(super) const MAX_BUNDLE: usize = 256;
/// What is not kept is not told any more when it is this old.
const STALE_MS: i64 = 10_000;

/// What a device asked for.
pub(super) struct Asked {
    /// Who asked: the subject on which the server let it publish says so, nothing else.
    pub(super) asker: Asker,
    /// The request's line in a bundle, or why it is none.
    pub(super) line: Result<BytesMut, Problem>,
}

/// What the server says of a message that it has kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// A key of its own.
    pub(super) key: String,
    /// When it was taken, in milliseconds since 1970.
    pub(super) taken_ms: i64,
}

/// What is to be done with a request that was answered.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It stands in the log.
    Done,
    /// It stood there before, or never will: the device is told.
    Told(Result<Receipt, Problem>),
    /// Not now: it is asked again, before those that came after it.
    Later,
}

impl Asked {
    /// Reads what a device published. `None` if there is nothing to do: it is not kept, and too old to be told.
    ///
    /// Its own key is taken where the device gives none, so that the same message handed out twice is one event.
    pub(super) fn read(to: InboundSubject, payload: &[u8], kept: Option<Kept>, now_ms: i64) -> Option<Self> {
        let who = Principal {
            tenant: to.tenant,
            user: to.user,
        };
        let (own_key, taken_ms) = kept.map_or((None, None), |kept| (Some(kept.key), Some(kept.taken_ms)));
        if to.kind.is_ephemeral() && taken_ms.is_some_and(|taken_ms| now_ms - taken_ms > STALE_MS) {
            return None;
        }
        let invalid = |error: &dyn std::fmt::Display| Problem::invalid(error.to_string());
        let payload = SendPayload::from_native_of(to.kind, payload);
        let asker = Asker::of(&who, &to.room, payload.as_ref().ok());
        let line = payload
            .and_then(|payload| match own_key.filter(|_| payload.key.is_none()) {
                Some(key) => payload.with_key(key),
                None => Ok(payload),
            })
            .map_err(|error| invalid(&error))
            .and_then(|payload| {
                let mut line = BytesMut::new();
                let request = Request {
                    principal: who,
                    by: taken_ms.map_or(By::Connection, |taken_ms| By::Kept { taken_ms }),
                    room: to.room,
                    kind: to.kind,
                    payload,
                    vouched: None,
                };
                write_bundle_line(&mut line, &request).map_err(|error| invalid(&error))?;
                if line.len() > MAX_EVENT_BYTES {
                    let detail =
                        format!("the event would be larger than {MAX_EVENT_BYTES} bytes; send a reference instead");
                    return Err(Problem::new(ProblemCode::TooLarge, detail));
                }
                Ok(line)
            });
        Some(Self { asker, line })
    }
}

/// Whether nats-server keeps this message besides handing it out: `QoS` 1 and 2. It says so in a header of its own, and no
/// MQTT client can set headers.
pub(super) fn is_kept(headers: Option<&HeaderMap>) -> bool {
    let qos = headers.and_then(|headers| headers.get(KEPT));
    qos.is_some_and(|qos| !qos.as_str().starts_with('0'))
}

/// How many of the first lines fit one bundle: at least one.
pub(super) fn bundle<'a>(lines: impl Iterator<Item = &'a BytesMut>) -> (BytesMut, usize) {
    let mut bundle = BytesMut::new();
    let mut count = 0;
    for line in lines.take(MAX_BUNDLE) {
        if count > 0 && bundle.len() + line.len() > MAX_FRAME_BYTES {
            break;
        }
        bundle.extend_from_slice(line);
        count += 1;
    }
    (bundle, count)
}

/// Judges an answer of the writer. What only one sender must wait for must not hold up the others: a limit, or a revocation,
/// whose devices are cut off and know as little as before what became of their message. All else that may pass will pass.
pub(super) fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Receipt(receipt) if receipt.duplicate => Verdict::Told(Ok(receipt)),
        Outcome::Receipt(_) => Verdict::Done,
        Outcome::Problem(problem) if problem.retryable && !is_of_one_sender(problem.code) => Verdict::Later,
        Outcome::Problem(problem) => Verdict::Told(Err(problem)),
    }
}

fn is_of_one_sender(code: ProblemCode) -> bool {
    matches!(code, ProblemCode::RateLimited | ProblemCode::RevocationInProgress)
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::{Subjects, read_bundle};

    use super::*;

    fn to(kind: &str) -> InboundSubject {
        let subject = format!("$MQTT.msgs.chat.in.main.dev1.lobby.{kind}");
        Subjects::default().parse_mqtt_request(&subject).unwrap()
    }

    fn kept(taken_ms: i64) -> Kept {
        Kept {
            key: "mqtt-1-7".to_owned(),
            taken_ms,
        }
    }

    fn request(asked: &Asked) -> Request {
        let line = asked.line.as_ref().unwrap();
        read_bundle(line).next().unwrap().unwrap()
    }

    #[test]
    fn the_sender_is_the_subjects_and_a_repetition_has_the_same_key() {
        let read = |payload: &[u8]| Asked::read(to("msg"), payload, Some(kept(5)), 6).unwrap();
        let asked = read(b"21.5");
        let (first, again) = (request(&asked), request(&read(b"21.5")));
        assert_eq!(asked.asker.who.user.as_str(), "dev1");
        assert_eq!(first.by, By::Kept { taken_ms: 5 });
        let live = Asked::read(to("msg"), b"21.5", None, 6).unwrap();
        assert_eq!(request(&live).by, By::Connection);
        assert_eq!(first.principal, asked.asker.who);
        assert_eq!(first.payload.body.get(), r#"{"text":"21.5"}"#);
        assert_eq!(first.payload.key.as_deref(), Some("mqtt-1-7"));
        assert_eq!(first.payload.key, again.payload.key);
        let own = request(&read(br#"{"body":1,"key":"own"}"#));
        assert_eq!(own.payload.key.as_deref(), Some("own"));
        let claimed = read(br#"{"body":1,"from":"alice"}"#);
        assert_eq!(claimed.line.unwrap_err().code, ProblemCode::InvalidRequest);
        let large = Asked::read(to("msg"), &vec![b'x'; MAX_EVENT_BYTES], None, 0).unwrap();
        assert_eq!(large.line.unwrap_err().code, ProblemCode::TooLarge);
    }

    #[test]
    fn what_is_not_kept_is_not_told_late() {
        assert!(
            Asked::read(to("typing"), b"", Some(kept(0)), 9000)
                .unwrap()
                .line
                .is_ok()
        );
        assert!(Asked::read(to("typing"), b"", Some(kept(0)), 11_000).is_none());
        assert!(Asked::read(to("msg"), b"x", Some(kept(0)), 1_000_000).is_some());
    }

    #[test]
    fn the_server_says_what_it_keeps() {
        let headers = |value: &str| HeaderMap::from_iter([(KEPT.parse().unwrap(), value.into())]);
        assert!(!is_kept(None) && !is_kept(Some(&HeaderMap::new())) && !is_kept(Some(&headers("0"))));
        assert!(is_kept(Some(&headers("1"))) && is_kept(Some(&headers("2"))));
    }

    #[test]
    fn bundles_are_bounded_in_number_and_bytes() {
        let line = BytesMut::from(&vec![b'x'; 100_000][..]);
        let lines = vec![line; 20];
        assert_eq!(bundle(lines.iter()).1, 5);
        let line = BytesMut::from(&b"x\n"[..]);
        let lines = vec![line; 1000];
        assert_eq!(bundle(lines.iter()).1, MAX_BUNDLE);
        assert_eq!(bundle([BytesMut::from(&vec![b'x'; 600_000][..])].iter()).1, 1);
    }

    #[test]
    fn a_limit_of_one_sender_holds_up_nobody() {
        let judge = |code| verdict(Outcome::Problem(Problem::new(code, "x")));
        assert!(matches!(judge(ProblemCode::RateLimited), Verdict::Told(Err(_))));
        assert!(matches!(
            judge(ProblemCode::RevocationInProgress),
            Verdict::Told(Err(_))
        ));
        assert!(matches!(judge(ProblemCode::Forbidden), Verdict::Told(Err(_))));
        for code in [
            ProblemCode::LogFull,
            ProblemCode::OutcomeUnknown,
            ProblemCode::BrokerUnavailable,
        ] {
            assert_eq!(judge(code), Verdict::Later);
        }
    }
}
