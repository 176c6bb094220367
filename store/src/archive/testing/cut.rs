//! A way to a server that breaks after so many requests.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Where the way begins. Dropped, it ends.
pub(crate) struct Cut {
    pub(crate) address: SocketAddr,
    left: watch::Receiver<usize>,
    _listening: AbortOnDropHandle<()>,
}

impl Cut {
    /// Passes on so many requests, over all connections; then it breaks each, and any new one.
    pub(crate) async fn after(requests: usize, server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (count, left) = watch::channel(requests);
        let listening = tokio::spawn(async move {
            let broken = CancellationToken::new();
            while let Ok((client, _)) = listener.accept().await {
                let (broken, count, server) = (broken.clone(), count.clone(), server.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = pass_on(client, server, &count) => broken.cancel(),
                        () = broken.cancelled() => {}
                    }
                });
            }
        });
        Self {
            address,
            left,
            _listening: AbortOnDropHandle::new(listening),
        }
    }

    pub(crate) fn is_broken(&self) -> bool {
        *self.left.borrow() == 0
    }
}

/// Returns at the break. A connection that its client ends waits for that too.
async fn pass_on(mut client: TcpStream, server: String, left: &watch::Sender<usize>) {
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let requests = async {
        let mut request = vec![0; 1 << 16];
        while let Ok(length) = from_client.read(&mut request).await
            && length > 0
        {
            let mut goes_on = false;
            left.send_modify(|left| {
                goes_on = *left > 0;
                *left = left.saturating_sub(1);
            });
            if !goes_on {
                return;
            }
            if to_server.write_all(&request[..length]).await.is_err() {
                break;
            }
        }
        let _ = to_server.shutdown().await;
        let mut left = left.subscribe();
        let _ = left.wait_for(|left| *left == 0).await;
    };
    let answers = async {
        let _ = copy(&mut from_server, &mut to_client).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = requests => {}
        () = answers => {}
    }
}
