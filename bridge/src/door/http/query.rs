use std::borrow::Cow;

use natterjack_nats_config::contract::{Id, Problem};
use percent_encoding::percent_decode_str;

use crate::feed::Filter;

/// The fields of a query string or of a form, decoded; each name at most once, and only names that are expected.
pub(crate) struct Fields(Vec<(&'static str, String)>);

impl Fields {
    /// Reads `a=b&c=d`.
    ///
    /// # Errors
    /// `invalid-request`, naming a field that is unknown, repeated or no UTF-8.
    pub(crate) fn parse(encoded: &str, expected: &[&'static str]) -> Result<Self, Problem> {
        let mut fields: Vec<(&'static str, String)> = Vec::new();
        for pair in encoded.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            let Some(name) = expected.iter().copied().find(|expected| *expected == name) else {
                let name: String = name.chars().take(64).collect();
                return Err(Problem::invalid(format!(
                    "{name:?} is not known here; known: {}",
                    expected.join(", ")
                )));
            };
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(Problem::invalid(format!("`{name}` is given twice")));
            }
            fields.push((name, decode(value)?.into_owned()));
        }
        Ok(Self(fields))
    }

    /// A field's text, if it is there.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Takes a field's text out.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// A field that is a whole number; an empty one counts as not given.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.text(name)
            .filter(|text| !text.is_empty())
            .map(|text| {
                text.parse()
                    .map_err(|_| Problem::invalid(format!("`{name}` must be a whole number")))
            })
            .transpose()
    }

    /// `rooms=a,b`; none or an empty one means every room.
    pub(crate) fn rooms(&self) -> Result<Filter, Problem> {
        self.text("rooms")
            .unwrap_or_default()
            .split(',')
            .filter(|room| !room.is_empty())
            .map(|room| id("rooms", room))
            .collect()
    }
}

/// An id that came in under a name.
pub(crate) fn id(name: &str, text: &str) -> Result<Id, Problem> {
    text.parse()
        .map_err(|error| Problem::invalid(format!("`{name}`: {error}")))
}

fn decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    let no_utf8 = |_| Problem::invalid("the query or form is no UTF-8; encode text as UTF-8 and then with %XX");
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return percent_decode_str(&spaced)
            .decode_utf8()
            .map(|text| Cow::Owned(text.into_owned()))
            .map_err(no_utf8);
    }
    percent_decode_str(text).decode_utf8().map_err(no_utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_decoded_or_refused() {
        let fields = Fields::parse("text=a+b%21%C3%A4%26&limit=7&&wait=", &["text", "limit", "wait"]).unwrap();
        assert_eq!(fields.text("text"), Some("a b!ä&"));
        assert_eq!(fields.number("limit").unwrap(), Some(7));
        assert_eq!(fields.number("wait").unwrap(), None);
        for (bad, named) in [
            ("x=1", "\"x\""),
            ("text=1&text=2", "`text`"),
            ("text=%FF", "UTF-8"),
            ("%ff=1", "UTF-8"),
        ] {
            let problem = Fields::parse(bad, &["text"]).err().unwrap();
            assert!(problem.detail.contains(named), "{bad}: {problem}");
        }
        assert!(Fields::parse("limit=-1", &["limit"]).unwrap().number("limit").is_err());
    }

    #[test]
    fn rooms_are_a_list_of_ids() {
        let rooms = |text: &str| Fields::parse(text, &["rooms"]).unwrap().rooms();
        assert!(rooms("").unwrap().is_everything());
        assert!(rooms("rooms=").unwrap().is_everything());
        assert_eq!(
            rooms("rooms=b,a,b")
                .unwrap()
                .rooms()
                .map(Id::as_str)
                .collect::<Vec<_>>(),
            ["a", "b"]
        );
        for bad in ["rooms=a.b", "rooms=a,*", "rooms=%3E", "rooms=a%20b"] {
            assert!(rooms(bad).unwrap_err().detail.contains("`rooms`"), "{bad}");
        }
    }
}
