use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use async_nats::jetstream::{self, stream};

use super::support::{Home, alive, read, until};
use crate::client::{self, Login};
use crate::copies::look_for_a_while;
use crate::local_server::{ClusterConfig, End, KeyName, LocalCluster, LocalServer, RouteSecret};

async fn start(home: &Home) -> LocalCluster {
    let config = ClusterConfig {
        common: home.config(),
        listen: "127.0.0.1:0".parse().unwrap(),
        secret: RouteSecret::load_or_create(&home.dir.path().join("keys")).unwrap(),
        servers: 3,
    };
    LocalCluster::start(&home.binary, &config, &home.keys).await.unwrap()
}

async fn store(home: &Home, url: String) -> jetstream::Context {
    let seed = home.keys.seed(KeyName::Store).clone();
    let login = Login {
        url,
        role: "store",
        seed,
    };
    jetstream::new(client::connect(&login).await.unwrap())
}

async fn make_stream(jetstream: &jetstream::Context) {
    let config = stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["chat.fan.>".to_owned()],
        num_replicas: 3,
        ..stream::Config::default()
    };
    until("the servers have a leader and make a stream", async || {
        jetstream.create_stream(config.clone()).await.is_ok()
    })
    .await;
}

async fn publish(jetstream: &jetstream::Context) {
    until("a message is stored", async || {
        let Ok(ack) = jetstream.publish("chat.fan.main.lobby", "x".into()).await else {
            return false;
        };
        ack.await.is_ok()
    })
    .await;
}

async fn current_copies(jetstream: &jetstream::Context) -> usize {
    let Ok(stream) = jetstream.get_stream("KEPT").await else {
        return 0;
    };
    let cluster = stream.cached_info().cluster.clone().unwrap_or_default();
    let current = cluster.replicas.iter().filter(|peer| peer.current && !peer.offline);
    current.count() + usize::from(cluster.leader.is_some())
}

#[tokio::test]
async fn three_servers_keep_three_copies_and_one_may_be_lost() {
    let home = Home::new().await;
    let cluster = start(&home).await;
    let names: Vec<&str> = cluster.servers().iter().map(LocalServer::name).collect();
    assert_eq!(names, ["nj-test-n1", "nj-test-n2", "nj-test-n3"]);
    let jetstream = store(&home, cluster.nats_url()).await;
    make_stream(&jetstream).await;
    publish(&jetstream).await;
    until("three copies", async || current_copies(&jetstream).await == 3).await;

    let lost = cluster.named("nj-test-n2").unwrap();
    let (pid, endpoints) = (lost.pid().unwrap(), lost.endpoints());
    lost.take_down(End::Kill).await;
    assert!(!alive(pid) && lost.pid().is_none());
    publish(&jetstream).await;
    lost.bring_up().await;
    assert_eq!(lost.endpoints(), endpoints);
    until("three copies again", async || current_copies(&jetstream).await == 3).await;

    lost.take_down(End::Clean).await;
    lost.bring_up().await;
    let there = store(&home, endpoints.nats_url()).await;
    until("the server that was away has all messages", async || {
        there
            .get_stream("KEPT")
            .await
            .is_ok_and(|stream| stream.cached_info().state.messages >= 2)
    })
    .await;
    let pids: Vec<u32> = cluster.servers().iter().map(|server| server.pid().unwrap()).collect();
    cluster.shutdown().await;
    assert!(!pids.into_iter().any(alive));
}

#[tokio::test]
async fn a_copy_that_a_message_is_on_its_way_to_is_not_said_to_be_behind() {
    let home = Home::new().await;
    let cluster = start(&home).await;
    let jetstream = store(&home, cluster.nats_url()).await;
    make_stream(&jetstream).await;
    publish(&jetstream).await;
    until("three copies", async || current_copies(&jetstream).await == 3).await;
    let client = store(&home, cluster.nats_url()).await.client();
    let looks = async {
        for _ in 0..200 {
            let copies = look_for_a_while(&client, "KEPT").await.unwrap();
            assert!(copies.is_whole(), "{copies:?}");
        }
    };
    let publishing = async {
        loop {
            publish(&jetstream).await;
        }
    };
    tokio::select! {
        () = looks => {}
        () = publishing => {}
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn files_of_a_cluster_are_private_and_hold_the_secret_in_one_place() {
    let home = Home::new().await;
    let cluster = start(&home).await;
    let secret = read(&home.dir.path().join("keys/routes.key"));
    for server in cluster.servers() {
        let config = server.dir().join("nats-server.conf");
        assert!(!read(&config).contains(secret.trim()));
        let routes = server.dir().join("routes.conf");
        assert_eq!(read(&routes).matches(secret.trim()).count(), 4);
        for path in [config, routes] {
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", path.display());
        }
        let log = read(&server.dir().join("nats-server.log"));
        assert!(!log.contains(secret.trim()), "the log tells the secret");
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_server_without_the_secret_does_not_get_in() {
    let home = Home::new().await;
    let cluster = start(&home).await;
    let dir = home.dir.path().join("stranger");
    fs::create_dir(&dir).unwrap();
    let routes = read(&cluster.servers()[0].dir().join("routes.conf"));
    let route = routes.lines().find_map(|line| line.trim().split('@').nth(1)).unwrap();
    let config = format!(
        "server_name: stranger, listen: \"127.0.0.1:-1\", log_file: \"{dir}/log\"\n\
         cluster {{ name: nj-test, listen: \"127.0.0.1:-1\", routes: [ \"nats://natterjack:guess@{route} ] }}",
        dir = dir.display()
    );
    fs::write(dir.join("conf"), config).unwrap();
    let mut stranger = Command::new(home.binary.path())
        .arg("-c")
        .arg(dir.join("conf"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let asked = cluster.servers()[0].dir().join("nats-server.log");
    until("it is refused", async || {
        let told = fs::read_to_string(dir.join("log")).unwrap_or_default();
        told.contains("Authorization Violation") && read(&asked).contains("authentication error")
    })
    .await;
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    cluster.shutdown().await;
}
