//! A TCP proxy that can be cut: what goes through it then stays where it is, as behind a firewall that drops packets.

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// See the module. It lasts as long as the program.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) address: String,
    open: Arc<watch::Sender<bool>>,
}

impl Proxy {
    pub(super) async fn to(target: String) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let open = Arc::new(watch::Sender::new(true));
        let gate = open.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (target, gate) = (target.clone(), gate.subscribe());
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                    tokio::select! {
                        () = carry(from_near, to_far, gate.clone()) => {}
                        () = carry(from_far, to_near, gate) => {}
                    }
                });
            }
        });
        Ok(Self { address, open })
    }

    pub(super) fn set(&self, open: bool) {
        self.open.send_replace(open);
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut gate: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 1 << 14];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if gate.wait_for(|open| *open).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
