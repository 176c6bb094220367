use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join_all};
use rand::Rng;
use rand::rngs::StdRng;
use rustix::process::Signal;

use super::{Nemesis, Scene};
use crate::house::{Role, Worker, send_signal};

const SERVER_WITHIN: Duration = Duration::from_mins(1);
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// How long a rolling restart waits for the bridges to be ready again.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// Who is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    /// A nats-server.
    Server,
    /// The nats-server that leads the log's stream.
    Leader,
    /// All of them.
    Servers,
    /// The store that writes.
    Writer,
    /// The other store.
    Standby,
    One(Role),
    Both(Role),
    All,
}

/// `kill -9`; healed by a new start.
pub(super) struct Kill {
    victim: Victim,
    rng: StdRng,
    names: Vec<String>,
    servers: Vec<usize>,
}

/// SIGSTOP; healed by SIGCONT.
pub(super) struct Stop {
    victim: Victim,
    rng: StdRng,
    pids: Vec<u32>,
}

/// SIGTERM, as a rolling restart does.
pub(super) struct Term {
    each: bool,
}

impl Victim {
    /// The places of the servers that are hit.
    pub(super) async fn servers(self, scene: &Scene, rng: &mut StdRng) -> anyhow::Result<Vec<usize>> {
        let count = scene.setting.house.servers.count();
        Ok(match self {
            Self::Server => vec![rng.random_range(0..count.max(1))],
            Self::Leader => vec![scene.leader().await?],
            Self::Servers | Self::All => (0..count).collect(),
            Self::Writer | Self::Standby | Self::One(_) | Self::Both(_) => Vec::new(),
        })
    }

    /// The workers that are hit.
    pub(super) async fn workers<'a>(self, scene: &'a Scene, rng: &mut StdRng) -> anyhow::Result<Vec<&'a Worker>> {
        let house = &scene.setting.house;
        Ok(match self {
            Self::Server | Self::Leader | Self::Servers => Vec::new(),
            Self::Writer => vec![scene.writer().await?],
            Self::Standby => {
                let writer = scene.writer().await?.name.clone();
                let mut stores = house.of_role(Role::Store);
                stores.retain(|store| store.name != writer);
                stores
            }
            Self::One(role) => {
                let mut all = house.of_role(role);
                let at = rng.random_range(0..all.len().max(1));
                all.drain(..).skip(at).take(1).collect()
            }
            Self::Both(role) => house.of_role(role),
            Self::All => house.workers.iter().collect(),
        })
    }
}

/// For people.
pub(super) fn names(scene: &Scene, servers: &[usize], workers: &[&Worker]) -> String {
    let servers = servers.iter().map(|at| scene.setting.house.servers.name(*at));
    let workers = workers.iter().map(|worker| worker.name.clone());
    servers.chain(workers).collect::<Vec<_>>().join(" ")
}

impl Kill {
    pub(super) fn new(victim: Victim, rng: StdRng) -> Self {
        Self {
            victim,
            rng,
            names: Vec::new(),
            servers: Vec::new(),
        }
    }
}

impl Nemesis for Kill {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            let workers = self.victim.workers(scene, &mut self.rng).await?;
            for worker in &workers {
                worker.hold();
                worker.signal(Signal::KILL);
                self.names.push(worker.name.clone());
            }
            self.servers = self.victim.servers(scene, &mut self.rng).await?;
            let servers = &scene.setting.house.servers;
            try_join_all(self.servers.iter().map(|at| servers.down(*at))).await?;
            Ok(names(scene, &self.servers, &workers))
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let servers = &scene.setting.house.servers;
            try_join_all(self.servers.iter().map(|at| servers.up(*at))).await?;
            let all = scene.setting.house.workers.iter();
            all.filter(|worker| self.names.contains(&worker.name))
                .for_each(Worker::release);
            Ok(())
        }
        .boxed()
    }
}

impl Stop {
    pub(super) fn new(victim: Victim, rng: StdRng) -> Self {
        Self {
            victim,
            rng,
            pids: Vec::new(),
        }
    }
}

impl Nemesis for Stop {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            let workers = self.victim.workers(scene, &mut self.rng).await?;
            self.pids = workers.iter().filter_map(|worker| worker.pid()).collect();
            let servers = self.victim.servers(scene, &mut self.rng).await?;
            for at in &servers {
                self.pids
                    .push(scene.setting.house.servers.pid(*at, SERVER_WITHIN).await?);
            }
            for pid in &self.pids {
                send_signal(*pid, Signal::STOP);
            }
            Ok(names(scene, &servers, &workers))
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, _: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            for pid in &self.pids {
                send_signal(*pid, Signal::CONT);
            }
            Ok(())
        }
        .boxed()
    }
}

impl Term {
    pub(super) fn writer() -> Self {
        Self { each: false }
    }

    pub(super) fn each() -> Self {
        Self { each: true }
    }
}

impl Nemesis for Term {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            if !self.each {
                let writer = scene.writer().await?;
                restart(writer, scene).await?;
                return Ok(writer.name.clone());
            }
            let all: Vec<&Worker> = scene.setting.house.workers.iter().collect();
            for worker in &all {
                restart(worker, scene).await?;
            }
            Ok(names(scene, &[], &all))
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, _: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async { Ok(()) }.boxed()
    }
}

/// Asks a worker to end, and waits until its successor is there and all is ready, as `docs/cluster.md` has it.
pub(super) async fn restart(worker: &Worker, scene: &Scene) -> anyhow::Result<()> {
    let house = &scene.setting.house;
    let before = house.standbys(&scene.look).await.unwrap_or_default();
    worker.hold();
    worker.signal(Signal::TERM);
    let ended = worker.gone(ENDS_WITHIN).await;
    if ended.is_err() {
        worker.signal(Signal::KILL);
    }
    worker.release();
    ended.context("SIGTERM is not obeyed")?;
    house.ready(READY_WITHIN).await?;
    if worker.role == Role::Store {
        house.stands_by(&scene.look, (worker, &before), READY_WITHIN).await?;
    }
    Ok(())
}
