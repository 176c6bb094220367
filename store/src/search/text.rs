use serde_json::Value;

/// What people read in a message: its `text`, a body that is a text itself, or else all the texts in the body. Bytes
/// (`base64`) are none.
pub(super) fn text_of(line: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Message {
        body: Value,
    }
    // A body that is nested too deeply to be read is not searched.
    let Ok(Message { body }) = serde_json::from_slice::<Message>(line) else {
        return String::new();
    };
    match &body {
        Value::Object(fields) => match fields.get("text") {
            Some(Value::String(text)) => text.clone(),
            _ if fields.contains_key("base64") => String::new(),
            _ => all(&body),
        },
        _ => all(&body),
    }
}

fn all(value: &Value) -> String {
    let mut texts = Vec::new();
    gather(value, &mut texts);
    texts.join(" ")
}

/// As deep as `serde_json` reads: 128 levels.
fn gather<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(values) => values.iter().for_each(|value| gather(value, texts)),
        Value::Object(fields) => fields.values().for_each(|value| gather(value, texts)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_body() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for (body, text) in [
            (r#"{"text":"hi","lang":"en"}"#, "hi"),
            (r#""hi""#, "hi"),
            (r#"{"state":"open","by":["a",{"b":"c"}],"n":1}"#, "open a c"),
            (r#"{"content_type":"image/png","base64":"aGk="}"#, ""),
            ("null", ""),
            ("7", ""),
            (deep.as_str(), ""),
        ] {
            assert_eq!(
                text_of(format!(r#"{{"v":1,"body":{body}}}"#).as_bytes()),
                text,
                "{body}"
            );
        }
        assert_eq!(text_of(b"no json"), "");
    }
}
