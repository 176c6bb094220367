//! One line of text for an event.

use serde_json::Value;

use crate::process::say;

/// Prints events as JSON lines, or as lines for people.
pub(crate) fn events(page: &Value, list: &str, json: bool) -> anyhow::Result<()> {
    for event in page.get(list).and_then(Value::as_array).into_iter().flatten() {
        if json { say(event)? } else { say(line(event))? }
    }
    Ok(())
}

fn line(event: &Value) -> String {
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let body = event.get("body").cloned().unwrap_or_default();
    let said = match (text("kind"), body.get("text").and_then(Value::as_str)) {
        ("msg", Some(said)) => said.escape_debug().to_string(),
        (kind, _) => format!("[{kind}] {body}"),
    };
    format!("{} {:<12} {}: {said}", text("at"), text("room"), text("from"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_cannot_forge_a_second_line() {
        let event =
            json!({"at": "T", "room": "lobby", "from": "mal", "kind": "msg", "body": {"text": "x\nT lobby alice: y"}});
        assert_eq!(line(&event).lines().count(), 1);
    }
}
