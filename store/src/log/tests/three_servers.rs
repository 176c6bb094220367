//! ROOMS in a cluster of three servers: in memory, with three copies, and a leader that dies or hands over.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, jetstream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::{WriterConfig, run};
use super::holes::{BUNDLE, Load, ROOMS, SENDERS, assert_rooms_are_the_log, keep_all};
use super::support::{LONG, config};

/// A bundle of each sender.
const BUNDLES: usize = SENDERS * BUNDLE;

/// Three servers without accounts or rights; those are not what is tested here.
struct Cluster {
    nodes: Vec<Node>,
    urls: Vec<String>,
    _folder: tempfile::TempDir,
}

struct Node {
    name: String,
    file: PathBuf,
    child: Child,
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports = free_ports(6);
        let (clients, routes) = ports.split_at(3);
        let all_routes: Vec<_> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut nodes = Vec::new();
        for (at, (client, route)) in clients.iter().zip(routes).enumerate() {
            let name = format!("n{at}");
            let file = folder.path().join(format!("{name}.conf"));
            let store = folder.path().join(&name);
            let text = format!(
                "server_name: {name}\nlisten: \"127.0.0.1:{client}\"\n\
                 jetstream {{ store_dir: {store:?}, max_memory_store: 900MB, max_file_store: 1GB }}\n\
                 cluster {{ name: test, listen: \"127.0.0.1:{route}\", routes: {all_routes:?} }}\n"
            );
            std::fs::write(&file, text).unwrap();
            let child = spawn(&file);
            nodes.push(Node { name, file, child });
        }
        let urls = clients.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        Self {
            nodes,
            urls,
            _folder: folder,
        }
    }

    /// Connects to one of the servers, and to another one when that is gone.
    async fn connect(&self, role: &str) -> Client {
        let connected = async {
            loop {
                let options = ConnectOptions::new()
                    .custom_inbox_prefix(format!("_INBOX_{role}"))
                    .subscription_capacity(64 * 1024)
                    .reconnect_delay_callback(|_| Duration::from_millis(50));
                match options.connect(&self.urls).await {
                    Ok(client) => break client,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        timeout(LONG, connected).await.expect("no server can be reached")
    }

    async fn kill(&mut self, name: &str) {
        let node = self.nodes.iter_mut().find(|node| node.name == name).unwrap();
        node.child.kill().await.unwrap();
    }

    fn start_again(&mut self, name: &str) {
        let node = self.nodes.iter_mut().find(|node| node.name == name).unwrap();
        node.child = spawn(&node.file);
    }

    async fn end(mut self) {
        for node in &mut self.nodes {
            node.child.kill().await.unwrap();
        }
    }
}

fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<_> = (0..count)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    held.iter().map(|held| held.local_addr().unwrap().port()).collect()
}

fn spawn(file: &std::path::Path) -> Child {
    Command::new(std::env::var_os("NATS_SERVER_BIN").unwrap())
        .arg("-c")
        .arg(file)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Waits until ROOMS has a leader and all its copies are there, and names the leader.
async fn whole(client: &Client) -> String {
    let whole = async {
        loop {
            if let Ok(stream) = jetstream::new(client.clone()).get_stream(ROOMS).await
                && let Some(cluster) = &stream.cached_info().cluster
                && cluster.replicas.len() == 2
                && cluster
                    .replicas
                    .iter()
                    .all(|replica| replica.current && !replica.offline)
                && let Some(leader) = &cluster.leader
            {
                break leader.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG * 2, whole).await.expect("ROOMS is not whole")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "not seen green yet on a busy machine: requests to the cluster time out before ROOMS can be compared"]
async fn rooms_are_the_log_after_their_leader_died_or_handed_over_under_load() {
    let mut cluster = Cluster::start().await;
    let store = cluster.connect("store").await;
    let (told, mut leading) = watch::channel(false);
    let stop = CancellationToken::new();
    let config = WriterConfig {
        replicas: 3,
        ..config("writer")
    };
    let writer = tokio::spawn(run(store, config, told, stop.clone()));
    timeout(LONG, leading.wait_for(|leading| *leading))
        .await
        .expect("it never led")
        .unwrap();
    let observer = cluster.connect("bridge").await;
    keep_all(&observer).await;
    let mut senders = Vec::new();
    for _ in 0..SENDERS {
        senders.push(cluster.connect("bridge").await);
    }
    let load = Load::start(senders).await;
    for round in 0..9 {
        load.sends(3 * BUNDLES).await;
        let leader = whole(&observer).await;
        if round % 3 == 2 {
            cluster.kill(&leader).await;
            load.sends(BUNDLES).await;
            cluster.start_again(&leader);
        } else {
            let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{ROOMS}");
            observer.request(subject, "".into()).await.unwrap();
        }
    }
    load.sends(BUNDLES).await;
    load.end().await;
    assert_rooms_are_the_log(&observer).await;
    stop.cancel();
    writer.await.unwrap().unwrap();
    cluster.end().await;
}
