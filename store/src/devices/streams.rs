use async_nats::Client;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{self, Context};
use natterjack_nats_config::contract::{MQTT_MESSAGES, MQTT_SESSIONS, Subjects};
use tokio::time::{Duration, sleep};

use super::DevicesConfig;

/// How long a request may be at work before the server hands it out again: far longer than the writer takes.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// The most requests at work: a bundle, and the next one.
const MAX_AT_WORK: i64 = 512;
/// Waiting between attempts to make the streams.
const RETRY: Duration = Duration::from_millis(500);

/// Makes what is missing, for as long as NATS needs to answer.
///
/// nats-server makes these streams itself when the first MQTT client connects. It would keep nothing of that client's first
/// messages, because nobody would want them yet: so they are made before, as the server makes them.
pub(super) async fn prepare(client: &Client, config: &DevicesConfig) {
    loop {
        let reason = match make(client, config).await {
            Ok(()) => return,
            Err(reason) => reason,
        };
        tracing::warn!(reason, "what MQTT devices need cannot be made yet, trying again");
        sleep(RETRY).await;
    }
}

/// The stream of the devices' messages.
pub(super) async fn messages(client: &Client) -> Result<Stream, String> {
    messages_of(&jetstream::new(client.clone())).await
}

/// The same, for who has the account's `JetStream` in hand.
pub(super) async fn messages_of(jetstream: &Context) -> Result<Stream, String> {
    jetstream
        .get_stream(MQTT_MESSAGES)
        .await
        .map_err(|error| error.to_string())
}

/// The consumer by which the devices' requests are kept and read.
pub(super) async fn requests(stream: &Stream, subjects: &Subjects) -> Result<PullConsumer, String> {
    let name = subjects.devices_consumer();
    let wanted = pull::Config {
        name: Some(name.clone()),
        durable_name: Some(name.clone()),
        description: Some("Natterjack: requests of MQTT devices on their way to the writer".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: MAX_AT_WORK,
        filter_subject: Subjects::mqtt_kept(&subjects.inbound_all()),
        ..pull::Config::default()
    };
    stream
        .get_or_create_consumer(&name, wanted)
        .await
        .map_err(|error| error.to_string())
}

async fn make(client: &Client, config: &DevicesConfig) -> Result<(), String> {
    let jetstream = jetstream::new(client.clone());
    for wanted in [messages_config(config.replicas), sessions_config(config.replicas)] {
        make_stream(&jetstream, wanted).await?;
    }
    requests(&messages(client).await?, &config.log.subjects).await?;
    Ok(())
}

async fn make_stream(jetstream: &Context, wanted: Config) -> Result<(), String> {
    let name = wanted.name.clone();
    match jetstream.get_stream(&name).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => jetstream
            .create_stream(wanted)
            .await
            .map(|_| ())
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// As nats-server makes it (`mqttCreateAccountSessionManager`).
fn messages_config(replicas: usize) -> Config {
    Config {
        name: MQTT_MESSAGES.to_owned(),
        subjects: vec![Subjects::mqtt_kept(">")],
        retention: RetentionPolicy::Interest,
        storage: StorageType::File,
        num_replicas: replicas,
        ..Config::default()
    }
}

/// As nats-server makes it.
fn sessions_config(replicas: usize) -> Config {
    Config {
        name: MQTT_SESSIONS.to_owned(),
        subjects: vec![Subjects::mqtt_sessions_all()],
        storage: StorageType::File,
        max_messages_per_subject: 1,
        num_replicas: replicas,
        ..Config::default()
    }
}

fn is_not_found(error: &jetstream::context::GetStreamError) -> bool {
    use jetstream::context::GetStreamErrorKind;
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND)
}
