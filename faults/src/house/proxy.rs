use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What a dribbling line lets through at a time.
const DRIBBLE: usize = 512;
/// And how often.
const DRIBBLE_EVERY: Duration = Duration::from_millis(20);
const BUFFER: usize = 64 * 1024;

/// A TCP proxy between a worker and its server, or two servers: the network cable that a fault can pull.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    _task: AbortOnDropHandle<()>,
}

/// What the line does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Hands them on.
    Pass,
    /// Ends every connection, and each new one at once.
    Cut,
    /// Holds them back in both directions, and says nothing.
    Hole,
    /// Holds back what goes to the server.
    HoldUp,
    /// Holds back what comes from the server.
    HoldDown,
    /// Hands them on a few at a time.
    Dribble,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl Proxy {
    /// Listens on a free port of an address of this machine.
    pub(crate) async fn start(here: IpAddr, upstream: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((here, 0)).await?;
        let address = listener.local_addr()?;
        let (mode, told) = watch::channel(Mode::Pass);
        Ok(Self {
            address,
            mode,
            _task: AbortOnDropHandle::new(tokio::spawn(accept(listener, upstream, told))),
        })
    }

    /// Where to connect instead.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the worker connects.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Changes what it does, for the connections that are open too.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Mode {
    fn passes(self, direction: Direction) -> bool {
        match self {
            Self::Pass | Self::Dribble => true,
            Self::Cut | Self::Hole => false,
            Self::HoldUp => direction == Direction::Down,
            Self::HoldDown => direction == Direction::Up,
        }
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, mode: watch::Receiver<Mode>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(DRIBBLE_EVERY).await;
            continue;
        };
        tokio::spawn(carry(client, upstream, mode.clone()));
    }
}

/// One connection, until one side ends it or the line is cut; what is held back then is lost.
async fn carry(client: TcpStream, upstream: SocketAddr, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = pump(from_client, to_server, mode.clone(), Direction::Up) => {}
        _ = pump(from_server, to_client, mode.clone(), Direction::Down) => {}
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut mode: watch::Receiver<Mode>,
    direction: Direction,
) -> std::io::Result<()> {
    let mut buffer = BytesMut::with_capacity(BUFFER);
    loop {
        buffer.clear();
        buffer.reserve(BUFFER);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let mut rest = buffer.as_ref();
        while !rest.is_empty() {
            let now = match mode.wait_for(|mode| mode.passes(direction)).await {
                Ok(now) => *now,
                Err(_) => return Ok(()),
            };
            let (piece, later) = if now == Mode::Dribble {
                rest.split_at(rest.len().min(DRIBBLE))
            } else {
                (rest, &[][..])
            };
            to.write_all(piece).await?;
            rest = later;
            if now == Mode::Dribble {
                tokio::time::sleep(DRIBBLE_EVERY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    async fn line() -> (Proxy, TcpStream, TcpStream) {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = Proxy::start(Ipv4Addr::LOCALHOST.into(), server.local_addr().unwrap())
            .await
            .unwrap();
        let client = TcpStream::connect(proxy.address).await.unwrap();
        let (accepted, _) = server.accept().await.unwrap();
        (proxy, client, accepted)
    }

    async fn says(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) -> bool {
        from.write_all(text).await.unwrap();
        let mut got = vec![0; text.len()];
        let heard = tokio::time::timeout(Duration::from_millis(300), to.read_exact(&mut got)).await;
        heard.is_ok_and(|read| read.is_ok()) && got == text
    }

    #[tokio::test]
    async fn each_mode_does_what_it_says() {
        let (proxy, mut client, mut server) = line().await;
        assert!(says(&mut client, &mut server, b"up").await && says(&mut server, &mut client, b"down").await);
        proxy.set(Mode::HoldUp);
        assert!(!says(&mut client, &mut server, b"a").await && says(&mut server, &mut client, b"b").await);
        proxy.set(Mode::Pass);
        let mut late = [0];
        server.read_exact(&mut late).await.unwrap();
        assert_eq!(&late, b"a", "what was held back comes late");
        proxy.set(Mode::HoldDown);
        assert!(!says(&mut server, &mut client, b"c").await && says(&mut client, &mut server, b"d").await);
        proxy.set(Mode::Cut);
        let mut left = Vec::new();
        let _ = client.read_to_end(&mut left).await;
        assert!(
            left.is_empty(),
            "what is held back when the line is cut is lost: {left:?}"
        );
        proxy.set(Mode::Dribble);
        let mut again = TcpStream::connect(proxy.address).await.unwrap();
        again.write_all(b"x").await.unwrap();
    }
}
