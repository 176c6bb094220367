//! Requests to send, in whatever form a client can make them.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use natterjack_nats_config::contract::{Problem, ProblemCode, SendPayload, check_depth};
use serde::Serialize;
use serde_json::value::to_raw_value;

use super::query::Fields;

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The media types that are read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Media {
    Json,
    Text,
    Form,
}

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
}

/// Reads a message: JSON, `text/plain`, or a form with `text`. The key may be in the header, in the body and in the
/// path; where it is given twice it must be the same.
pub(crate) fn read_message(headers: &HeaderMap, path_key: Option<String>, body: &[u8]) -> Result<SendPayload, Problem> {
    let mut payload = match media(headers, body)? {
        Media::Json => SendPayload::from_json(body).map_err(|error| Problem::invalid(error.to_string()))?,
        Media::Text => text_payload(utf8(body)?)?,
        Media::Form => {
            let mut fields = Fields::parse(utf8(body)?, &["text", "key"])?;
            let Some(text) = fields.take("text") else {
                return Err(Problem::invalid("the form has no `text`"));
            };
            SendPayload {
                key: fields.take("key"),
                ..text_payload(&text)?
            }
        }
    };
    let keys = [path_key, header_key(headers)?, payload.key.take()];
    match one_key(keys)? {
        Some(key) => payload
            .with_key(key)
            .map_err(|error| Problem::invalid(error.to_string())),
        None => Ok(payload),
    }
}

/// Reads a JSON body of another kind.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, Problem> {
    if media(headers, body)? != Media::Json {
        return Err(unsupported("application/json"));
    }
    check_depth(body).map_err(|error| Problem::invalid(error.to_string()))?;
    serde_json::from_slice(body).map_err(|error| Problem::invalid(format!("the body: {error}")))
}

/// The key of a request without a body of its own for it.
pub(crate) fn header_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter().map(|value| {
        let text = value
            .to_str()
            .map_err(|_| Problem::invalid("`Idempotency-Key` must be plain ASCII"))?;
        unquoted(text.trim())
    });
    let first = keys.next().transpose()?;
    match keys.next() {
        Some(_) => Err(Problem::invalid("`Idempotency-Key` is given twice")),
        None => Ok(first),
    }
}

/// A bare key, or a string of RFC 8941 (structured fields), as the Idempotency-Key draft has it.
fn unquoted(text: &str) -> Result<String, Problem> {
    let Some(rest) = text.strip_prefix('"') else {
        return Ok(text.to_owned());
    };
    let wrong = || Problem::invalid("`Idempotency-Key` starts with a quote but is no quoted string");
    let inner = rest.strip_suffix('"').ok_or_else(wrong)?;
    let mut key = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => key.push(chars.next().filter(|c| matches!(c, '"' | '\\')).ok_or_else(wrong)?),
            '"' => return Err(wrong()),
            c => key.push(c),
        }
    }
    Ok(key)
}

fn one_key(keys: [Option<String>; 3]) -> Result<Option<String>, Problem> {
    let mut given = keys.into_iter().flatten();
    let first = given.next();
    if given.any(|other| Some(&other) != first.as_ref()) {
        let detail = "two different keys are given (header `Idempotency-Key`, field `key`, path); give one";
        return Err(Problem::invalid(detail));
    }
    Ok(first)
}

/// What the body is, by its `Content-Type`; JSON if there is none.
///
/// `curl -d` calls everything a form: what starts with a brace is JSON nevertheless, since no form with `text=` does.
fn media(headers: &HeaderMap, body: &[u8]) -> Result<Media, Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(Media::Json);
    };
    let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
    let mut parts = value.split(';').map(str::trim);
    let media = match parts.next().unwrap_or_default() {
        "application/json" => Media::Json,
        json if json.starts_with("application/") && json.ends_with("+json") => Media::Json,
        "text/plain" => Media::Text,
        "application/x-www-form-urlencoded" if body.trim_ascii_start().starts_with(b"{") => Media::Json,
        "application/x-www-form-urlencoded" => Media::Form,
        _ => {
            return Err(unsupported(
                "application/json, text/plain or application/x-www-form-urlencoded",
            ));
        }
    };
    let charset = parts.find_map(|part| part.strip_prefix("charset="));
    match charset.map(|charset| charset.trim_matches('"')) {
        None | Some("utf-8" | "utf8" | "us-ascii") => Ok(media),
        Some(_) => Err(unsupported("text in UTF-8")),
    }
}

fn unsupported(supported: &str) -> Problem {
    let detail = format!("this `Content-Type` is not read here; send {supported}");
    Problem::new(ProblemCode::UnsupportedMediaType, detail)
}

fn text_payload(text: &str) -> Result<SendPayload, Problem> {
    if text.is_empty() {
        return Err(Problem::invalid("the text is empty"));
    }
    let body = to_raw_value(&Text { text }).map_err(|error| Problem::invalid(error.to_string()))?;
    Ok(SendPayload::of_body(body))
}

fn utf8(body: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(body).map_err(|_| Problem::invalid("the body is no UTF-8"))
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::MAX_DEPTH;

    use super::*;

    type Pairs = &'static [(&'static str, &'static str)];

    const FORM: Pairs = &[("content-type", "application/x-www-form-urlencoded")];
    const TEXT: Pairs = &[("content-type", "text/plain")];
    const JSON: &str = r#"{"body":{"text":"hi"}}"#;
    const HI: &str = r#"{"text":"hi"}"#;

    /// Headers, body; the payload's body and key.
    const READ: &[(Pairs, &str, &str, Option<&str>)] = &[
        (&[], JSON, HI, None),
        (&[("content-type", "application/json; charset=UTF-8")], JSON, HI, None),
        (&[("content-type", "application/vnd.x+json")], JSON, HI, None),
        (TEXT, "a \"b\"\n", r#"{"text":"a \"b\"\n"}"#, None),
        (
            &[("content-type", "text/plain;charset=\"utf-8\"")],
            "ä",
            r#"{"text":"ä"}"#,
            None,
        ),
        (FORM, JSON, HI, None),
        (FORM, "text=a+b&key=k", r#"{"text":"a b"}"#, Some("k")),
        (&[("idempotency-key", "k")], JSON, HI, Some("k")),
        (&[("idempotency-key", "\"k \\\" \\\\\"")], JSON, HI, Some("k \" \\")),
        (&[("idempotency-key", "k")], r#"{"key":"k","body":1}"#, "1", Some("k")),
        (&[], r#"{"key":"k","body":null}"#, "null", Some("k")),
        (
            &[],
            r#"{"body":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"{{"}"#,
            r#""[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"{{""#,
            None,
        ),
    ];

    /// Headers, body; what the refusal names.
    const REFUSED: &[(Pairs, &[u8], &str)] = &[
        (&[], b"", "EOF"),
        (&[], b"{", "EOF"),
        (&[], b"[]", "not valid"),
        (&[], b"{\"text\":\"hi\"}", "unknown field `text`"),
        (&[], b"{\"key\":\"k\"}", "missing field `body`"),
        (&[], b"{\"body\":\"\xff\"}", "unicode"),
        (&[], b"{\"body\":{},\"key\":7}", "expected a string"),
        (
            &[("idempotency-key", "a")],
            b"{\"body\":{},\"key\":\"b\"}",
            "two different keys",
        ),
        (
            &[("idempotency-key", "a"), ("idempotency-key", "a")],
            b"{\"body\":{}}",
            "twice",
        ),
        (&[("idempotency-key", "")], b"{\"body\":{}}", "`key`"),
        (&[("idempotency-key", "\"")], b"{\"body\":{}}", "quoted"),
        (&[("idempotency-key", "\"a\"b\"")], b"{\"body\":{}}", "quoted"),
        (&[("idempotency-key", "ä")], b"{\"body\":{}}", "ASCII"),
        (TEXT, b"\xff", "UTF-8"),
        (TEXT, b"", "empty"),
        (FORM, b"key=k", "`text`"),
        (FORM, b"text=%ff", "UTF-8"),
        (FORM, b"text=a&from=root", "\"from\""),
    ];

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
                (name.parse::<http::HeaderName>().unwrap(), value)
            })
            .collect()
    }

    #[test]
    fn messages_come_in_every_form_that_is_read() {
        for (pairs, body, expected, key) in READ {
            let payload = read_message(&headers(pairs), None, body.as_bytes()).unwrap();
            assert_eq!(
                (payload.body.get(), payload.key.as_deref()),
                (*expected, *key),
                "{pairs:?} {body}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (pairs, body, detail) in REFUSED {
            let problem = read_message(&headers(pairs), None, body).unwrap_err();
            assert_eq!(problem.code, ProblemCode::InvalidRequest, "{problem}");
            assert!(problem.detail.contains(detail), "{detail:?} is not in {problem}");
        }
        for content_type in [
            "image/png",
            "text/plain; charset=latin1",
            "",
            "application/json; charset=utf-16",
        ] {
            let problem = read_message(&headers(&[("content-type", content_type)]), None, b"x").unwrap_err();
            assert_eq!(problem.code, ProblemCode::UnsupportedMediaType, "{content_type}");
        }
    }

    #[test]
    fn json_is_only_so_deep() {
        let read = |depth: usize| {
            let body = format!("{{\"body\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
            read_message(&headers(&[]), None, body.as_bytes())
        };
        assert!(read(MAX_DEPTH - 1).is_ok());
        for depth in [MAX_DEPTH, 1000, 30_000] {
            assert!(read(depth).unwrap_err().detail.contains("deep"));
        }
    }

    #[test]
    fn the_path_s_key_must_agree_too() {
        let read = |header: &str, path: &str| {
            read_message(
                &headers(&[("idempotency-key", header)]),
                Some(path.to_owned()),
                br#"{"body":1}"#,
            )
        };
        assert_eq!(read("\"k\"", "k").unwrap().key.as_deref(), Some("k"));
        assert!(read("k", "other").is_err());
    }
}
