//! Events as readers get them: exact lines, and what must be true of a sequence of them.

use serde_json::Value;

use super::mailbox::Delivery;

/// The exact lines of what a client got as events of a room, in order of arrival.
pub(crate) fn lines_of(room: &str, deliveries: &[Delivery]) -> Vec<String> {
    let lines = deliveries
        .iter()
        .map(|delivery| String::from_utf8(delivery.payload.to_vec()).unwrap());
    lines
        .filter(|line| {
            serde_json::from_str::<Value>(line).is_ok_and(|event| event["room"] == room && event["seq"].is_u64())
        })
        .collect()
}

/// A line's JSON.
pub(crate) fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// The text of each message among the lines.
pub(crate) fn texts(lines: &[String]) -> Vec<String> {
    let texts = lines
        .iter()
        .map(|line| parse(line)["body"]["text"].as_str().map(str::to_owned));
    texts.flatten().collect()
}

/// Looks that lines are one room's events without a gap: `seq` grows, `n` counts, `prev` names the one before.
#[track_caller]
pub(crate) fn assert_unbroken(lines: &[String]) {
    for pair in lines.windows(2) {
        let (before, after) = (parse(&pair[0]), parse(&pair[1]));
        let number = |event: &Value, name: &str| event[name].as_u64().unwrap_or_else(|| panic!("{name}: {event}"));
        assert!(
            number(&after, "seq") > number(&before, "seq"),
            "seq does not grow: {pair:?}"
        );
        assert_eq!(
            number(&after, "n"),
            number(&before, "n") + 1,
            "n does not count: {pair:?}"
        );
        assert_eq!(
            number(&after, "prev"),
            number(&before, "seq"),
            "prev is not the one before: {pair:?}"
        );
    }
}

/// Looks that a receipt tells of this line.
#[track_caller]
pub(crate) fn assert_receipt(receipt: &Value, line: &str) {
    let event = parse(line);
    for field in ["id", "seq", "n", "at"] {
        assert_eq!(receipt[field], event[field], "{field}: {receipt} {line}");
    }
}
