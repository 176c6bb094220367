use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use jwt_simple::algorithms::{ECDSAP256KeyPairLike, ES256KeyPair};
use jwt_simple::claims::JWTClaims;
use serde_json::{Value, json};
use std::sync::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// An `OpenID` provider: a configuration, a set of keys, and tokens signed with ES256. It ends with its value.
pub(crate) struct Provider {
    /// Its `iss`.
    pub(crate) issuer: String,
    served: Arc<Mutex<Served>>,
    asked: Arc<Asked>,
    server: JoinHandle<()>,
}

/// How often it was asked: for anything, and for its keys.
#[derive(Default)]
struct Asked {
    all: AtomicUsize,
    keys: AtomicUsize,
}

struct Served {
    signing: ES256KeyPair,
    /// The JWKS document.
    keys: Value,
    behaviour: Behaviour,
    /// What the configuration says, where that is not the truth.
    configuration: Value,
    made: usize,
}

/// How a provider answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// As it should.
    Right,
    /// 503 to everything.
    Down,
    /// With a key set of more than 256 KiB.
    Oversized,
    /// By sending whoever asks to another address.
    Redirect(String),
}

impl Provider {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}/realm", listener.local_addr().unwrap());
        let signing = key("key-0");
        let served = Arc::new(Mutex::new(Served {
            keys: json!({"keys": [public(&signing)]}),
            signing,
            behaviour: Behaviour::Right,
            configuration: json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}),
            made: 1,
        }));
        let asked = Arc::new(Asked::default());
        let server = tokio::spawn(serve(listener, served.clone(), asked.clone()));
        Self {
            issuer,
            served,
            asked,
            server,
        }
    }

    /// A token for a user, good for an hour, signed with the key of now.
    pub(crate) fn token(&self, sub: &str) -> String {
        self.token_with(sub, &json!({}))
    }

    /// The same with other claims on top.
    pub(crate) fn token_with(&self, sub: &str, more: &Value) -> String {
        let served = self.served.lock().unwrap();
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let mut claims = json!({"iss": self.issuer, "aud": "chat", "sub": sub, "iat": now, "exp": now + 3600});
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let claims: JWTClaims<Value> = serde_json::from_value(claims).unwrap();
        served.signing.sign(claims).unwrap()
    }

    /// A token that names a key that is not there.
    pub(crate) fn token_of_unknown_key(&self, name: &str) -> String {
        let token = self.token("mallory");
        let rest = token.split_once('.').unwrap().1;
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": name});
        format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
    }

    /// Signs with a new key from now on and publishes that one only.
    pub(crate) fn rotate(&self) {
        let mut served = self.served.lock().unwrap();
        served.signing = key(&format!("key-{}", served.made));
        served.made += 1;
        served.keys = json!({"keys": [public(&served.signing)]});
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.served.lock().unwrap().behaviour = behaviour;
    }

    /// Says something else in its configuration.
    pub(crate) fn claim(&self, name: &str, value: &str) {
        self.served.lock().unwrap().configuration[name] = json!(value);
    }

    /// How often its keys were asked for.
    pub(crate) fn fetches(&self) -> usize {
        self.asked.keys.load(Ordering::SeqCst)
    }

    /// How often it was asked for anything.
    pub(crate) fn asked(&self) -> usize {
        self.asked.all.load(Ordering::SeqCst)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn key(name: &str) -> ES256KeyPair {
    ES256KeyPair::generate().with_key_id(name)
}

fn public(key: &ES256KeyPair) -> Value {
    serde_json::from_str(&key.public_key().to_jwk()).unwrap()
}

async fn serve(listener: TcpListener, served: Arc<Mutex<Served>>, asked: Arc<Asked>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (served, asked) = (served.clone(), asked.clone());
        let answer = service_fn(move |request: Request<Incoming>| {
            let answer = answer(&served.lock().unwrap(), request.uri().path(), &asked);
            async move { Ok::<_, Infallible>(answer) }
        });
        tokio::spawn(async move {
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

fn answer(served: &Served, path: &str, asked: &Asked) -> Response<Full<Bytes>> {
    let is_keys = path.ends_with("/keys");
    asked.all.fetch_add(1, Ordering::SeqCst);
    if is_keys {
        asked.keys.fetch_add(1, Ordering::SeqCst);
    }
    let text = if is_keys {
        served.keys.to_string()
    } else {
        served.configuration.to_string()
    };
    let answer = match &served.behaviour {
        Behaviour::Down => Response::builder().status(503).body(Full::default()),
        Behaviour::Redirect(to) => Response::builder()
            .status(302)
            .header("location", to)
            .body(Full::default()),
        Behaviour::Oversized if is_keys => {
            Response::builder().body(Full::from(format!("{text}{}", " ".repeat(256 * 1024))))
        }
        Behaviour::Right | Behaviour::Oversized => Response::builder().body(Full::from(text)),
    };
    answer.unwrap()
}
