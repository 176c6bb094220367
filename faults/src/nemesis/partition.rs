use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand::rngs::StdRng;

use super::kill::{Victim, names};
use super::{Nemesis, Scene};

/// A server hears nothing of the others, nor they of it; the clients of each still reach it.
pub(super) struct Partition {
    victim: Victim,
    rng: StdRng,
    servers: Vec<usize>,
}

impl Partition {
    pub(super) fn new(victim: Victim, rng: StdRng) -> Self {
        Self {
            victim,
            rng,
            servers: Vec::new(),
        }
    }

    fn cut_off(&self, scene: &Scene, is_off: bool) -> anyhow::Result<()> {
        let mesh = scene.setting.house.mesh.as_ref().context("there is one server only")?;
        self.servers.iter().for_each(|at| mesh.cut_off(*at, is_off));
        Ok(())
    }
}

impl Nemesis for Partition {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            self.servers = self.victim.servers(scene, &mut self.rng).await?;
            self.cut_off(scene, true)?;
            Ok(names(scene, &self.servers, &[]))
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async { self.cut_off(scene, false) }.boxed()
    }
}
