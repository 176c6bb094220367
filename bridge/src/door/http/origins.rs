use std::time::Duration;

use http::header::{HOST, HeaderName, ORIGIN};
use http::{HeaderMap, Method};
use natterjack_nats_config::contract::{Problem, ProblemCode};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// Headers that a page may send.
const ASKED: [&str; 6] = [
    "authorization",
    "content-type",
    "idempotency-key",
    "if-none-match",
    "last-event-id",
    "x-request-id",
];
/// Headers that a page may read.
const TOLD: [&str; 6] = [
    "chat-cursor",
    "chat-more",
    "etag",
    "location",
    "retry-after",
    "x-request-id",
];
/// How long a browser need not ask again.
const REMEMBERED_FOR: Duration = Duration::from_mins(10);

/// The web origins (RFC 6454) whose pages may use this bridge from a browser. `*`: all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origins(Vec<String>);

impl Origins {
    pub(crate) fn new(origins: Vec<String>) -> Self {
        Self(origins)
    }

    /// Whether a page of this origin may.
    pub(crate) fn admit(&self, origin: &str) -> bool {
        self.0
            .iter()
            .any(|admitted| admitted == "*" || admitted.eq_ignore_ascii_case(origin))
    }

    /// What browsers are told; `None` where no page of elsewhere may use this bridge. Tokens go in a header that a page sets by
    /// itself, so no page may have the browser's own credentials sent along.
    pub(super) fn cors(&self) -> Option<CorsLayer> {
        if self.0.is_empty() {
            return None;
        }
        let origins = self.clone();
        let allow = AllowOrigin::predicate(move |origin, _| origin.to_str().is_ok_and(|origin| origins.admit(origin)));
        let layer = CorsLayer::new()
            .allow_origin(allow)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers(ASKED.map(HeaderName::from_static))
            .expose_headers(TOLD.map(HeaderName::from_static))
            .max_age(REMEMBERED_FOR);
        Some(layer)
    }

    /// A browser opens a WebSocket for every page and asks nobody first (no CORS there): so it is judged here. Who is no
    /// browser sends no `Origin`.
    ///
    /// # Errors
    /// `forbidden`, if it is neither this host's own page nor one in the list.
    pub(crate) fn check_socket(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(origin) = headers.get(ORIGIN) else {
            return Ok(());
        };
        let origin = origin.to_str().unwrap_or_default();
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let own = origin.split_once("://").map(|(_, authority)| authority);
        if self.admit(origin) || host.is_some_and(|host| own.is_some_and(|own| own.eq_ignore_ascii_case(host))) {
            return Ok(());
        }
        Err(Problem::new(
            ProblemCode::Forbidden,
            "pages of this `Origin` may not connect; whoever runs the bridge lists them in `bridge.origins`",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_pages_and_the_host_s_own_may_open_a_socket() {
        let may = |list: &[&str], pairs: &[(&str, &str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()))
                .collect();
            let list = list.iter().map(ToString::to_string).collect();
            Origins::new(list).check_socket(&headers).is_ok()
        };
        let chat = "https://chat.example";
        assert!(may(&[], &[]));
        assert!(may(&[], &[("host", "chat.example")]));
        assert!(may(&[], &[("origin", chat), ("host", "Chat.example")]));
        assert!(may(
            &[chat],
            &[("origin", "https://Chat.example"), ("host", "api.example")]
        ));
        assert!(may(&["*"], &[("origin", "null"), ("host", "api.example")]));
        for origin in [
            "https://evil.example",
            "null",
            "",
            "https://chat.example.evil",
            "chat.example",
        ] {
            assert!(
                !may(&[chat], &[("origin", origin), ("host", "api.example")]),
                "{origin}"
            );
        }
        assert!(!may(
            &[],
            &[("origin", "https://chat.example:8443"), ("host", "chat.example")]
        ));
        assert!(!may(&[], &[("origin", chat)]));
    }
}
