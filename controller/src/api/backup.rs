//! Everything that must not be forgotten, to keep elsewhere. For administrators: there are names of users and jobs in it.

use std::{pin::Pin, sync::Arc};

use c4_proto::v1::{self, backups_server::Backups};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::{
    clock::Clock,
    store::{Store, backup},
};

/// Bytes in a message.
const PART: usize = 64 << 10;

/// The service.
pub struct BackupService {
    store: Arc<dyn Store>,
    clock: Clock,
}

impl BackupService {
    /// A service that reads `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Clock) -> Self {
        Self { store, clock }
    }
}

#[tonic::async_trait]
impl Backups for BackupService {
    type GetBackupStream = Pin<Box<dyn Stream<Item = Result<v1::BackupPart, Status>> + Send>>;

    async fn get_backup(
        &self,
        _: Request<v1::GetBackupRequest>,
    ) -> Result<Response<Self::GetBackupStream>, Status> {
        let (store, now) = (self.store.clone(), self.clock.now());
        let read = move || store.everything().map(|tables| backup::write(&tables, now));
        let read =
            tokio::task::spawn_blocking(read).await.map_err(|error| Status::internal(error.to_string()))?;
        let bytes = read.map_err(|error| Status::unavailable(format!("the store: {error}")))?;
        let parts: Vec<_> =
            bytes.chunks(PART).map(|part| Ok(v1::BackupPart { bytes: part.to_vec() })).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }
}
