use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// How deep JSON may be nested. A body is passed on unparsed, and whoever parses it has a limit too.
pub const MAX_DEPTH: usize = 32;

/// JSON that is nested more than [`MAX_DEPTH`] deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the JSON is nested more than {MAX_DEPTH} deep")]
pub struct TooDeep;

/// Refuses JSON that is nested too deep; says nothing of whether it is JSON at all.
pub fn check_depth(json: &[u8]) -> Result<(), TooDeep> {
    let (mut depth, mut in_string, mut is_escaped) = (0usize, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(TooDeep);
        }
    }
    Ok(())
}

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
