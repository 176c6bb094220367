//! A file system of its own under the server, in a file: a disk that can be full, and a machine that can lose its power.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;

const SIZE: &str = "4G";
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(100);
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: from now on nothing reaches the disk, as after a power cut.
const SHUTDOWN: &str = "import fcntl, os, sys\n\
    fd = os.open(sys.argv[1], os.O_RDONLY)\n\
    fcntl.ioctl(fd, 0x8004587D, (2).to_bytes(4, 'little'))\n";

/// An ext4 in a file, mounted. Dropping it unmounts it.
#[derive(Debug)]
pub(crate) struct Mount {
    image: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// Makes it in the file `image` and mounts it at `point`. Only root can.
    pub(crate) async fn make(image: PathBuf, point: PathBuf) -> anyhow::Result<Self> {
        let mount = Self { image, point };
        std::fs::create_dir_all(&mount.point)?;
        run("truncate", &["-s", SIZE, &text(&mount.image)]).await?;
        run("mkfs.ext4", &["-q", "-F", &text(&mount.image)]).await?;
        mount
            .mount()
            .await
            .context("faults of the disk need root, to mount a file system")?;
        Ok(mount)
    }

    async fn mount(&self) -> anyhow::Result<()> {
        run("mount", &["-o", "loop", &text(&self.image), &text(&self.point)]).await
    }

    /// From now on nothing reaches the disk.
    pub(crate) async fn cut_power(&self) -> anyhow::Result<()> {
        run("python3", &["-c", SHUTDOWN, &text(&self.point)]).await
    }

    /// What the disk holds after the power came back. Nobody may use it meanwhile.
    pub(crate) async fn remount(&self) -> anyhow::Result<()> {
        for _ in 0..TRIES {
            if run("umount", &[&text(&self.point)]).await.is_ok() {
                self.mount().await?;
                // Where the old one is still in use somewhere, it is the old one again.
                let probe = self.point.join("probe");
                std::fs::write(&probe, b"").with_context(|| format!("{} is not written to", self.point.display()))?;
                return Ok(std::fs::remove_file(&probe)?);
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("{} is still in use", self.point.display())
    }

    /// Takes all the room that is left.
    pub(crate) async fn fill(&self) -> anyhow::Result<()> {
        let ballast = text(&self.ballast());
        let point = text(&self.point);
        // What is free for everybody at once, and then what is kept for root. Both end when there is no room, which is what is wanted.
        let free = format!("fallocate -l $(df --output=avail -B1 '{point}' | tail -1) '{ballast}'");
        let _ = run("sh", &["-c", &free]).await;
        let _ = run("dd", &["if=/dev/zero", &format!("of={ballast}.2"), "bs=4k"]).await;
        Ok(())
    }

    /// Gives it back.
    pub(crate) fn make_room(&self) -> anyhow::Result<()> {
        for file in [self.ballast(), self.ballast().with_extension("2")] {
            if file.exists() {
                std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
            }
        }
        Ok(())
    }

    fn ballast(&self) -> PathBuf {
        self.point.join("ballast")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        for _ in 0..TRIES {
            let umount = std::process::Command::new("umount")
                .arg(&self.point)
                .stderr(Stdio::null())
                .status();
            if umount.is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        tracing::error!(point = %self.point.display(), "the file system is still in use and stays mounted");
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

async fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
