//! Everything that a token or a key opens, and its end.

use serde_json::{Value, json};

use super::events::texts;
use super::eventually;
use super::house::House;
use super::http::Http;
use super::mqtt::Mqtt;
use super::nats::Nats;
use super::stream::Raw;

/// Revokes, and waits until that has reached everybody.
pub(crate) async fn revoke(admin: &Http, what: Value) -> Value {
    let key = rand::random::<u64>().to_string();
    let mut closed = 0;
    // On a busy machine it may be pending at first; who has revoked the own token cannot ask again.
    eventually("the revocation is done", async || {
        let body = what.to_string().into();
        let headers = [("idempotency-key", key.as_str()), ("content-type", "application/json")];
        let answer = admin
            .try_call(hyper::Method::POST, "/v1/revocations", &headers, body)
            .await;
        let answer = answer.unwrap();
        if answer.status == 401 {
            return Some(json!({"connections_closed": closed}));
        }
        let mut answer = answer.ok();
        closed = closed.max(answer["connections_closed"].as_u64().unwrap());
        answer["connections_closed"] = json!(closed);
        (answer["state"] == "done").then_some(answer)
    })
    .await
}

/// Everything that a token can have opened.
pub(crate) struct Everywhere {
    token: String,
    pub(crate) http: Http,
    pub(crate) nats: Nats,
    ws: Nats,
    mqtt: Mqtt,
    stream: Raw,
}

impl Everywhere {
    pub(crate) async fn enter(house: &House, user: &str, token: &str) -> Self {
        let http = Http::new(&house.endpoints.http, Some(token));
        let connect = async |url: &str| {
            let nats = Nats::connect(url, user, token).await.unwrap();
            nats.listen(&["lobby"]).await;
            nats
        };
        let mqtt_id = format!("main:{user}");
        let mqtt = Mqtt::connect(&house.endpoints.mqtt, &mqtt_id, user, token)
            .await
            .unwrap();
        assert!(mqtt.subscribe("chat/room/main/lobby/log").await);
        let mut stream = Raw::get_by(house, token, "/v1/events/stream?rooms=lobby", "").await;
        assert!(stream.reads("retry:").await);
        Self {
            token: token.to_owned(),
            http,
            nats: connect(&house.endpoints.nats).await,
            ws: connect(&house.endpoints.ws).await,
            mqtt,
            stream,
        }
    }

    /// Nothing of it lives on, nor comes back.
    pub(crate) async fn is_out(&mut self, house: &House, code: &str) {
        self.http.get("/v1/me").await.is_problem(401, code);
        let body = json!({"body": {"text": "by a revoked token"}});
        self.http
            .post("/v1/rooms/lobby/messages", &body)
            .await
            .is_problem(401, code);
        assert!(self.stream.reads("token-revoked").await, "{}", self.stream.text);
        for url in [&house.endpoints.nats, &house.endpoints.ws] {
            assert!(Nats::connect(url, &self.nats.user, &self.token).await.is_err());
        }
        let id = format!("main:{}:again", self.nats.user);
        let mqtt = Mqtt::connect(&house.endpoints.mqtt, &id, &self.nats.user, &self.token).await;
        assert!(mqtt.is_err());
    }

    /// What each native connection has heard since.
    pub(crate) fn heard(&self) -> [Vec<String>; 3] {
        [&self.nats.mail, &self.ws.mail, &self.mqtt.mail].map(|mail| {
            let all = mail.all();
            let messages = all.iter().map(|got| String::from_utf8(got.payload.to_vec()).unwrap());
            texts(&messages.filter(|line| line.contains("\"msg\"")).collect::<Vec<_>>())
        })
    }
}
