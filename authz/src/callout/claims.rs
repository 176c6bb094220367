use serde::{Deserialize, Serialize};

/// What the server asks. Only what is used is read; a client can leave out or make up nearly all of it.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct RequestClaims {
    /// The server that signed.
    pub(crate) iss: String,
    pub(crate) nats: Request,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Request {
    pub(crate) user_nkey: String,
    pub(crate) server_id: ServerId,
    pub(crate) client_info: ClientInfo,
    pub(crate) connect_opts: ConnectOptions,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct ServerId {
    pub(crate) id: String,
}

/// What the server itself knows of the connection.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct ClientInfo {
    pub(crate) id: u64,
    /// The address it comes from; behind a proxy the proxy's.
    pub(crate) host: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) mqtt_id: String,
}

/// What the client says of itself. Never trusted; `nkey` stands here even if its signature is wrong.
#[derive(Default, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct ConnectOptions {
    pub(crate) user: String,
    pub(crate) pass: String,
    pub(crate) auth_token: String,
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// The answer.
#[derive(Debug, Serialize)]
pub(crate) struct ResponseClaims {
    pub(crate) sub: String,
    pub(crate) aud: String,
    pub(crate) nats: Response,
}

#[derive(Debug, Serialize)]
pub(crate) struct Response {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jwt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<&'static str>,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) version: u8,
}

/// The user JWT inside a positive answer. In config mode the server ignores limits that stand in it.
#[derive(Debug, Serialize)]
pub(crate) struct UserClaims {
    pub(crate) sub: String,
    /// The account.
    pub(crate) aud: &'static str,
    /// Shown by CONNZ as `authorized_user`.
    pub(crate) name: String,
    pub(crate) exp: i64,
    pub(crate) nats: User,
}

#[derive(Debug, Serialize)]
pub(crate) struct User {
    #[serde(rename = "pub")]
    pub(crate) publish: Subjects,
    #[serde(rename = "sub")]
    pub(crate) subscribe: Subjects,
    pub(crate) subs: i8,
    pub(crate) data: i8,
    pub(crate) payload: i8,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) version: u8,
}

/// An allow-list. An empty one would mean *everything*, so it is turned into a denial of everything.
#[derive(Debug, Serialize)]
pub(crate) struct Subjects {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deny: Vec<&'static str>,
}

impl Subjects {
    pub(crate) fn only(allow: Vec<String>) -> Self {
        let deny = if allow.is_empty() { vec![">"] } else { Vec::new() };
        Self { allow, deny }
    }
}

impl Response {
    pub(crate) fn of(outcome: Result<String, &'static str>) -> Self {
        let (jwt, error) = match outcome {
            Ok(jwt) => (Some(jwt), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            jwt,
            error,
            kind: "authorization_response",
            version: 2,
        }
    }
}

impl User {
    pub(crate) fn of(publish: Vec<String>, subscribe: Vec<String>) -> Self {
        Self {
            publish: Subjects::only(publish),
            subscribe: Subjects::only(subscribe),
            subs: -1,
            data: -1,
            payload: -1,
            kind: "user",
            version: 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_allows_nothing() {
        let json = serde_json::to_value(User::of(vec![], vec!["a".to_owned()])).unwrap();
        assert_eq!(json["pub"], serde_json::json!({"deny": [">"]}));
        assert_eq!(json["sub"], serde_json::json!({"allow": ["a"]}));
    }

    #[test]
    fn nothing_is_counted_that_the_server_would_limit() {
        let json = serde_json::to_value(User::of(vec![], vec![])).unwrap();
        for unlimited in ["subs", "data", "payload"] {
            assert_eq!(json[unlimited], -1, "{unlimited}");
        }
    }

    #[test]
    fn a_request_of_the_server_is_read_whatever_else_it_holds() {
        let claims: RequestClaims = serde_json::from_value(serde_json::json!({
            "aud": "nats-authorization-request", "iss": "N…", "later": [1],
            "nats": {"server_id": {"name": "n1", "id": "NA"}, "user_nkey": "UA", "client_info": {"id": 7, "type": "mqtt",
                "kind": "Client", "mqtt_id": "main:dev1"}, "connect_opts": {"user": "dev1", "pass": "t", "protocol": 1}}
        }))
        .unwrap();
        assert_eq!(
            (claims.nats.client_info.id, claims.nats.client_info.mqtt_id.as_str()),
            (7, "main:dev1")
        );
        assert!(
            !format!("{:?}", claims.nats.connect_opts).contains("\"t\""),
            "a secret shows in Debug"
        );
    }
}
