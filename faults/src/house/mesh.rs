use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::Context;

use super::proxy::{Mode, Proxy};

/// How often a row of free ports is looked for.
const TRIES: usize = 50;

/// How the servers of a cluster reach each other: through a proxy for each direction of each pair, so that one can be cut off from the
/// others while its clients still reach it.
pub(crate) struct Mesh {
    /// Where the first server listens for the others; the second has the next port, and so on.
    listen: SocketAddr,
    nodes: usize,
    lines: Vec<Line>,
}

struct Line {
    /// Who connects by it; `None`: whoever hears from a third server where the other one is.
    from: Option<usize>,
    to: usize,
    proxy: Proxy,
}

impl Mesh {
    pub(crate) async fn lay(nodes: usize) -> anyhow::Result<Self> {
        let mut mesh = Self {
            listen: free_row(nodes)?,
            nodes,
            lines: Vec::new(),
        };
        for to in 0..nodes {
            let others = (0..nodes).filter(|from| *from != to).map(Some);
            for from in others.chain([None]) {
                let proxy = Proxy::start(IpAddr::V4(Ipv4Addr::LOCALHOST), mesh.address(to)).await?;
                mesh.lines.push(Line { from, to, proxy });
            }
        }
        Ok(mesh)
    }

    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Cuts a server off from all others: what is on its way is held back. Or brings it back.
    pub(crate) fn cut_off(&self, at: usize, is_off: bool) {
        let mode = if is_off { Mode::Hole } else { Mode::Pass };
        let its = self.lines.iter().filter(|line| line.from == Some(at) || line.to == at);
        its.for_each(|line| line.proxy.set(mode));
    }

    /// Writes for each server how its configuration has to be edited (`n1.sed`, …).
    pub(crate) fn write_edits(&self, dir: &Path) -> anyhow::Result<()> {
        for at in 0..self.nodes {
            let file = dir.join(format!("n{}.sed", at + 1));
            std::fs::write(&file, self.edits(at)).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    fn edits(&self, at: usize) -> String {
        let mut edits = String::new();
        // Writing to a String cannot fail.
        for line in &self.lines {
            let _ = match line.from {
                Some(from) if from == at => {
                    writeln!(edits, "s/@{}\"/@{}\"/", self.address(line.to), line.proxy.address())
                }
                None if line.to == at => {
                    let address = line.proxy.address();
                    writeln!(edits, "s/^cluster {{/cluster {{\\n  cluster_advertise: \"{address}\"/")
                }
                _ => Ok(()),
            };
        }
        edits
    }

    fn address(&self, at: usize) -> SocketAddr {
        let offset = u16::try_from(at).unwrap_or_default();
        SocketAddr::new(self.listen.ip(), self.listen.port() + offset)
    }
}

/// The first of so many free ports in a row.
fn free_row(length: usize) -> anyhow::Result<SocketAddr> {
    for _ in 0..TRIES {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = first.local_addr()?;
        let next = (1..length).map(|offset| {
            let port = address.port().checked_add(u16::try_from(offset).ok()?)?;
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
        });
        if next.collect::<Option<Vec<_>>>().is_some() {
            return Ok(address);
        }
    }
    anyhow::bail!("no {length} free ports in a row")
}
