//! How a connection to the controller is made. Narrow, so that tests put an in-memory transport in its place and run the
//! stream itself as it ships.

use std::{future::Future, time::Duration};

use c4_tls::{ClientFiles, FileError};
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

/// The controller's address is no address.
#[derive(Debug, Error)]
#[error("{address:?} is not the address of a controller")]
pub struct BadAddress {
    address: String,
    source: tonic::transport::Error,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum DialError {
    /// A certificate, key or token cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The network, or the controller.
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
}

/// Makes connections to the controller.
pub trait Dial: Send + Sync + 'static {
    /// Makes one.
    fn dial(&self) -> impl Future<Output = Result<Channel, DialError>> + Send;
}

/// Connects over TCP.
#[derive(Clone, Debug)]
pub struct Tcp {
    endpoint: Endpoint,
    /// Read for each connection anew, so that a rotated certificate needs no restart.
    tls: Option<ClientFiles>,
}

impl Tcp {
    /// To the controller at `address`, such as `https://10.0.0.1:4400`.
    ///
    /// # Errors
    /// It is not an address.
    pub fn new(
        address: &str,
        tls: Option<ClientFiles>,
        connect_timeout: Duration,
    ) -> Result<Self, BadAddress> {
        let endpoint = Endpoint::from_shared(address.to_owned())
            .map_err(|source| BadAddress { address: address.to_owned(), source })?
            .connect_timeout(connect_timeout)
            // A controller whose machine is gone sends no FIN: ask it every ten seconds whether it is there.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        Ok(Self { endpoint, tls })
    }
}

impl Dial for Tcp {
    async fn dial(&self) -> Result<Channel, DialError> {
        let endpoint = match &self.tls {
            Some(files) => self.endpoint.clone().tls_config(files.load()?)?,
            None => self.endpoint.clone(),
        };
        Ok(endpoint.connect().await?)
    }
}
