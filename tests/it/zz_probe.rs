use async_nats::jetstream::{self, kv, stream::StorageType};
use futures_util::TryStreamExt;
use std::time::Duration;
#[tokio::test(flavor = "multi_thread")]
async fn probe() {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut child = std::process::Command::new(crate::support::tools::nats_server())
        .args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
        .arg(dir.path())
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let url = format!("nats://127.0.0.1:{port}");
    let c1 = async_nats::connect(&url).await.unwrap();
    let c2 = async_nats::connect(&url).await.unwrap();
    let config = kv::Config {
        bucket: "L".into(),
        history: 1,
        max_age: Duration::from_secs(3),
        storage: StorageType::Memory,
        ..kv::Config::default()
    };
    let b1 = jetstream::new(c1).create_key_value(config).await.unwrap();
    let b2 = jetstream::new(c2).get_key_value("L").await.unwrap();
    b1.put("authz.a", "x".into()).await.unwrap();
    b1.put("authz.b", "x".into()).await.unwrap();
    let pause: u64 = std::env::var("PAUSE_US").unwrap_or("1000".into()).parse().unwrap();
    let w = tokio::spawn(async move {
        loop {
            b1.put("authz.a", "x".into()).await.unwrap();
            b1.put("authz.b", "x".into()).await.unwrap();
            tokio::time::sleep(Duration::from_micros(pause)).await;
        }
    });
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..2000 {
        let keys: Vec<String> = b2.keys().await.unwrap().try_collect().await.unwrap();
        *counts.entry(keys).or_insert(0) += 1;
    }
    w.abort();
    child.kill().unwrap();
    child.wait().unwrap();
    eprintln!("COUNTS {counts:?}");
}
