use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Nemesis, Scene};

/// How long the server may go on over a full disk: until its frames do not fit any more.
const FULL_FOR: Duration = Duration::from_secs(3);

/// The server's disk is full. Healed by room, and by a new start of the server: a stream stays wedged until then.
#[derive(Default)]
pub(super) struct DiskFull {
    full: bool,
}

/// The power of the server's machine fails: everything that was not flushed is gone.
pub(super) struct PowerCut;

impl Nemesis for DiskFull {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            let mount = scene
                .mount
                .as_ref()
                .context("the server has no file system of its own")?;
            self.full = true;
            mount.fill().await?;
            tokio::time::sleep(FULL_FOR).await;
            Ok("nats-server's disk".to_owned())
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let Some(mount) = scene.mount.as_ref().filter(|_| self.full) else {
                return Ok(());
            };
            mount.make_room()?;
            let server = &scene.setting.house.server;
            server.down().await?;
            server.up().await
        }
        .boxed()
    }
}

impl Nemesis for PowerCut {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            let mount = scene
                .mount
                .as_ref()
                .context("the server has no file system of its own")?;
            mount.cut_power().await?;
            scene.setting.house.server.down().await?;
            mount.remount().await?;
            Ok("nats-server's machine".to_owned())
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async { scene.setting.house.server.up().await }.boxed()
    }
}
