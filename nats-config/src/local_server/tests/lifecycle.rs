use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use async_nats::jetstream;
use futures_util::StreamExt;
use nkeys::KeyPair;

use super::support::{Home, alive, connect, deny_everybody, kill, read, until};
use crate::local_server::{LocalServerError, ServerConfig, Tool, add_tool};

#[tokio::test]
async fn it_starts_on_free_ports_and_stops() {
    let home = Home::new().await;
    let server = home.start().await;
    let ends = server.endpoints();
    assert!(ends.nats.port() != 0 && ends.websocket.port() != 0 && ends.mqtt.port() != 0);
    let store = home.store(&server).await;
    assert_eq!(store.server_info().server_name, "nj-test");
    let _callout = deny_everybody(&home, &server).await;
    assert!(
        connect(&server, &KeyPair::new_user().seed().unwrap(), "_INBOX_x")
            .await
            .is_err()
    );

    let pid = server.pid().unwrap();
    server.shutdown().await;
    assert!(!alive(pid));
    let ports_files = fs::read_dir(home.server_dir().join("ports")).unwrap();
    assert_eq!(ports_files.count(), 0, "it tidied up, so it was not killed");
}

#[tokio::test]
async fn killed_it_comes_back_on_the_same_ports_with_what_it_stored() {
    let home = Home::new().await;
    let server = home.start().await;
    let before = (server.pid().unwrap(), server.endpoints());
    let jetstream = jetstream::new(home.store(&server).await);
    let config = jetstream::stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["chat.fan.>".to_owned()],
        ..jetstream::stream::Config::default()
    };
    jetstream.create_stream(config).await.unwrap();
    jetstream
        .publish("chat.fan.main.lobby", "x".into())
        .await
        .unwrap()
        .await
        .unwrap();

    kill(before.0);
    until("it is back", async || server.pid().is_some_and(|pid| pid != before.0)).await;
    assert_eq!(server.endpoints(), before.1);
    let jetstream = jetstream::new(home.store(&server).await);
    let stream = jetstream.get_stream("KEPT").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 1);
    server.shutdown().await;
}

#[tokio::test]
async fn dropping_it_stops_the_server() {
    let home = Home::new().await;
    let server = home.start().await;
    let pid = server.pid().unwrap();
    drop(server);
    until("it is gone", async || !alive(pid)).await;
}

#[tokio::test]
async fn a_port_in_use_is_said_with_the_servers_own_words() {
    let home = Home::new().await;
    for which in 0..3 {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut config = home.config();
        *[&mut config.nats, &mut config.websocket, &mut config.mqtt][which] = address;
        // No port is chosen here, so none is chosen again.
        let fixed = |a: std::net::SocketAddr| if a.port() == 0 { free() } else { a };
        let config = ServerConfig {
            nats: fixed(config.nats),
            websocket: fixed(config.websocket),
            mqtt: fixed(config.mqtt),
            ..config
        };
        let error = home.try_start(config).await.unwrap_err();
        let LocalServerError::PortInUse { line } = &error else {
            panic!("{error}")
        };
        assert!(line.contains(&address.port().to_string()), "{line}");
    }
}

fn free() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_bad_store_folder_is_said_with_the_servers_own_words() {
    let home = Home::new().await;
    fs::create_dir_all(home.server_dir()).unwrap();
    fs::write(home.server_dir().join("jetstream"), "a file where a folder should be").unwrap();
    let error = home.try_start(home.config()).await.unwrap_err();
    let LocalServerError::Exited { line, .. } = &error else {
        panic!("{error}")
    };
    assert!(line.contains("[FTL]") && line.contains("storage directory"), "{line}");
}

#[tokio::test]
async fn an_orphan_is_stopped_and_a_strangers_process_is_not() {
    let home = Home::new().await;
    let server = home.start().await;
    server.shutdown().await;
    let file = home.server_dir().join("nats-server.conf");
    let pid_file = home.server_dir().join("nats-server.pid");

    // What a killed natterjack leaves behind.
    let mut orphan = Command::new(home.binary.path())
        .arg("-c")
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the orphan runs", async || {
        fs::read_to_string(&pid_file).is_ok_and(|text| text == orphan.id().to_string())
    })
    .await;
    let server = home.start().await;
    assert!(orphan.try_wait().unwrap().is_some(), "the orphan has ended");
    assert_eq!(read(&pid_file), server.pid().unwrap().to_string());
    server.shutdown().await;

    // A process number that has come to somebody else.
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    fs::write(&pid_file, stranger.id().to_string()).unwrap();
    let server = home.start().await;
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    server.shutdown().await;
}

#[tokio::test]
async fn a_folder_has_one_server() {
    let home = Home::new().await;
    let server = home.start().await;
    let pid = server.pid();
    let error = home.try_start(home.config()).await.unwrap_err();
    assert!(matches!(error, LocalServerError::InUse { .. }), "{error}");
    assert_eq!(server.pid(), pid, "the first is untouched");
    server.shutdown().await;
}

#[tokio::test]
async fn a_tool_added_to_a_running_server_reads_its_tenants_rooms_and_no_worker_is_disturbed() {
    let home = Home::new().await;
    let server = home.start().await;
    let store = home.store(&server).await;
    let _callout = deny_everybody(&home, &server).await;
    let user = KeyPair::new_user();
    let seed = user.seed().unwrap();
    let tool = Tool {
        name: "reports".parse().unwrap(),
        tenant: "main".parse().unwrap(),
        nkey: user.public_key(),
    };
    add_tool(&home.server_dir(), &tool).unwrap();
    assert!(connect(&server, &seed, "_INBOX_tool").await.is_err(), "not yet known");
    server.reload().await.unwrap();
    server.reload().await.unwrap();

    let tool = jetstream::new(connect(&server, &seed, "_INBOX_tool").await.unwrap());
    let config = jetstream::stream::Config {
        name: "COPY".to_owned(),
        subjects: vec!["chat.room.main.>".to_owned()],
        ..jetstream::stream::Config::default()
    };
    let stream = tool.create_stream(config).await.unwrap();
    for tenant in ["other", "main"] {
        store
            .publish(format!("chat.room.{tenant}.lobby.now"), "hello".into())
            .await
            .unwrap();
    }
    let durable = jetstream::consumer::pull::Config {
        durable_name: Some("reader".to_owned()),
        ..jetstream::consumer::pull::Config::default()
    };
    let consumer = stream.create_consumer(durable).await.unwrap();
    let message = consumer.messages().await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(&*message.subject, "chat.room.main.lobby.now");
    message.double_ack().await.unwrap();
    assert_eq!(
        store.statistics().connects.load(std::sync::atomic::Ordering::Relaxed),
        1
    );
    server.shutdown().await;
}

#[tokio::test]
async fn a_reload_that_is_refused_changes_nothing() {
    let home = Home::new().await;
    let server = home.start().await;
    let file = home.server_dir().join("nats-server.conf");
    let before = read(&file);
    // A worker's key, which is in the file already.
    let tool = Tool {
        name: "thief".parse().unwrap(),
        tenant: "main".parse().unwrap(),
        nkey: home.keys.public().store,
    };
    add_tool(&home.server_dir(), &tool).unwrap();
    let error = server.reload().await.unwrap_err();
    assert!(matches!(error, LocalServerError::BadConfig { .. }), "{error}");
    assert_eq!(read(&file), before);
    home.store(&server).await;
    server.shutdown().await;
}
