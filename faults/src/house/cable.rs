use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;

use anyhow::Context;
use tokio::process::Command;

/// A network namespace of its own for a worker, and a cable (a veth pair) to it that can be unplugged: unlike a proxy it
/// ends no connection, packets are just gone. Only root can make one.
#[derive(Debug)]
pub(crate) struct Cable {
    namespace: String,
    here: String,
    number: u8,
}

impl Cable {
    /// Makes a namespace and its cable; `index` is one that no other cable of this run has, less than 8.
    pub(crate) async fn lay(index: usize) -> anyhow::Result<Self> {
        // Other runs on this machine have, most likely, other numbers.
        let number = u8::try_from(std::process::id() as usize % 32 * 8 + index % 8)?;
        let cable = Self {
            namespace: format!("njf{}-{number}", std::process::id()),
            here: format!("njf{}h{number}", std::process::id() % 100_000),
            number,
        };
        let (namespace, here) = (cable.namespace.as_str(), cable.here.as_str());
        let there = format!("{here}t");
        let (own, its) = (format!("{}/30", cable.address(1)), format!("{}/30", cable.address(2)));
        let steps: [&[&str]; 6] = [
            &["netns", "add", namespace],
            &["link", "add", here, "type", "veth", "peer", "name", &there],
            &["link", "set", &there, "netns", namespace],
            &["addr", "add", &own, "dev", here],
            &["-n", namespace, "addr", "add", &its, "dev", &there],
            &["-n", namespace, "link", "set", "lo", "up"],
        ];
        for step in steps {
            ip(step).await?;
        }
        ip(&["-n", namespace, "link", "set", &there, "up"]).await?;
        cable.plug().await?;
        Ok(cable)
    }

    /// This machine's end.
    pub(crate) fn address_here(&self) -> IpAddr {
        self.address(1).into()
    }

    fn address(&self, end: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, end)
    }

    /// What starts a program at the other end. (`ip netns exec` would give it mounts of its own: what this machine unmounts
    /// stays mounted there, and a disk whose power was cut would never come back.)
    pub(crate) fn prefix(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net=/run/netns/{}", self.namespace)]
    }

    pub(crate) async fn plug(&self) -> anyhow::Result<()> {
        ip(&["link", "set", &self.here, "up"]).await
    }

    pub(crate) async fn unplug(&self) -> anyhow::Result<()> {
        ip(&["link", "set", &self.here, "down"]).await
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // The cable goes with its namespace.
        let removed = std::process::Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .stderr(Stdio::null())
            .status();
        if !removed.is_ok_and(|status| status.success()) {
            tracing::error!(namespace = self.namespace, "a network namespace stays behind");
        }
    }
}

async fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run ip (Debian: apt install iproute2)")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("ip {}: {}", arguments.join(" "), reason.trim());
    }
    Ok(())
}
