//! HTTP/1.1 over ready connections. axum's own server has no time limit for a request's head, so that clients which
//! never finish one would stay for ever.

use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::Connection;

/// How long a client may take to say what it wants, and how long it may want nothing.
const REQUEST: Duration = Duration::from_secs(15);
/// Bytes of a request's head, and of what is read ahead.
const HEAD: usize = 32 << 10;

/// Serves `router` to each of `connections`, each in a task of its own on `tasks`, with the [`crate::Peer`] as an
/// extension. After `cancel` requests under way are finished, and no others begun.
pub async fn serve_pages(
    mut connections: mpsc::Receiver<Connection>,
    router: Router,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    while let Some(connection) = connections.recv().await {
        let router = router.clone().layer(Extension(connection.peer().clone()));
        let cancel = cancel.clone();
        tasks.spawn(async move {
            let serving = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST)
                .max_buf_size(HEAD)
                .serve_connection(TokioIo::new(connection), TowerToHyperService::new(router));
            tokio::pin!(serving);
            tokio::select! {
                // A client that breaks off, or takes too long, is its own affair.
                _ = &mut serving => {}
                () = cancel.cancelled() => {
                    serving.as_mut().graceful_shutdown();
                    let _ = serving.await;
                }
            }
        });
    }
}
