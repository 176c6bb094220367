use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// The body that stands for bare bytes: a JSON object as it is, other UTF-8 as `{"text":…}`,
/// anything else as `{"content_type":"application/octet-stream","base64":…}`.
#[must_use]
pub fn body_from_bytes(bytes: &[u8]) -> Box<RawValue> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return raw(&Binary {
            content_type: "application/octet-stream",
            base64: &STANDARD.encode(bytes),
        });
    };
    match serde_json::from_str::<&RawValue>(text) {
        Ok(json) if json.get().starts_with('{') => compact(json.to_owned()),
        _ => raw(&Text { text }),
    }
}

/// The same JSON without white space between its tokens, so that it fits on one line of a frame and
/// equal bodies are equal bytes. Strings, numbers and the order of keys are left as they are.
#[must_use]
pub fn compact(json: Box<RawValue>) -> Box<RawValue> {
    if !json.get().bytes().any(|byte| byte.is_ascii_whitespace()) {
        return json;
    }
    let mut out = String::with_capacity(json.get().len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.get().chars() {
        if in_string || !c.is_ascii_whitespace() {
            out.push(c);
        }
        in_string = if in_string { escaped || c != '"' } else { c == '"' };
        escaped = in_string && c == '\\' && !escaped;
    }
    RawValue::from_string(out).unwrap_or(json)
}

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct Binary<'a> {
    content_type: &'a str,
    base64: &'a str,
}

fn raw(body: &impl Serialize) -> Box<RawValue> {
    to_raw_value(body).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
