//! A way to a server that breaks after so many requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Where the way begins. Dropped, it ends.
pub(crate) struct Cut {
    pub(crate) address: SocketAddr,
    broken: CancellationToken,
    _listening: AbortOnDropHandle<()>,
}

impl Cut {
    /// Passes on so many requests, over all connections; then it breaks each, and any new one.
    pub(crate) async fn after(requests: usize, server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (left, broken) = (Arc::new(AtomicUsize::new(requests)), CancellationToken::new());
        let all = broken.clone();
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let passing = pass_on(client, server.clone(), Arc::clone(&left), all.clone());
                tokio::spawn(all.clone().run_until_cancelled_owned(passing));
            }
        });
        Self {
            address,
            broken,
            _listening: AbortOnDropHandle::new(listening),
        }
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.is_cancelled()
    }
}

/// Until one of both ends it, or it breaks.
async fn pass_on(mut client: TcpStream, server: String, left: Arc<AtomicUsize>, broken: CancellationToken) {
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let requests = async {
        let mut request = vec![0; 1 << 16];
        while let Ok(length) = from_client.read(&mut request).await
            && length > 0
        {
            let one_less = |left: usize| left.checked_sub(1);
            if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_err() {
                return broken.cancel();
            }
            if to_server.write_all(&request[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        _ = copy(&mut from_server, &mut to_client) => {}
    }
}
