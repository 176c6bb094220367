use std::time::Duration;

use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Packet, QoS, SubscribeReasonCode};
use tokio::task::JoinHandle;

use super::DEADLINE;
use super::mailbox::{Delivery, Mailbox};

const RECONNECT_AFTER: Duration = Duration::from_millis(50);

/// A user or device that speaks MQTT 3.1.1, by rumqttc. It reconnects by itself and then subscribes again.
pub(crate) struct Mqtt {
    pub(crate) client: AsyncClient,
    pub(crate) mail: Mailbox<Delivery>,
    /// What happened: `connected`, `disconnected`, `granted`, `refused` (one for each filter), `acknowledged`.
    pub(crate) happened: Mailbox<String>,
    filters: Mailbox<String>,
    task: JoinHandle<()>,
}

impl Mqtt {
    /// Signs in; the error is what the server answered.
    pub(crate) async fn connect(url: &str, client_id: &str, user: &str, token: &str) -> Result<Self, ConnectionError> {
        Self::session(url, client_id, (user, token), true).await
    }

    /// Signs in with a session that ends with its connection (`clean`), or outlives it.
    pub(crate) async fn session(
        url: &str,
        client_id: &str,
        (user, token): (&str, &str),
        clean: bool,
    ) -> Result<Self, ConnectionError> {
        let (host, port) = url
            .strip_prefix("mqtt://")
            .expect("plain MQTT")
            .rsplit_once(':')
            .unwrap();
        let mut options = MqttOptions::new(client_id, host, port.parse().unwrap());
        options
            .set_credentials(user, token)
            .set_keep_alive(Duration::from_secs(20))
            .set_clean_session(clean);
        options.set_max_packet_size(2 << 20, 2 << 20);
        let (client, mut events) = AsyncClient::new(options, 100);
        tokio::time::timeout(DEADLINE, async {
            while !matches!(events.poll().await?, Event::Incoming(Packet::ConnAck(_))) {}
            Ok::<(), ConnectionError>(())
        })
        .await
        .expect("an answer to CONNECT")?;
        let (mail, happened, filters) = (Mailbox::new(), Mailbox::new(), Mailbox::new());
        happened.put("connected".to_owned());
        let loop_of = Loop {
            events,
            client: client.clone(),
            mail: mail.clone(),
            happened: happened.clone(),
            filters: filters.clone(),
        };
        Ok(Self {
            client,
            mail,
            happened,
            filters,
            task: tokio::spawn(loop_of.run()),
        })
    }

    /// Subscribes and waits for the server's answer: `true` if it was granted.
    pub(crate) async fn subscribe(&self, filter: &str) -> bool {
        let before = self.answers();
        self.filters.put(filter.to_owned());
        self.client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        let granted = |line: &&String| matches!(line.as_str(), "granted" | "refused");
        let what = format!("an answer to SUBSCRIBE {filter}");
        self.happened
            .wait(&what, |all| {
                all.iter().filter(granted).nth(before).map(|line| line == "granted")
            })
            .await
    }

    fn answers(&self) -> usize {
        self.happened
            .all()
            .iter()
            .filter(|line| matches!(line.as_str(), "granted" | "refused"))
            .count()
    }

    /// Publishes with `QoS` 1 and waits until the server has acknowledged it (which says nothing of what became of it).
    pub(crate) async fn publish(&self, topic: &str, payload: &str) {
        let acknowledged = |all: &[String]| all.iter().filter(|line| *line == "acknowledged").count();
        let before = acknowledged(&self.happened.all());
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .await
            .unwrap();
        self.happened
            .wait("PUBACK", |all| (acknowledged(all) > before).then_some(()))
            .await;
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Loop {
    events: EventLoop,
    client: AsyncClient,
    mail: Mailbox<Delivery>,
    happened: Mailbox<String>,
    filters: Mailbox<String>,
}

impl Loop {
    async fn run(mut self) {
        loop {
            match self.events.poll().await {
                Ok(Event::Incoming(packet)) => self.take(packet),
                Ok(Event::Outgoing(_)) => {}
                Err(error) => {
                    self.happened.put(format!("disconnected: {error}"));
                    tokio::time::sleep(RECONNECT_AFTER).await;
                }
            }
        }
    }

    fn take(&self, packet: Packet) {
        match packet {
            Packet::Publish(message) => {
                let mut delivery = Delivery::new(&message.topic, message.payload);
                let qos = (message.qos as u8).to_string();
                delivery.headers.insert("qos".to_owned(), qos);
                self.mail.put(delivery);
            }
            Packet::PubAck(_) => self.happened.put("acknowledged".to_owned()),
            Packet::SubAck(answer) => {
                for code in answer.return_codes {
                    let granted = matches!(code, SubscribeReasonCode::Success(_));
                    self.happened
                        .put(if granted { "granted" } else { "refused" }.to_owned());
                }
            }
            Packet::ConnAck(_) => {
                self.happened.put("connected".to_owned());
                for filter in self.filters.all() {
                    self.client.try_subscribe(filter, QoS::AtLeastOnce).unwrap();
                }
            }
            _ => {}
        }
    }
}
