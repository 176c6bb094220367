use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand::rngs::StdRng;

use super::kill::{Victim, names};
use super::{Nemesis, Scene};

/// A worker's network cable is pulled: packets are lost, no connection is ended.
pub(super) struct Unplug {
    victim: Victim,
    rng: StdRng,
    names: Vec<String>,
}

impl Unplug {
    pub(super) fn new(victim: Victim, rng: StdRng) -> Self {
        Self {
            victim,
            rng,
            names: Vec::new(),
        }
    }
}

impl Nemesis for Unplug {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            let workers = self.victim.workers(scene, &mut self.rng).await?;
            for worker in &workers {
                self.names.push(worker.name.clone());
                worker.cable.as_ref().context("it has no cable")?.unplug().await?;
            }
            Ok(names(scene, &[], &workers))
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let workers = scene.setting.house.workers.iter();
            let hit = workers.filter(|worker| self.names.contains(&worker.name));
            for cable in hit.filter_map(|worker| worker.cable.as_ref()) {
                cable.plug().await?;
            }
            Ok(())
        }
        .boxed()
    }
}
