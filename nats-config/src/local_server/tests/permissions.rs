//! The allow-lists of `server/single.conf`: each worker can do its work, and nothing of another's.

use async_nats::Client;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::{self, kv, stream};
use async_nats::service::ServiceExt;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::support::{Home, LIMIT, refusals, subjects, watched};
use crate::contract::{MQTT_MESSAGES, Subjects};
use crate::lease::Leases;
use crate::local_server::KeyName;

async fn log_stream(store: &Client) -> stream::Stream {
    let config = stream::Config {
        name: subjects().log_stream(0, 1),
        subjects: vec![subjects().log(0, 1)],
        allow_direct: true,
        ..stream::Config::default()
    };
    jetstream::new(store.clone()).create_stream(config).await.unwrap()
}

#[tokio::test]
async fn store_manages_streams_and_writes_the_log() {
    let home = Home::new().await;
    let server = home.start().await;
    let (store, mut heard) = watched(&home, &server, "store", KeyName::Store).await;
    let mut stream = log_stream(&store).await;
    let jetstream = jetstream::new(store.clone());
    jetstream
        .publish(subjects().log(0, 1), "frame".into())
        .await
        .unwrap()
        .await
        .unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
    let durable = pull::Config {
        durable_name: Some("archive".to_owned()),
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(durable).await.unwrap();
    let message = consumer.messages().await.unwrap().next().await.unwrap().unwrap();
    message.double_ack().await.unwrap();
    stream.purge().await.unwrap();
    Leases::open(&store, &subjects(), 1).await.unwrap();
    for subject in [
        "chat.fan.main.lobby",
        "chat.user.main.alice",
        "chat.room.main.lobby.now",
        "_R_.x.y",
    ] {
        store.publish(subject, "x".into()).await.unwrap();
    }
    assert_eq!(refusals(&store, &mut heard).await, Vec::<String>::new());
    server.shutdown().await;
}

/// What bridge and authz do with the log, by every way that async-nats has.
async fn reads_the_log(client: &Client) {
    let jetstream = jetstream::new(client.clone());
    let stream = jetstream.get_stream(subjects().log_stream(0, 1)).await.unwrap();
    assert_eq!(stream.direct_get(1).await.unwrap().payload, "one");
    assert_eq!(
        stream
            .direct_get_last_for_subject(subjects().log(0, 1))
            .await
            .unwrap()
            .payload,
        "two"
    );
    assert_eq!(stream.get_raw_message(2).await.unwrap().payload, "two");
    let ordered = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::All,
        ..pull::OrderedConfig::default()
    };
    let mut messages = stream.create_consumer(ordered).await.unwrap().messages().await.unwrap();
    for expected in ["one", "two"] {
        let message = timeout(LIMIT, messages.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(message.payload, expected);
    }
    let acking = pull::Config::default();
    let consumer = stream.create_consumer(acking).await.unwrap();
    let message = consumer.messages().await.unwrap().next().await.unwrap().unwrap();
    message.double_ack().await.unwrap();
    stream.delete_consumer(&consumer.cached_info().name).await.unwrap();
}

#[tokio::test]
async fn bridge_and_authz_read_the_log_and_can_neither_write_nor_manage_it() {
    let home = Home::new().await;
    let server = home.start().await;
    let store = home.store(&server).await;
    log_stream(&store).await;
    let jetstream = jetstream::new(store.clone());
    for frame in ["one", "two"] {
        jetstream
            .publish(subjects().log(0, 1), frame.into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    for (role, key) in [("bridge", KeyName::Bridge), ("authz", KeyName::Authz)] {
        let (client, mut heard) = watched(&home, &server, role, key).await;
        reads_the_log(&client).await;
        assert_eq!(refusals(&client, &mut heard).await, Vec::<String>::new(), "{role}");
        let forbidden = [
            "chat.log.0.1",
            "chat.fan.main.lobby",
            "chat.room.main.lobby.log",
            "chat.in.main.alice.lobby.msg",
            "$JS.API.STREAM.CREATE.EVIL",
            "$JS.API.STREAM.UPDATE.CHAT_LOG_0_1",
            "$JS.API.STREAM.DELETE.CHAT_LOG_0_1",
            "$JS.API.STREAM.PURGE.CHAT_LOG_0_1",
            "$JS.API.STREAM.MSG.DELETE.CHAT_LOG_0_1",
            "$MQTT.msgs.x",
            "$SYS.REQ.SERVER.PING.CONNZ",
        ];
        for subject in forbidden {
            client.publish(subject, "x".into()).await.unwrap();
        }
        assert_eq!(refusals(&client, &mut heard).await.len(), forbidden.len(), "{role}");
        for subject in [
            "chat.log.>",
            "chat.write.>",
            "chat.in.>",
            "_INBOX_store.>",
            "$JS.>",
            ">",
        ] {
            // Whatever it was given, it must not be told; the server says so.
            let _subscription = client.subscribe(subject).await.unwrap();
            assert_eq!(refusals(&client, &mut heard).await.len(), 1, "{role} {subject}");
        }
    }
    server.shutdown().await;
}

#[tokio::test]
async fn authz_holds_leases_which_bridge_can_only_see() {
    let home = Home::new().await;
    let server = home.start().await;
    let (authz, mut heard) = watched(&home, &server, "authz", KeyName::Authz).await;
    let leases = Leases::open(&authz, &subjects(), 1).await.unwrap();
    let bucket = jetstream::new(authz.clone())
        .get_key_value(subjects().lease_bucket())
        .await
        .unwrap();
    let mut watch = bucket.watch("authz.*").await.unwrap();
    let mut lease = leases.try_take("authz.a", "a").await.unwrap().unwrap();
    assert!(lease.renew().await.unwrap());
    assert_eq!(leases.holders("authz.").await.unwrap(), ["a"]);
    assert_eq!(
        timeout(LIMIT, watch.next()).await.unwrap().unwrap().unwrap().operation,
        kv::Operation::Put
    );

    let (bridge, mut bridge_heard) = watched(&home, &server, "bridge", KeyName::Bridge).await;
    let seen = Leases::join(&bridge, &subjects()).await.unwrap();
    assert_eq!(seen.holders("authz.").await.unwrap(), ["a"]);
    bridge.publish("$KV.CHAT_LEASE.authz.a", "stolen".into()).await.unwrap();
    assert_eq!(refusals(&bridge, &mut bridge_heard).await.len(), 1);

    lease.release().await;
    assert_eq!(leases.holders("authz.").await.unwrap(), Vec::<String>::new());
    assert_eq!(refusals(&authz, &mut heard).await, Vec::<String>::new());
    server.shutdown().await;
}

#[tokio::test]
async fn bridge_notes_which_tickets_were_used_and_writes_no_other_bucket() {
    let home = Home::new().await;
    let server = home.start().await;
    let (bridge, mut heard) = watched(&home, &server, "bridge", KeyName::Bridge).await;
    let config = kv::Config {
        bucket: subjects().ticket_bucket(),
        ..kv::Config::default()
    };
    let bucket = jetstream::new(bridge.clone()).create_key_value(config).await.unwrap();
    bucket.create("one", "".into()).await.unwrap();
    let again = bucket.create("one", "".into()).await.unwrap_err();
    assert_eq!(again.kind(), kv::CreateErrorKind::AlreadyExists);
    assert_eq!(refusals(&bridge, &mut heard).await, Vec::<String>::new());
    let forbidden = [
        "$JS.API.STREAM.CREATE.KV_CHAT_LEASE",
        "$JS.API.STREAM.UPDATE.KV_CHAT_TICKETS",
        "$JS.API.STREAM.PURGE.KV_CHAT_TICKETS",
        "$KV.CHAT_LEASE.writer.0",
    ];
    for subject in forbidden {
        bridge.publish(subject, "x".into()).await.unwrap();
    }
    assert_eq!(refusals(&bridge, &mut heard).await.len(), forbidden.len());
    server.shutdown().await;
}

/// Serves a subject as a micro service.
async fn serve(client: &Client, name: &str, subject: &str) {
    let service = client.service_builder().start(name, "1.0.0").await.unwrap();
    let mut endpoint = service.endpoint(subject).await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = endpoint.next().await {
            request.respond(Ok("answer".into())).await.unwrap();
        }
        drop(service);
    });
}

/// Serves a subject by plain request and reply, as the writer does.
async fn answer(client: &Client, subject: &'static str) {
    let mut requests = client.subscribe(subject).await.unwrap();
    let client = client.clone();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            client.publish(request.reply.unwrap(), "receipt".into()).await.unwrap();
        }
    });
}

#[tokio::test]
async fn workers_serve_each_other_and_answer_pings() {
    let home = Home::new().await;
    let server = home.start().await;
    let mut store = watched(&home, &server, "store", KeyName::Store).await;
    let mut bridge = watched(&home, &server, "bridge", KeyName::Bridge).await;
    let mut authz = watched(&home, &server, "authz", KeyName::Authz).await;
    serve(&store.0, "store", "chat.store.get").await;
    serve(&authz.0, "authz", "chat.authz.a.revoke").await;
    serve(&bridge.0, "bridge", "chat.api.*.*.events.get").await;
    answer(&store.0, "chat.write.0").await;
    for (client, heard) in [&mut store, &mut bridge, &mut authz] {
        assert_eq!(refusals(client, heard).await, Vec::<String>::new());
    }
    for (asking, subject) in [
        (&bridge.0, "chat.write.0"),
        (&authz.0, "chat.write.0"),
        (&bridge.0, "chat.store.get"),
        (&bridge.0, "chat.authz.a.revoke"),
    ] {
        let answer = timeout(LIMIT, asking.request(subject, "x".into())).await.unwrap();
        assert!(answer.is_ok(), "{subject}: {answer:?}");
    }
    let inbox = bridge.0.new_inbox();
    let pongs = bridge.0.subscribe(inbox.clone()).await.unwrap();
    bridge
        .0
        .publish_with_reply("$SRV.PING", inbox, "".into())
        .await
        .unwrap();
    assert_eq!(timeout(LIMIT, pongs.take(3).count()).await.unwrap(), 3);
    for (client, heard) in [&mut store, &mut bridge, &mut authz] {
        assert_eq!(refusals(client, heard).await, Vec::<String>::new());
    }
    server.shutdown().await;
}

#[tokio::test]
async fn sys_finds_and_closes_connections_and_does_nothing_else() {
    let home = Home::new().await;
    let server = home.start().await;
    let bridge = home.worker(&server, "bridge", KeyName::Bridge).await;
    let (sys, mut heard) = watched(&home, &server, "sys", KeyName::Sys).await;
    let mut events = sys.subscribe("$SYS.ACCOUNT.*.DISCONNECT").await.unwrap();
    let question = r#"{"auth":true,"acc":"CORE"}"#;
    let answer = sys
        .request("$SYS.REQ.SERVER.PING.CONNZ", question.into())
        .await
        .unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    let connection = &answer["data"]["connections"][0];
    assert_eq!(connection["authorized_user"], home.keys.public().bridge);
    let kick = format!("$SYS.REQ.SERVER.{}.KICK", answer["server"]["id"].as_str().unwrap());
    let cid = format!(r#"{{"cid":{}}}"#, connection["cid"]);
    sys.request(kick, cid.into()).await.unwrap();
    let event = timeout(LIMIT, events.next()).await.unwrap().unwrap();
    let event: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
    assert_eq!(event["reason"], "Kicked");
    drop(bridge);
    assert_eq!(refusals(&sys, &mut heard).await, Vec::<String>::new());

    let forbidden = ["$SYS.REQ.SERVER.x.RELOAD", "$SYS.REQ.SERVER.x.LDM", "chat.log.0.1"];
    for subject in forbidden {
        sys.publish(subject, "x".into()).await.unwrap();
    }
    assert_eq!(refusals(&sys, &mut heard).await.len(), forbidden.len());
    server.shutdown().await;
}

/// What store does for the devices, by every way that it has.
async fn works_for_devices(devices: &Client) {
    let jetstream = jetstream::new(devices.clone());
    let stream = jetstream
        .create_stream(stream::Config {
            name: MQTT_MESSAGES.to_owned(),
            subjects: vec![Subjects::mqtt_kept(">")],
            retention: stream::RetentionPolicy::Interest,
            ..stream::Config::default()
        })
        .await
        .unwrap();
    let name = subjects().devices_consumer();
    let wanted = pull::Config {
        name: Some(name.clone()),
        durable_name: Some(name.clone()),
        filter_subject: Subjects::mqtt_kept(&subjects().inbound_all()),
        ..pull::Config::default()
    };
    let consumer = stream.get_or_create_consumer(&name, wanted).await.unwrap();
    consumer.fetch().max_messages(1).messages().await.unwrap().count().await;
    let of_session = serde_json::json!({
        "stream_name": MQTT_MESSAGES,
        "config": {
            "durable_name": "session_1", "deliver_subject": "$MQTT.sub.x", "ack_policy": "explicit",
            "filter_subject": Subjects::mqtt_kept("chat.room.main.lobby.log")
        }
    });
    for (subject, ask) in [
        (format!("CONSUMER.RESET.{MQTT_MESSAGES}.{name}"), serde_json::json!({})),
        (format!("CONSUMER.DURABLE.CREATE.{MQTT_MESSAGES}.session_1"), of_session),
        (
            format!("CONSUMER.DELETE.{MQTT_MESSAGES}.session_1"),
            serde_json::json!({}),
        ),
    ] {
        let answer: serde_json::Value = jetstream.request(subject.clone(), &ask).await.unwrap();
        assert!(answer.get("error").is_none(), "{subject}: {answer}");
    }
    let copy = Subjects::mqtt_kept("chat.room.main.lobby.log");
    jetstream.publish(copy, "event".into()).await.unwrap().await.unwrap();
    stream
        .purge()
        .filter(subjects().mqtt_rooms_all())
        .keep(1)
        .await
        .unwrap();
}

#[tokio::test]
async fn store_fetches_what_devices_sent_and_keeps_events_for_them() {
    let home = Home::new().await;
    let server = home.start().await;
    let (devices, mut heard) = watched(&home, &server, "devices", KeyName::Devices).await;
    works_for_devices(&devices).await;
    let _requests = devices.subscribe(subjects().inbound_all()).await.unwrap();
    let _advice = devices.subscribe(Subjects::mqtt_consumer_advice()).await.unwrap();
    assert_eq!(refusals(&devices, &mut heard).await, Vec::<String>::new());

    server.shutdown().await;
}

#[tokio::test]
async fn store_does_nothing_else_in_the_account_of_the_devices() {
    let home = Home::new().await;
    let server = home.start().await;
    let (devices, mut heard) = watched(&home, &server, "devices", KeyName::Devices).await;
    let forbidden = [
        "chat.in.main.alice.lobby.msg",
        "chat.room.main.lobby.log",
        "chat.user.main.alice",
        "$MQTT.msgs.chat.in.main.alice.lobby.msg",
        "$MQTT.msgs.chat.room.main.lobby.now",
        "$MQTT.sess.x",
        "$JS.API.STREAM.DELETE.$MQTT_msgs",
        "$JS.API.STREAM.UPDATE.$MQTT_msgs",
        "$JS.API.STREAM.MSG.GET.$MQTT_msgs",
        "$JS.API.STREAM.CREATE.EVIL",
        "$JS.API.STREAM.DELETE.$MQTT_sess",
        "$JS.API.CONSUMER.MSG.NEXT.$MQTT_msgs.session_1",
        "$JS.ACK.$MQTT_msgs.session_1.1.1.1.1.0",
    ];
    for subject in forbidden {
        devices.publish(subject, "x".into()).await.unwrap();
    }
    assert_eq!(refusals(&devices, &mut heard).await.len(), forbidden.len());
    for subject in ["chat.room.>", "chat.user.>", "$MQTT.>", "$JS.>", "_INBOX.>", ">"] {
        let _subscription = devices.subscribe(subject).await.unwrap();
        assert_eq!(refusals(&devices, &mut heard).await.len(), 1, "{subject}");
    }
    server.shutdown().await;
}
