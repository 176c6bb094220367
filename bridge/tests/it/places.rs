//! So many connections from one address, by sockets or by the word of a proxy.

use natterjack_bridge::{Caps, ForwardedHeader, Proxies};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::door::raw;
use crate::support::{Book, Bridge, Nats, until};

fn caps(max_connections_per_address: usize) -> Caps {
    Caps {
        max_connections_per_address,
        ..Caps::default()
    }
}

/// The number of a metric at the bridge.
async fn shown(bridge: &Bridge, metric: &str) -> u64 {
    let answer = ask(bridge, "GET /metrics", "").await;
    let line = answer.lines().find_map(|line| line.strip_prefix(metric));
    line.unwrap_or_else(|| panic!("{metric}: {answer}"))
        .trim()
        .parse()
        .unwrap()
}

/// A request by a connection of its own, with more lines in its head.
async fn ask(bridge: &Bridge, what: &str, more: &str) -> String {
    let request = format!("{what} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}\r\n");
    raw(bridge, &request).await
}

#[tokio::test]
async fn one_address_gets_so_many_places_and_they_are_free_again() {
    let nats = Nats::start().await;
    // The one that asked whether the bridge serves is one of the two.
    let bridge = Bridge::start_unready(&nats, caps(2)).await;
    let second = TcpStream::connect(bridge.address).await.unwrap();
    let forged = "x-forwarded-for: 203.0.113.7\r\nforwarded: for=203.0.113.7\r\n";
    let answer = ask(&bridge, "GET /livez", forged).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("from your address"),
        "{answer}"
    );
    let wait = answer.lines().find_map(|line| line.strip_prefix("retry-after: "));
    assert!((1..=4).contains(&wait.unwrap().parse::<u64>().unwrap()), "{answer}");
    drop(second);
    let free = async || {
        ask(&bridge, "GET /livez", "")
            .await
            .starts_with("HTTP/1.1 200")
            .then_some(())
    };
    until("there is a place again", free).await;
    assert!(shown(&bridge, "natterjack_http_address_turned_away_total").await >= 1);
    assert_eq!(shown(&bridge, "natterjack_http_turned_away_total").await, 0);
    bridge.shutdown().await;
}

/// A poll, a stream and a socket: each lasts until its client leaves.
const LASTING: [&str; 3] = [
    "GET /v1/events?wait=50 HTTP/1.1\r\n",
    "GET /v1/events/stream HTTP/1.1\r\n",
    "GET /v1/ws HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n\
     sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
];

#[tokio::test]
async fn behind_a_trusted_proxy_its_clients_count_each_for_its_address() {
    let nats = Nats::start().await;
    let _book = Book::with_lobby(&nats).await;
    let proxies = Proxies::parse(&["127.0.0.0/8".to_owned()], ForwardedHeader::XForwardedFor).unwrap();
    let bridge = Bridge::start_behind(&nats, caps(1), proxies).await;
    bridge.ready.clone().wait_for(|ready| *ready).await.unwrap();
    let livez = async |client: &str| ask(&bridge, "GET /livez", &format!("x-forwarded-for: {client}\r\n")).await;
    let is_free = async |client: &str| livez(client).await.starts_with("HTTP/1.1 200");
    for asked in LASTING {
        let mut lasting = TcpStream::connect(bridge.address).await.unwrap();
        let token = bridge.token("bob");
        let more = "host: x\r\nx-forwarded-for: 6.6.6.6, 203.0.113.7\r\n";
        let asked = format!("{asked}{more}authorization: Bearer {token}\r\n\r\n");
        lasting.write_all(asked.as_bytes()).await.unwrap();
        let full = until("the address has no place left", async || {
            let answer = livez("203.0.113.7").await;
            answer.starts_with("HTTP/1.1 503").then_some(answer)
        })
        .await;
        for part in [
            "retry-after: ",
            "application/problem+json",
            "\"overloaded\"",
            "of your address",
        ] {
            assert!(full.contains(part), "{part}: {full}");
        }
        for other in ["203.0.113.8", "203.0.113.7, 203.0.113.8", "6.6.6.6", "unknown", ""] {
            assert!(is_free(other).await, "{other}");
        }
        // Still, whatever has been said on it meanwhile.
        assert!(!is_free("203.0.113.7").await, "{asked}");
        drop(lasting);
        until("the place is free again", async || {
            is_free("203.0.113.7").await.then_some(())
        })
        .await;
    }
    assert!(shown(&bridge, "natterjack_http_address_turned_away_total").await >= 3);
    bridge.shutdown().await;
}
