//! TLS at the HTTP door: what is spoken over it, and certificates that change under connections that stay.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::eventually;
use crate::support::house::{House, natterjack, refusal, signal};
use crate::support::script::Script;

/// Certificates on disk, as an ACME client leaves them there.
pub(crate) struct Files {
    dir: TempDir,
    roots: RootCertStore,
}

impl Files {
    pub(crate) fn new() -> Self {
        let mut files = Self {
            dir: tempfile::tempdir().unwrap(),
            roots: RootCertStore::empty(),
        };
        files.renew();
        files
    }

    pub(crate) fn cert(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    /// Another certificate and key in the same files; clients here trust all of them.
    pub(crate) fn renew(&mut self) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        self.roots.add(made.cert.der().clone()).unwrap();
        std::fs::write(self.cert(), made.cert.pem()).unwrap();
        std::fs::write(self.key(), made.signing_key.serialize_pem()).unwrap();
        made.cert.der().clone()
    }

    pub(crate) async fn house(&self) -> House {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let settings = [
            ("NATTERJACK_BRIDGE__TLS__CERT", text(self.cert())),
            ("NATTERJACK_BRIDGE__TLS__KEY", text(self.key())),
        ];
        House::start_with(settings).await
    }

    /// A client who offers these protocols.
    async fn connect(&self, house: &House, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let stream = TcpStream::connect(address(house)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap()
    }
}

fn address(house: &House) -> String {
    house.endpoints.http.strip_prefix("https://").expect("TLS").to_owned()
}

/// The certificate that a connection was shown.
fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn request(house: &House, token: &str, path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("https://{}{path}", address(house)))
        .header("host", address(house))
        .header("authorization", format!("Bearer {token}"))
        .body(Empty::new())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_and_2_are_spoken_as_the_client_offers() {
    let files = Files::new();
    let house = files.house().await;
    // The commands on the data folder find it too.
    house.run(&["room", "create", "lobby"]);
    house.run(&["room", "add", "lobby", "alice"]);
    house.run(&["send", "lobby", "hello"]);
    let token = house.token("alice");
    let path = "/v1/events?cursor=earliest&rooms=lobby&wait=0";

    let stream = files.connect(&house, &[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let answer = client.send_request(request(&house, &token, path)).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
    let by_http_2 = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&by_http_2).contains("hello"), "{by_http_2:?}");

    for protocols in [&[&b"http/1.1"[..]][..], &[]] {
        let stream = files.connect(&house, protocols).await;
        let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let answer = client.send_request(request(&house, &token, path)).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_11));
        let events = |page: &[u8]| serde_json::from_slice::<Value>(page).unwrap()["events"].clone();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(events(&body), events(&by_http_2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_go_over_it_for_clients_of_others() {
    let files = Files::new();
    let house = files.house().await;
    house.run(&["room", "create", "lobby"]);
    house.run(&["send", "lobby", "hello"]);
    let script = Script::events("admin").await;
    for transport in ["sse", "ws"] {
        let ask = json!({
            "transport": transport, "address": address(&house), "token": house.token("admin"), "ca": files.cert(),
            "cursor": "earliest", "rooms": "lobby", "count": 3,
        });
        let answer = script.call("read", ask).await;
        assert!(
            answer["events"][2][1]
                .as_str()
                .is_some_and(|event| event.contains("hello")),
            "{transport}: {answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_to_the_next_and_ends_no_connection() {
    let mut files = Files::new();
    let house = files.house().await;
    house.run(&["room", "create", "lobby"]);
    let token = house.token("admin");
    let stream = files.connect(&house, &[b"http/1.1"]).await;
    let first = shown(&stream);
    let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let parked = client.send_request(request(&house, &token, "/v1/events?rooms=lobby&wait=50"));

    let second = files.renew();
    assert_ne!(first, second);
    signal(house.pid(), Signal::HUP);
    eventually("the second is shown", async || {
        (shown(&files.connect(&house, &[]).await) == second).then_some(())
    })
    .await;
    // Half a change: the second stays.
    std::fs::write(files.key(), "no key").unwrap();
    signal(house.pid(), Signal::HUP);
    assert_eq!(shown(&files.connect(&house, &[]).await), second);
    // Without a signal it is seen too.
    let third = files.renew();
    eventually("the third is shown", async || {
        (shown(&files.connect(&house, &[]).await) == third).then_some(())
    })
    .await;

    house.run(&["send", "lobby", "through the first"]);
    let answer = parked.await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("through the first"), "{body:?}");
    client.ready().await.expect("the first connection is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_is_not_answered() {
    let files = Files::new();
    let house = files.house().await;
    for said in ["GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", ""] {
        let mut stream = TcpStream::connect(address(&house)).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        // Who says nothing is cut as without TLS.
        tokio::time::timeout(Duration::from_mins(1), reading)
            .await
            .expect("it is cut")
            .ok();
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1"), "{answer:?}");
    }
}

#[test]
fn bad_files_are_told_before_a_port_opens() {
    let files = Files::new();
    let other = Files::new();
    let data = tempfile::tempdir().unwrap();
    let (cert, key, none) = (files.cert(), files.key(), PathBuf::new());
    let missing = files.dir.path().join("missing.pem");
    for (cert, key, expected) in [
        (&cert, &none, "`bridge.tls.key`"),
        (&none, &key, "`bridge.tls.cert`"),
        (&missing, &key, "missing.pem cannot be read"),
        (&cert, &cert, "has no private key"),
        (&key, &key, "has no certificate"),
        (&cert, &other.key(), "cannot be used with the key"),
    ] {
        let mut up = natterjack();
        up.arg("up").arg("--offline").arg("--data").arg(data.path());
        up.env("NATTERJACK_BRIDGE__TLS__CERT", cert)
            .env("NATTERJACK_BRIDGE__TLS__KEY", key);
        // A port that is taken: were it tried before the files, it would be the error.
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        up.arg("--http").arg(taken.local_addr().unwrap().to_string());
        let error = refusal(&up.output().unwrap());
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
