use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join_all};
use rand::rngs::StdRng;

use super::kill::{Victim, names};
use super::{Nemesis, Scene};
use crate::mount::Mount;

/// How long a server may go on over a full disk: until its frames do not fit any more.
const FULL_FOR: Duration = Duration::from_secs(3);

/// A server's disk is full. Healed by room, and by a new start of the server: a stream stays wedged until then.
pub(super) struct DiskFull {
    rng: StdRng,
    servers: Vec<usize>,
}

/// The power of a server's machine fails, or of all of them at once: everything that was not flushed is gone.
pub(super) struct PowerCut {
    victim: Victim,
    rng: StdRng,
    servers: Vec<usize>,
}

impl DiskFull {
    pub(super) fn new(rng: StdRng) -> Self {
        Self {
            rng,
            servers: Vec::new(),
        }
    }
}

impl PowerCut {
    pub(super) fn new(victim: Victim, rng: StdRng) -> Self {
        Self {
            victim,
            rng,
            servers: Vec::new(),
        }
    }
}

fn disk(scene: &Scene, at: usize) -> anyhow::Result<&Mount> {
    scene.mounts.get(at).context("the server has no file system of its own")
}

impl Nemesis for DiskFull {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            self.servers = Victim::Server.servers(scene, &mut self.rng).await?;
            for at in &self.servers {
                disk(scene, *at)?.fill().await?;
            }
            tokio::time::sleep(FULL_FOR).await;
            Ok(names(scene, &self.servers, &[]))
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let servers = &scene.setting.house.servers;
            for at in &self.servers {
                disk(scene, *at)?.make_room()?;
                servers.down(*at).await?;
                servers.up(*at).await?;
            }
            Ok(())
        }
        .boxed()
    }
}

impl Nemesis for PowerCut {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            self.servers = self.victim.servers(scene, &mut self.rng).await?;
            let servers = &scene.setting.house.servers;
            let disks: Vec<&Mount> = self.servers.iter().filter_map(|at| scene.mounts.get(*at)).collect();
            anyhow::ensure!(
                disks.len() == self.servers.len(),
                "a server has no file system of its own"
            );
            try_join_all(disks.iter().map(|disk| disk.cut_power())).await?;
            try_join_all(self.servers.iter().map(|at| servers.down(*at))).await?;
            for disk in disks {
                disk.remount().await?;
            }
            Ok(names(scene, &self.servers, &[]))
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let servers = &scene.setting.house.servers;
            try_join_all(self.servers.iter().map(|at| servers.up(*at))).await?;
            Ok(())
        }
        .boxed()
    }
}
