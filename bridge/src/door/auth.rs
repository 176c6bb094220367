use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use natterjack_authz::token::{TokenError, Verifier};
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Principal, Problem, ProblemCode};

/// Finds out who makes an HTTP request.
pub(crate) struct Auth {
    verifier: Arc<Verifier>,
}

impl Auth {
    pub(crate) fn new(verifier: Arc<Verifier>) -> Self {
        Self { verifier }
    }

    /// The caller, and how long the token is still good.
    ///
    /// # Errors
    /// `token-missing`, `token-expired` or `token-invalid`. Which rule a token broke is told to the log only.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<(Principal, Duration), Problem> {
        let token = bearer(headers)?;
        let now_ms = clock::now_ms();
        let session = self.verifier.verify(token, now_ms).map_err(|error| problem(&error))?;
        let left = u64::try_from(session.expires_at_ms - now_ms).unwrap_or_default();
        Ok((session.principal, Duration::from_millis(left)))
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let missing = || {
        let detail = "this needs a token: send the header `Authorization: Bearer <token>`";
        Problem::new(ProblemCode::TokenMissing, detail)
    };
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or_else(missing)?;
    if values.next().is_some() {
        return Err(Problem::new(
            ProblemCode::TokenInvalid,
            "`Authorization` is given twice; send one",
        ));
    }
    let text = value.to_str().map_err(|_| invalid())?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(missing()),
    }
}

fn problem(error: &TokenError) -> Problem {
    match error {
        TokenError::Missing => Problem::new(ProblemCode::TokenMissing, "the token is empty"),
        TokenError::Expired => Problem::new(ProblemCode::TokenExpired, "the token has expired; get a new one"),
        TokenError::Invalid(_) => {
            tracing::info!(%error, "a token was refused");
            invalid()
        }
    }
}

fn invalid() -> Problem {
    Problem::new(
        ProblemCode::TokenInvalid,
        "the token cannot be accepted; get a new one from the issuer",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_from_one_bearer_header_and_nowhere_else() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            bearer(&headers).map(str::to_owned).map_err(|problem| problem.code)
        };
        let table: &[(&[&str], Result<&str, ProblemCode>)] = &[
            (&["Bearer abc"], Ok("abc")),
            (&["bearer  abc "], Ok("abc")),
            (&[], Err(ProblemCode::TokenMissing)),
            (&["abc"], Err(ProblemCode::TokenMissing)),
            (&["Basic abc"], Err(ProblemCode::TokenMissing)),
            (&["Bearer a", "Bearer b"], Err(ProblemCode::TokenInvalid)),
            (&["Bearer ä"], Err(ProblemCode::TokenInvalid)),
        ];
        for (values, expected) in table {
            assert_eq!(read(values), expected.map(str::to_owned), "{values:?}");
        }
    }
}
