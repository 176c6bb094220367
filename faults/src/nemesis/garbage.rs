use std::net::SocketAddr;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use natterjack_nats_config::contract::Kind as EventKind;
use rand::rngs::StdRng;
use rand::{Rng, RngCore};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::{Nemesis, Scene, stall};
use crate::client::{connect_user, inbound};

const EVERY: Duration = Duration::from_millis(5);
const LARGEST: usize = 4096;

/// Senders of what nobody can use: bytes at every door, and requests that are none.
pub(super) struct Garbage {
    rng: StdRng,
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl Garbage {
    pub(super) fn new(rng: StdRng) -> Self {
        Self { rng, tasks: Vec::new() }
    }

    async fn begin(&mut self, scene: &Scene) -> anyhow::Result<()> {
        let house = &scene.setting.house;
        let servers = house.servers.addresses().into_iter();
        let doors: Vec<SocketAddr> = servers.flat_map(|(nats, mqtt)| [nats, mqtt]).collect();
        for door in doors.into_iter().chain(house.bridges.iter().copied()) {
            let rng = self.fork();
            self.tasks.push(AbortOnDropHandle::new(tokio::spawn(raw(door, rng))));
        }
        let (client, _) = connect_user(house, stall::USER).await?;
        let rooms = scene.setting.rooms.iter();
        let subjects: Vec<String> = rooms
            .flat_map(|room| [EventKind::Msg, EventKind::Member, EventKind::Room].map(|kind| (room, kind)))
            .filter_map(|(room, kind)| inbound(stall::USER, room, kind))
            .collect();
        let rng = self.fork();
        self.tasks
            .push(AbortOnDropHandle::new(tokio::spawn(requests(client, subjects, rng))));
        Ok(())
    }

    fn fork(&mut self) -> StdRng {
        use rand::SeedableRng;
        StdRng::seed_from_u64(self.rng.random())
    }
}

impl Nemesis for Garbage {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            self.begin(scene).await?;
            Ok("every door".to_owned())
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, _: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            self.tasks.clear();
            Ok(())
        }
        .boxed()
    }
}

async fn raw(door: SocketAddr, mut rng: StdRng) {
    let mut bytes = vec![0; LARGEST];
    loop {
        if let Ok(mut line) = TcpStream::connect(door).await {
            rng.fill_bytes(&mut bytes);
            let _ = line.write_all(&bytes).await;
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Requests of the right subject and the wrong content: JSON with fields that nobody knows, which is refused.
async fn requests(client: async_nats::Client, subjects: Vec<String>, mut rng: StdRng) {
    loop {
        for subject in &subjects {
            let junk = format!(r#"{{"body":{{}},"junk":{}}}"#, rng.random::<u64>());
            let _ = client.publish(subject.clone(), junk.into()).await;
        }
        tokio::time::sleep(EVERY).await;
    }
}
